"""The record inside a file, also after other programs have had it in their hands."""

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irn_cli.formats.chunks import read_chunks, text_chunk
from irn_cli.image import peek, read, write
from irn_cli.picture import Picture
from irn_cli.record import Record, hash_pixels, to_text

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
FULL_ALPHA = np.random.default_rng(1).integers(0, 256, (23, 33), dtype=np.uint8)
RECORD = Record(
    4, width=33, height=23, mode="RGB", model='a "b" <c> &', revision="1", weights="0" * 64, pixels=hash_pixels(PIXELS)
)
SMALL = Picture(PIXELS, np.full((6, 9), 200, np.uint8), record=RECORD, full_alpha=FULL_ALPHA)


def assert_whole(path: Path) -> None:
    picture = read(path)
    assert picture.record == peek(path).record == RECORD
    assert np.array_equal(picture.full_alpha, FULL_ALPHA)
    assert (picture.warnings, picture.xmp) == ((), None)


def exiv2(xmp: str) -> str:
    """Properties as attributes, a slash behind the namespace, padding."""
    xmp = xmp.replace("urn:irn-cli:record", "urn:irn-cli:record/")
    record, alpha = (re.search(f"<irn:{name}>(.*?)</irn:{name}>", xmp)[1] for name in ("record", "alpha"))
    attributes = f' irn:record="{record.replace(chr(34), "&quot;")}" irn:alpha="{alpha}"'
    xmp = re.sub("><irn:record>.*</irn:alpha>", f"{attributes}>", xmp)
    return '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>' + xmp + " " * 2000 + '<?xpacket end="w"?>'


def exiftool(xmp: str) -> str:
    """Single quotes, line breaks, and its own order."""
    record, alpha = (re.search(f"<irn:{name}>(.*?)</irn:{name}>", xmp)[1] for name in ("record", "alpha"))
    lines = [alpha[start : start + 76] for start in range(0, len(alpha), 76)]
    return (
        "<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='Image::ExifTool'>\n"
        "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\n\n"
        " <rdf:Description rdf:about=''\n  xmlns:irn='urn:irn-cli:record'>\n"
        "  <irn:alpha>" + "\n".join(lines) + f"</irn:alpha>\n  <irn:record>{record}</irn:record>\n"
        " </rdf:Description>\n</rdf:RDF>\n</x:xmpmeta>"
    )


KEEPING = {
    "pngcrush": ["-q", "in.png", "out.png"],
    "optipng": ["-quiet", "-out", "out.png", "in.png"],
    "zopflipng": ["-y", "--iterations=1", "--keepchunks=tEXt,irNa", "in.png", "out.png"],
    "exiftool": ["-q", "-Artist=somebody", "-Comment=more", "-o", "out.png", "in.png"],
}


@pytest.mark.parametrize("tool", [tool for tool in KEEPING if shutil.which(tool)])
def test_a_record_outlasts_optimisers(tmp_path: Path, tool: str) -> None:
    write(tmp_path / "in.png", SMALL)
    subprocess.run([tool, *KEEPING[tool]], check=True, capture_output=True, cwd=tmp_path)
    picture = read(tmp_path / "out.png")
    assert picture.record == peek(tmp_path / "out.png").record == RECORD
    assert np.array_equal(picture.full_alpha, FULL_ALPHA)
    assert np.array_equal(picture.pixels, PIXELS)


@pytest.mark.parametrize("rewrite", [exiv2, exiftool])
@pytest.mark.parametrize("suffix", ["webp", "tif"])
def test_a_record_in_rewritten_xmp_is_found(tmp_path: Path, suffix: str, rewrite: object) -> None:
    write(tmp_path / f"a.{suffix}", SMALL)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        xmp = rewrite(image.info["xmp"].decode()).encode()
        if suffix == "tif":
            tags = Image.Exif()
            tags[700] = xmp
            image.save(tmp_path / f"b.{suffix}", exif=tags)
        else:
            image.save(tmp_path / f"b.{suffix}", lossless=True, exact=True, xmp=xmp)
    assert_whole(tmp_path / f"b.{suffix}")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("form", ["as written", "zTXt", "iTXt", "packed iTXt", "behind the pixels", "spaced"])
def test_a_record_in_a_rewritten_png_is_found(tmp_path: Path, form: str) -> None:
    write(tmp_path / "a.png", SMALL)
    with (tmp_path / "a.png").open("rb") as stream:
        beside = dict(read_chunks(stream))
    text = to_text(RECORD).encode()
    written = {
        "zTXt": (b"zTXt", b"irn\0\0" + zlib.compress(text)),
        "iTXt": (b"iTXt", b"irn\0\0\0en\0\0" + text),
        "packed iTXt": (b"iTXt", b"irn\0\1\0\0irn\0" + zlib.compress(text)),
        "spaced": (b"tEXt", b"irn\0\n " + text.replace(b",", b" , ").replace(b'{"irn":', b'{ "irn" : ')),
    }.get(form, (b"tEXt", b"irn\0" + text))
    data = (tmp_path / "a.png").read_bytes()
    data = data.replace(chunk(b"tEXt", beside[b"tEXt"]), b"").replace(chunk(b"irNa", beside[b"irNa"]), b"")
    added = chunk(*text_chunk("irn", "of another program")) + chunk(*written) + chunk(b"irNa", beside[b"irNa"])
    place = len(data) - 12 if form == "behind the pixels" else 33
    (tmp_path / "a.png").write_bytes(data[:place] + added + data[place:])
    assert read(tmp_path / "a.png").chunks == (text_chunk("irn", "of another program"),)
    assert_whole(tmp_path / "a.png")
