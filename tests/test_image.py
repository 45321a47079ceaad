"""Pictures in and out of files: every format, what travels along, and what is refused."""

import base64
import dataclasses
import html
import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from irn_cli.errors import InputError, OutputError, UsageError
from irn_cli.image import peek, read, write
from irn_cli.picture import Picture
from irn_cli.record import Record, Restored, hash_pixels, to_text

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:format>p</dc:format>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], 2).astype(np.uint8)


def record_of(pixels: np.ndarray, **changes: Any) -> Record:
    size = {"width": pixels.shape[1] * 4, "height": pixels.shape[0] * 4}
    made = Record(4, **size, mode="RGB", model="m", revision="1", weights="0" * 64, pixels=hash_pixels(pixels))
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (700, 3), (33, 17)])
def test_lossless_formats_are_read_exactly(tmp_path: Path, suffix: str, shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    picture = read(tmp_path / f"a.{suffix}")
    assert np.array_equal(picture.pixels, pixels)
    assert (picture.mode, picture.alpha, picture.record, picture.warnings) == ("RGB", None, None, ())


@pytest.mark.parametrize("suffix", ["jpg", "avif", "gif"])
def test_other_formats_are_read(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(smooth(40, 60)).save(tmp_path / f"a.{suffix}")
    picture = read(tmp_path / f"a.{suffix}")
    assert picture.size == (40, 60)
    assert np.abs(picture.pixels.astype(int) - smooth(40, 60)).mean() < 20


def test_a_damaged_tiff_is_one_error_and_nothing_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """By Python or by libtiff, which prints by itself."""
    stream = io.BytesIO()
    Image.fromarray(noise(20, 30)).save(stream, "TIFF", compression="tiff_lzw")
    data = bytearray(stream.getvalue())
    data[100:140] = b"\xff" * 40
    with pytest.raises(InputError, match="cannot read standard input"):
        read(io.BytesIO(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_orientation_is_applied_as_pillow_does(tmp_path: Path, orientation: int, suffix: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "Ada"
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(300, 20, 4)).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    picture = read(path)
    assert np.array_equal(picture.pixels, expected[..., :3])
    assert np.array_equal(picture.alpha, expected[..., 3])
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept.pop(ExifTags.Base.Orientation, 1) == 1
    assert dict(kept) == {ExifTags.Base.Artist: "Ada"}


def test_orientation_in_xmp_is_applied_and_dropped(tmp_path: Path) -> None:
    xmp = XMP.replace(b'rdf:about=""', b'rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"')
    Image.fromarray(smooth(20, 30)).save(tmp_path / "a.webp", lossless=True, xmp=xmp)
    picture = read(tmp_path / "a.webp")
    assert picture.size == (30, 20)
    assert b"Orientation" not in picture.xmp
    assert b"dc:format" in picture.xmp


@pytest.mark.parametrize("damaged", [b"67", b"0", b"9", b"left"])
def test_an_orientation_in_xmp_that_there_is_not_turns_nothing(tmp_path: Path, damaged: bytes) -> None:
    begin = b'rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="' + damaged + b'"'
    Image.fromarray(smooth(20, 30)).save(tmp_path / "a.webp", lossless=True, xmp=XMP.replace(b'rdf:about=""', begin))
    assert np.array_equal(read(tmp_path / "a.webp").pixels, smooth(20, 30))


def test_thumbnail_is_dropped_and_the_rest_of_exif_kept(tmp_path: Path) -> None:
    thumbnail = io.BytesIO()
    Image.fromarray(smooth(24, 32)).save(thumbnail, "JPEG")
    # EXIF by hand: IFD0 with Make, an Exif IFD with the lens, IFD1 with the thumbnail.
    make, lens = b"Camera\0\0", b"Lens 50\0"
    ifd0 = 8
    exif_ifd = ifd0 + 2 + 2 * 12 + 4
    ifd1 = exif_ifd + 2 + 12 + 4
    data = ifd1 + 2 + 2 * 12 + 4
    body = b"II*\0" + ifd0.to_bytes(4, "little")

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        return b"".join(n.to_bytes(size, "little") for n, size in ((tag, 2), (kind, 2), (count, 4), (value, 4)))

    body += (2).to_bytes(2, "little") + entry(0x010F, 2, 7, data) + entry(0x8769, 4, 1, exif_ifd)
    body += ifd1.to_bytes(4, "little")
    body += (1).to_bytes(2, "little") + entry(0xA434, 2, 8, data + 8) + bytes(4)
    body += (2).to_bytes(2, "little") + entry(0x0201, 4, 1, data + 16) + entry(0x0202, 4, 1, len(thumbnail.getvalue()))
    body += bytes(4) + make + lens + thumbnail.getvalue()
    Image.fromarray(smooth(20, 30)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + body)
    picture = read(tmp_path / "a.jpg")
    assert b"\xff\xd8\xff" not in picture.exif
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept[ExifTags.Base.Make] == "Camera"
    assert kept.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] == "Lens 50"


def test_damaged_exif_costs_only_the_exif(tmp_path: Path) -> None:
    Image.fromarray(smooth(20, 30)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\x07" * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = read(tmp_path / "a.jpg")
    assert (picture.size, picture.exif) == ((20, 30), None)
    assert picture.warnings == ("its EXIF data are damaged and were left out",)
    Image.fromarray(smooth(20, 30)).save(tmp_path / "b.jpg", exif=b"Exif\0\0II*\0\x08" + bytes(9))  # nothing in it
    assert read(tmp_path / "b.jpg").warnings == ()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "P"])
def test_grey_is_grey_with_three_equal_channels(tmp_path: Path, mode: str) -> None:
    levels = smooth(30, 40)[..., 0]
    image = {
        "1": lambda: Image.fromarray(levels).convert("1"),
        "L": lambda: Image.fromarray(levels),
        "LA": lambda: Image.fromarray(np.dstack([levels, levels])),
        "I;16": lambda: Image.fromarray(levels.astype(np.uint16) * 257),
        "P": lambda: Image.fromarray(levels).convert("P"),
    }[mode]()
    assert image.mode == mode
    image.save(tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    assert picture.mode == "L"
    assert np.array_equal(picture.pixels[..., 0], np.asarray(image.convert("L")) if mode == "1" else levels)
    assert (picture.pixels == picture.pixels[..., :1]).all()
    assert (picture.alpha is not None) == (mode == "LA")
    assert picture.warnings == (("samples of more than 8 bits were reduced to 8",) if mode == "I;16" else ())


def png_of_16_bits(path: Path, color_type: int, channels: int) -> None:
    """Pillow does not write 16-bit colour: the chunks by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([200, 200] * channels * 5) for _ in range(4))
    header = struct.pack(">IIBBBBB", 5, 4, 16, color_type, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (6, 4), (4, 2), (0, 1)])
def test_16_bits_are_never_cut_in_silence(tmp_path: Path, color_type: int, channels: int) -> None:
    png_of_16_bits(tmp_path / "a.png", color_type, channels)
    picture = read(tmp_path / "a.png")
    assert (picture.pixels == 200).all()
    assert picture.warnings == ("samples of more than 8 bits were reduced to 8",)


def test_colour_key_of_16_bit_grey(tmp_path: Path) -> None:
    levels = np.array([[0, 1000, 1001, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    key = b"tRNS" + (1000).to_bytes(2, "big")
    (tmp_path / "a.png").write_bytes(
        data[:33] + b"\0\0\0\2" + key + zlib.crc32(key).to_bytes(4, "big") + data[33:]
    )  # behind the header
    picture = read(tmp_path / "a.png")
    assert picture.alpha.tolist() == [[255, 0, 255, 255]]
    assert picture.pixels[0, :, 0].tolist() == [0, 4, 4, 255]


def test_avif_of_10_bits_is_not_cut_in_silence() -> None:
    # Pillow does not write it: 6x4 pixels of level 512 of 1023.
    data = base64.b64decode(
        "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAOcGl0"
        "bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAHAAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAAAABqaXBy"
        "cAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAABgAAAAQAAAAQcGl4aQAAAAADCgoKAAAADGF2MUOBIEAAAAAAE2NvbHJuY2x4AAIAAgAGgAAAABdpcG1h"
        "AAAAAAAAAAEAAQQBAoMEAAAAJG1kYXQSAAoIOAhu3gQEDSAyDheCYwTAAPIAABCQPUPA"
    )
    picture = read(io.BytesIO(data))
    assert (picture.pixels == 128).all()
    assert picture.warnings == ("samples of more than 8 bits were reduced to 8",)
    # Where the box that tells lies far behind, nothing is told, and the picture is read all the same.
    gap = (1 << 17).to_bytes(4, "big") + b"free" + bytes((1 << 17) - 8)
    moved = (0x113).to_bytes(4, "big"), (0x113 + len(gap)).to_bytes(4, "big")
    picture = read(io.BytesIO(data[:32] + gap + data[32:].replace(*moved)))
    assert (picture.pixels == 128).all()
    assert picture.warnings == ()


def test_palette_is_expanded_with_its_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 8) // 128 * 255).quantize(8)
    expected = np.asarray(image.convert("RGB"))
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
    picture = read(tmp_path / "a.png")
    assert picture.mode == "RGB"
    assert np.array_equal(picture.pixels, expected)
    assert set(np.unique(picture.alpha)) <= {0, 128, 255}
    assert (picture.alpha[np.asarray(image) == 1] == 128).all()


def test_colour_key_becomes_alpha(tmp_path: Path) -> None:
    pixels = smooth(10, 10)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=tuple(map(int, pixels[3, 4])))
    alpha = read(tmp_path / "a.png").alpha
    assert alpha[3, 4] == 0
    assert alpha[0, 0] == 255


def cmyk_profile() -> bytes:
    """A printer profile whose inks are not what the plain formula takes them for: all of them print as one red."""
    red = bytes([128, 200, 190])  # Lab, 8 bits
    paper = bytes([255, 128, 128])
    linear = bytes(range(256))
    grid = b"".join(red if corner else paper for corner in range(16))
    identity = b"".join((65536 if row == column else 0).to_bytes(4, "big") for row in range(3) for column in range(3))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + linear * 4 + grid + linear * 3
    lut += bytes(-len(lut) % 4)
    header = bytearray(128)
    header[8:12] = bytes([2, 0x40, 0, 0])
    header[12:24] = b"prtrCMYKLab "
    header[36:40] = b"acsp"
    header[68:80] = b"\0\0\xf6\xd6\0\1\0\0\0\0\xd3\x2d"
    place = (128 + 4 + 2 * 12).to_bytes(4, "big") + len(lut).to_bytes(4, "big")
    tags = b"A2B0" + place + b"A2B1" + place
    profile = bytes(header) + (2).to_bytes(4, "big") + tags + lut
    return len(profile).to_bytes(4, "big") + profile[4:]


def test_cmyk_goes_through_its_profile(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (10, 10), (255, 0, 0, 0))  # cyan, says the plain formula
    cmyk.save(tmp_path / "a.jpg", icc_profile=cmyk_profile(), quality=100)
    picture = read(tmp_path / "a.jpg")
    assert picture.warnings == ("CMYK was converted to sRGB through its colour profile",)
    red, green, blue = picture.pixels[5, 5].astype(int)
    assert red > green + 50
    assert red > blue + 50
    assert picture.icc is None


def test_cmyk_without_a_usable_profile_is_told(tmp_path: Path) -> None:
    cmyk = Image.fromarray(smooth(10, 10)).convert("CMYK")
    cmyk.save(tmp_path / "a.tif")
    plain = read(tmp_path / "a.tif")
    assert plain.mode == "RGB"
    assert plain.warnings == ("CMYK was converted to sRGB; it has no colour profile: colours may shift",)
    assert np.array_equal(plain.pixels, np.asarray(cmyk.convert("RGB")))
    cmyk.save(tmp_path / "b.tif", icc_profile=SRGB)
    damaged = read(tmp_path / "b.tif")
    assert "damaged" in damaged.warnings[0]
    assert damaged.icc is None


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("transparent", [False, True])
def test_everything_travels_through_a_file(tmp_path: Path, suffix: str, mode: str, transparent: bool) -> None:
    pixels = noise(21, 13)
    if mode == "L":
        pixels = np.repeat(pixels[..., :1], 3, 2)
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = "Lens"
    picture = Picture(
        pixels,
        noise(21, 13, 1, seed=1)[..., 0] if transparent else None,
        mode,
        icc=SRGB if mode == "RGB" else None,
        exif=exif.tobytes(),
        xmp=XMP,
        dpi=(300.0, 150.0),
        record=record_of(pixels),
        full_alpha=noise(84, 52, 1, seed=2)[..., 0] if transparent else None,
    )
    path = tmp_path / f"a.{suffix}"
    write(path, picture)
    assert peek(path).record == picture.record
    back = read(path)
    assert np.array_equal(back.pixels, pixels)
    assert back.record == picture.record
    for name in ("alpha", "full_alpha"):
        assert np.array_equal(getattr(back, name), getattr(picture, name)), name
    assert back.icc == picture.icc
    assert back.xmp == XMP
    kept = Image.Exif()
    kept.load(back.exif)
    assert kept[ExifTags.Base.Artist] == "Ada"
    assert kept.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] == "Lens"
    if suffix != "webp":  # has no field for it
        assert back.dpi == pytest.approx((300, 150), abs=0.1)
    if suffix != "webp":  # stores grey as RGB
        assert back.mode == mode


def test_large_profiles_and_texts_do_not_cost_the_picture(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(2_000_000)
    write(tmp_path / "a.png", Picture(noise(8, 8), icc=profile))
    assert read(tmp_path / "a.png").icc == profile
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("workflow", "x" * 2_000_000, zip=True)
    Image.fromarray(noise(8, 8)).save(tmp_path / "b.png", pnginfo=chunks)
    assert np.array_equal(read(tmp_path / "b.png").pixels, noise(8, 8))
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1 << 20  # Pillow's, for everyone else


def test_metadata_do_not_grow_from_file_to_file(tmp_path: Path) -> None:
    picture = Picture(noise(9, 9), record=record_of(noise(9, 9)), xmp=XMP)
    for number in range(3):
        write(tmp_path / f"{number}.webp", picture)
        picture = read(tmp_path / f"{number}.webp")
    assert (tmp_path / "0.webp").stat().st_size == (tmp_path / "2.webp").stat().st_size


def test_restored_pictures_are_known_as_such(tmp_path: Path) -> None:
    record = Restored(4, "m", "1", "0" * 64, seed=3, temperature=0.5, sample=2)
    for suffix in ("png", "tif", "webp", "jpg"):
        write(tmp_path / f"a.{suffix}", Picture(smooth(9, 9), record=record))
        assert peek(tmp_path / f"a.{suffix}").record == record


def test_optimised_png_keeps_its_record_valid(tmp_path: Path) -> None:
    pixels = np.repeat(noise(16, 16, 1) // 64 * 64, 3, 2)
    write(tmp_path / "a.png", Picture(pixels, record=record_of(pixels)))
    with Image.open(tmp_path / "a.png") as image:
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("irn", image.text["irn"])
        image.convert("L").convert("P").save(tmp_path / "b.png", optimize=True, pnginfo=chunks)
    picture = read(tmp_path / "b.png")
    assert hash_pixels(picture.pixels) == picture.record.pixels


@pytest.mark.parametrize(("suffix", "words"), [("jpg", "would be lost"), ("gif", "cannot"), ("xyz", "cannot")])
def test_small_pictures_are_never_written_lossily(tmp_path: Path, suffix: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        write(tmp_path / f"a.{suffix}", Picture(noise(8, 8), record=record_of(noise(8, 8))))
    assert not list(tmp_path.iterdir())


def test_formats_limits_are_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="at most 16383"):
        write(tmp_path / "a.webp", Picture(noise(1, 16384)))
    with pytest.raises(OutputError, match="at most 65500"):
        write(tmp_path / "a.jpg", Picture(noise(1, 65501)))
    for name in ("exif", "xmp"):
        with pytest.raises(OutputError, match=rf"a\.jpg: {name.upper()} data is too long; write a PNG"):
            write(tmp_path / "a.jpg", Picture(noise(8, 8), **{name: b"Exif\0\0" + bytes(70_000)}))
    with pytest.raises(OutputError, match="no transparency"):
        write(tmp_path / "a.jpg", Picture(noise(8, 8), noise(8, 8, 1)[..., 0]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "avif"])
def test_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(noise(16, 16, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="3 frames or pages"):
        read(tmp_path / f"a.{suffix}")


def test_previews_of_raw_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(12, 16)).save(tmp_path / "a.tif", tiffinfo={254: 1})
    with pytest.raises(InputError, match="holds only a preview"):
        read(tmp_path / "a.tif")
    Image.fromarray(noise(12, 16)).save(tmp_path / "a.tif", tiffinfo={254: 0})
    assert read(tmp_path / "a.tif").size == (12, 16)


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("L", (1, 1)).save(tmp_path / "bomb.png")
    data = bytearray((tmp_path / "bomb.png").read_bytes())
    data[16:24] = struct.pack(">II", 30_000, 30_000)  # in the header, whose checksum follows
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(InputError, match=r"30000x30000 is 900,000,000 pixels, the limit is 500,000,000$"):
        read(tmp_path / "bomb.png")
    assert peek(tmp_path / "bomb.png").size == (30000, 30000)


def test_broken_files_get_one_clear_line(tmp_path: Path) -> None:
    Image.fromarray(smooth(200, 200)).save(tmp_path / "whole.jpg")
    Image.fromarray(noise(200, 200)).save(tmp_path / "whole.png")
    whole, png = (tmp_path / "whole.jpg").read_bytes(), (tmp_path / "whole.png").read_bytes()
    cases = {
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "header.jpg": (whole[:20], "cannot read"),
        "truncated.png": (png[: len(png) // 2], "truncated"),
        "flipped.png": (png[:100] + bytes([png[100] ^ 255]) + png[101:], "cannot read"),
        "empty.png": (b"", "is empty"),
        "text.png": (b"this is no picture\n" * 9, "not a picture"),
        "byte.png": (b"x", "not a picture"),
    }
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=words) as caught:
            read(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.png")
    with pytest.raises(InputError, match="directory"):
        read(tmp_path)


def test_a_damaged_record_is_a_warning_not_a_loss(tmp_path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("irn", '{"irn":1}')
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    picture = read(tmp_path / "a.png")
    assert picture.record is None
    assert "unknown kind" in picture.warnings[0]
    assert peek(tmp_path / "a.png").record is None
    assert peek(tmp_path / "a.png").damaged


@pytest.mark.parametrize("alpha", [b"nonsense", zlib.compress(bytes(32 * 32 - 1)), zlib.compress(bytes(32 * 32 + 1))])
def test_a_damaged_full_alpha_is_told(tmp_path: Path, alpha: bytes) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("irn", to_text(record_of(noise(8, 8))))
    chunks.add(b"irNa", alpha)
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    assert "alpha beside the record is damaged" in read(tmp_path / "a.png").warnings[0]
    assert peek(tmp_path / "a.png").record, "only reading unpacks it: of 12 megapixels it takes 0.2 seconds"


def test_a_damaged_full_alpha_in_xmp_is_told(tmp_path: Path) -> None:
    record = html.escape(to_text(record_of(noise(8, 8))), quote=False)
    xmp = (
        '<rdf:Description rdf:about="" xmlns:irn="urn:irn-cli:record">'
        f"<irn:record>{record}</irn:record><irn:alpha>A</irn:alpha></rdf:Description>"
    )
    xmp = XMP.replace(b"</rdf:RDF>", xmp.encode() + b"</rdf:RDF>")
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.webp", lossless=True, xmp=xmp)
    picture = read(tmp_path / "a.webp")
    assert np.array_equal(picture.pixels, noise(8, 8))
    assert "alpha beside it, is damaged" in picture.warnings[0]
    assert peek(tmp_path / "a.webp").record
    assert picture.xmp == XMP


def test_nothing_large_is_unpacked_into_a_picture_of_another_size(tmp_path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("irn", to_text(record_of(noise(8, 8), width=20_000, height=20_000)))
    chunks.add(b"irNa", zlib.compress(bytes(20_000 * 20_000), 1))
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    tracemalloc.start()
    picture = read(tmp_path / "a.png")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert picture.full_alpha is None
    assert most < 20e6


def test_arrays_of_another_kind_are_refused() -> None:
    good = noise(4, 6)
    for bad in (good[..., 0], good.astype(np.float32), np.dstack([good, good[..., :1]]), good[:0]):
        with pytest.raises(InputError, match="a picture's pixels: expected uint8"):
            Picture(bad)
    with pytest.raises(InputError, match=r"a picture's alpha: expected uint8, \(4, 6\), found uint8, \(4, 5\)"):
        Picture(good, good[:, :5, 0])
    reversed_ = Picture(good[::-1, :, ::-1]).pixels  # as from OpenCV
    assert min(reversed_.strides) > 0
    assert np.array_equal(reversed_, good[::-1, :, ::-1])
    assert Picture(np.broadcast_to(np.uint8(3), (4, 6, 3))).pixels.flags.writeable
    assert Picture(good).pixels is good


def test_streams_are_read_and_written() -> None:
    stream = io.BytesIO()
    write(stream, Picture(noise(8, 8)))
    stream.seek(0)
    assert np.array_equal(read(stream).pixels, noise(8, 8))
    with pytest.raises(InputError, match="standard input is empty"):
        read(io.BytesIO())


def test_what_decoders_say_to_programmers_is_said_in_plain_words() -> None:
    for data in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"):
        with pytest.raises(InputError, match=r"^cannot read standard input: it is damaged or incomplete$"):
            read(io.BytesIO(data))
    stream, texts = io.BytesIO(), PngImagePlugin.PngInfo()
    texts.add_text("Comment", "a" * (65 << 20), zip=True)
    Image.new("RGB", (4, 4)).save(stream, "PNG", pnginfo=texts)
    stream.seek(0)
    with pytest.raises(InputError, match=r"a text or colour profile in it is larger than 64 MiB unpacked$"):
        read(stream)


def test_a_bigtiff_is_read_with_its_description(tmp_path: Path) -> None:
    pixels = smooth(20, 30)
    tifffile.imwrite(tmp_path / "a.tif", pixels, bigtiff=True, photometric="rgb", description="a description")
    picture = read(tmp_path / "a.tif")
    assert (picture.pixels == pixels).all()
    write(tmp_path / "b.jpg", picture)
    with Image.open(tmp_path / "b.jpg") as written:
        assert written.getexif()[ExifTags.Base.ImageDescription] == "a description"
