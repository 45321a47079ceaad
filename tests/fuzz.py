"""Broken files for the readers of what strangers send: `python -m tests.fuzz TARGET [SECONDS] [SEED]`.

Real files are damaged in ways that get far: bytes, lengths and counts changed, parts cut, doubled or swapped, checksums
put right again. Whatever comes must be read, or refused with one of our errors within seconds, in the memory that the
picture itself takes. What is not is kept as `fuzz-TARGET-SEED.bin`. SECONDS are the processor's, not the clock's.
"""

import contextlib
import io
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from irn_cli.errors import IrnError
from irn_cli.image import peek, read, write
from irn_cli.latent import KeptOriginal, Latent, read_latent, write_latent
from irn_cli.model import IRN, IRNConfig
from irn_cli.picture import Picture
from irn_cli.record import Record, hash_pixels
from irn_cli.weights import load_model, read_info, save_model
from tests.helpers import photo_like

SLOWEST = 5  # seconds of the processor for one file
STUCK = 120  # seconds by the clock, on whatever busy machine
MOST = 400 << 20  # bytes of memory that all of them together may add
PIXELS = 1 << 20  # the largest picture that is decoded

Target = tuple[list[bytes], Callable[[bytes], object]]  # seeds, and what reads them


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A file with a few things changed."""
    new = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        place, size = draw.randrange(max(len(new), 1)), draw.choice([1, 2, 4, 8, 64, 1024])
        match draw.randrange(7):
            case 0:
                new[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                new[place : place + 1] = bytes([(*new[place : place + 1], 0)[0] ^ 1 << draw.randrange(8)])
            case 2:  # a length or count
                value = draw.choice([0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, draw.randrange(1 << 32)])
                new[place : place + 4] = struct.pack(draw.choice("<>") + "I", value)
            case 3:
                del new[place : place + size]
            case 4:
                new[place:place] = new[place : place + size]
            case 5:
                other = draw.randrange(max(len(new), 1))
                new[place : place + size] = new[other : other + size]
            case 6:
                new[place:place] = draw.randbytes(size)
    return bytes(new)


def damaged_png(data: bytes, draw: random.Random) -> bytes:
    """A PNG with its chunks changed, moved, doubled or dropped; mostly with the right checksums."""
    chunks, place = [], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    for _ in range(draw.choice([1, 1, 2, 4])):
        index = draw.randrange(len(chunks))
        kind, content = chunks[index]
        match draw.randrange(5):
            case 0 | 1:
                chunks[index] = kind, damaged(content, draw)
            case 2:
                chunks.insert(draw.randrange(len(chunks)), chunks[index])
            case 3 if kind != b"IHDR" and len(chunks) > 2:
                del chunks[index]
            case _ if kind in (b"zTXt", b"iCCP"):  # behind a name and a zero byte for the method
                begin, _, end = content.partition(b"\0\0")
                with contextlib.suppress(zlib.error):
                    chunks[index] = kind, begin + b"\0\0" + zlib.compress(damaged(zlib.decompress(end), draw))
    whole = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return data[:8] + whole


def photo() -> np.ndarray:
    y, x = np.mgrid[:24, :36]
    return np.stack([x * 7, y * 10, (x * y) % 256], 2).astype(np.uint8)


def small_picture() -> Picture:
    pixels = photo()
    record = Record(
        4, width=143, height=95, mode="RGB", model="m", revision="1", weights="0" * 64, pixels=hash_pixels(pixels)
    )
    alpha = np.random.default_rng(0).integers(0, 256, (95, 143), dtype=np.uint8)
    return Picture(pixels, pixels[..., 0], record=record, full_alpha=alpha, dpi=(72.0, 72.0))


def pictures() -> Target:
    seeds = []
    rich = PngImagePlugin.PngInfo()
    rich.add_text("Comment", "a" * 50, zip=True)
    rich.add_itxt("Title", "b", lang="de", zip=True)
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "Ada"
    exif.get_ifd(0x8769)[0xA434] = "Lens"
    exif.get_ifd(0x8825)[1] = "N"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    image = Image.fromarray(photo())
    beside = {"exif": exif, "xmp": xmp}
    for kind, other in [
        ("PNG", {"exif": exif, "pnginfo": rich}),
        ("JPEG", {**beside, "comment": b"c"}),
        ("WEBP", {**beside, "lossless": True}),
        ("WEBP", {}),
        ("TIFF", {"exif": exif}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("AVIF", beside),
        ("BMP", {}),
        ("GIF", {"comment": b"c"}),
    ]:
        for converted in (image, image.convert("L"), image.quantize(8)):
            if converted.mode == "P" and kind in ("JPEG", "AVIF", "WEBP"):
                continue
            stream = io.BytesIO()
            converted.save(stream, kind, **other)
            seeds.append(stream.getvalue())
    stream = io.BytesIO()
    Image.fromarray(photo()).convert("CMYK").save(stream, "JPEG")
    seeds.append(stream.getvalue())
    return seeds, lambda data: read(io.BytesIO(data), max_pixels=PIXELS)


def records() -> Target:
    seeds = []
    with tempfile.TemporaryDirectory() as directory:
        for name in ("a.png", "a.webp", "a.tif"):
            write(Path(directory) / name, small_picture())
            seeds.append((Path(directory) / name).read_bytes())

    def both(data: bytes) -> None:
        peek(io.BytesIO(data))
        read(io.BytesIO(data), max_pixels=PIXELS)

    return seeds, both


def _in_a_file(suffix: str, reader: Callable[[Path], object]) -> Callable[[bytes], object]:
    path = Path(tempfile.mkdtemp()) / f"a{suffix}"

    def from_bytes(data: bytes) -> object:
        path.unlink(missing_ok=True)  # the last one may still be mapped
        path.write_bytes(data)
        return reader(path)

    return from_bytes


def latents() -> Target:
    path = Path(tempfile.mkdtemp()) / "a"
    latent = Latent(np.zeros((3, 4, 45), np.float16), np.zeros((3, 4, 3), np.float16), "a" * 64, "b" * 64)
    write_latent(path, latent)
    seeds = [path.read_bytes()]
    write_latent(path, KeptOriginal(photo_like(9, 12), "a" * 64), overwrite=True)
    return [*seeds, path.read_bytes()], _in_a_file(".latent.safetensors", partial(read_latent, max_pixels=PIXELS))


def _network() -> IRN:
    return IRN(IRNConfig(blocks=(1,), growth=4))


def weights() -> Target:
    path = Path(tempfile.mkdtemp()) / "a"
    save_model(path, _network(), notes={"recipe": "r"})
    whole = path.read_bytes()
    header = whole[: 8 + struct.unpack("<Q", whole[:8])[0]]

    def both(path: Path) -> None:
        try:
            read_info(path)
        finally:
            load_model(path)

    return [whole, header], _in_a_file(".safetensors", both)


def checkpoints() -> Target:
    seeds = []
    for content in (_network().state_dict(), {"params": _network().state_dict()}, {"a": torch.zeros(3)}):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            seeds.append(stream.getvalue())
    return seeds, _in_a_file(".pth", load_model)


TARGETS = {"pictures": pictures, "records": records, "latents": latents, "weights": weights, "checkpoints": checkpoints}


def main(name: str, seconds: str = "20", seed: str = "0") -> int:
    draw = random.Random(int(seed))
    seeds, reader = TARGETS[name]()
    warnings.simplefilter("ignore")
    before, begin, counts = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), [0, 0]
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, lambda *_: (_ for _ in ()).throw(TimeoutError("hangs")))
    kept = Path(f"fuzz-{name}-{seed}.bin")
    while time.process_time() - begin < float(seconds):
        data = draw.choice(seeds)
        png = data.startswith(b"\x89PNG") and draw.random() < 0.7
        data = damaged_png(data, draw) if png else damaged(data, draw)
        kept.write_bytes(data)  # before it may kill the process
        signal.setitimer(signal.ITIMER_PROF, SLOWEST)
        signal.alarm(STUCK)
        try:
            reader(data)
            counts[0] += 1
        except IrnError as error:
            counts[1] += 1
            if "\n" in str(error):
                print(f"not one line: {error!r}", file=sys.stderr)
                return 1
        except BaseException:
            traceback.print_exc()
            return 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
    kept.unlink()
    added = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    told = {
        "read": counts[0],
        "refused": counts[1],
        "CPU seconds": round(time.process_time()),
        "added MiB": added >> 20,
    }
    print(json.dumps({"target": name, **told}))
    return int(added > MOST)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
