"""Formats: which are read and written, by which suffix; HEIF, which needs the extra `formats`."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from irn_cli.errors import InputError, UsageError
from irn_cli.formats import known
from irn_cli.formats.known import FORMATS, identify, unreadable, without_suffix, written_as
from irn_cli.image import peek, read, write
from irn_cli.picture import Picture
from irn_cli.record import Record, hash_pixels
from tests.test_metadata import XMP, exif, seen

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
WHOLE_ALPHA = np.random.default_rng(1).integers(0, 256, (95, 143), dtype=np.uint8)
SMALL = Picture(
    PIXELS,
    PIXELS[..., 0],
    exif=exif(1),
    xmp=XMP,
    dpi=(72.0, 72.0),
    record=Record(4, 143, 95, "RGB", "m", "1", "0" * 64, hash_pixels(PIXELS), name="IMG_1.jpg", format="jpeg"),
    full_alpha=WHOLE_ALPHA,
)


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "find_spec", lambda _: None)


@pytest.mark.parametrize("name", known.SMALL)
def test_a_small_picture_is_the_same_in_each_format(tmp_path: Path, name: known.FormatName) -> None:
    if name == "jxl":
        pytest.importorskip("pillow_jxl")
    path = tmp_path / f"a{FORMATS[name].suffixes[0]}"
    assert write(path, SMALL) == ()
    back = read(path)
    assert np.array_equal(back.pixels, SMALL.pixels)
    assert np.array_equal(back.alpha, SMALL.alpha)
    assert np.array_equal(back.full_alpha, SMALL.full_alpha)
    assert (back.record, seen(back)) == (SMALL.record, seen(SMALL))
    if name != "tiff":  # which lays EXIF out anew
        assert (back.exif, back.xmp) == (SMALL.exif, SMALL.xmp)
    assert (back.warnings, back.chunks) == ((), ())
    assert peek(path).record == SMALL.record
    stream = io.BytesIO()
    write(stream, SMALL, format=name)
    assert stream.getvalue() == path.read_bytes()


@pytest.mark.parametrize("name", ["jpg", "webp", "avif", "jxl"])
def test_quality_makes_smaller_files(name: known.FormatName) -> None:
    if name == "jxl":
        pytest.importorskip("pillow_jxl")
    sizes = []
    for quality in (1, 50, 100, None):
        stream = io.BytesIO()
        write(stream, Picture(PIXELS), format=name, quality=quality)
        sizes.append(stream.tell())
        stream.seek(0)
        lossless = np.array_equal(read(stream).pixels, PIXELS)
        exact = name == "jxl" and quality == 100  # as JPEG XL defines it
        assert lossless == (exact or (quality is None and FORMATS[name].lossless is not None))
    assert sizes[:3] == sorted(set(sizes[:3]))
    assert sizes[1] < sizes[3]


def test_what_small_pictures_may_not_be(tmp_path: Path) -> None:
    for name in ("jpg", "avif"):
        with pytest.raises(UsageError, match=r"would be lost as (JPEG|AVIF); expected png, webp, tiff or jxl"):
            write(tmp_path / "a", SMALL, format=name)
    with pytest.raises(UsageError, match="would be lost as lossy WebP"):
        write(tmp_path / "a.webp", SMALL, quality=90)
    assert not list(tmp_path.iterdir())


def test_suffixes_and_names() -> None:
    assert written_as(Path("a.TIFF")) is FORMATS["tiff"]
    with pytest.raises(UsageError, match=r"expected \.png, \.webp, \.tif, \.jxl, \.jpg or \.avif$"):
        written_as(Path("a.bmp"))
    names = ["IMG.1.jpg", "v1.2", "a.HEIC", "b"]
    assert [without_suffix(Path(name)) for name in names] == ["IMG.1", "v1.2", "a", "b"]
    assert unreadable(Path("a.cr2")) == "irn does not read .cr2"
    assert unreadable(Path("a.jpg")) == ""


@pytest.mark.usefixtures("no_plugins")
def test_what_needs_the_extra_says_so(tmp_path: Path) -> None:
    assert unreadable(Path("a.HEIC")) == ".heic needs pillow-heif: pip install 'irn-cli[formats]'"
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(InputError, match=r"a\.heic: HEIF needs pillow-heif: pip install 'irn-cli\[formats\]'"):
        read(tmp_path / "a.heic")
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a\xff\x07" + bytes(20))
    with pytest.raises(InputError, match=r"a\.jxl: JPEG XL needs pillow-jxl-plugin: pip install"):
        read(tmp_path / "a.jxl")
    with pytest.raises(UsageError, match="JPEG XL needs pillow-jxl-plugin"):
        write(tmp_path / "b.jxl", Picture(PIXELS))


def test_containers_are_told_apart_by_their_brands() -> None:
    for brands, kind in [
        (b"heic\0\0\0\0mif1heic", "HEIF"),
        (b"mif1\0\0\0\0mif1heicmiaf", "HEIF"),
        (b"mif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"avif\0\0\0\0", "AVIF"),
        (b"qt  \0\0\0\0", None),
    ]:
        assert identify((8 + len(brands)).to_bytes(4) + b"ftyp" + brands) == kind
    assert identify(b"\x89PNG") is None


# HEIF -----------------------------------------------------------------------------------------------------------------


def test_heif_is_read_upright_with_what_travels_along(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    flat = np.full((24, 36, 3), (200, 100, 50), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    written = heif.from_pillow(Image.fromarray(flat))
    written.save(tmp_path / "a.heic", exif=exif(6).removeprefix(b"Exif\0\0"), xmp=XMP, icc_profile=profile, quality=95)
    picture = read(tmp_path / "a.heic")
    assert picture.size == (36, 24)
    assert np.abs(picture.pixels.astype(int) - flat[0, 0]).max() < 4
    assert (picture.name, picture.format, picture.mode) == ("a.heic", "heif", "RGB")
    assert picture.icc == profile
    assert b"dc:format" in picture.xmp
    assert b"Ada Byron" in picture.exif
    assert picture.warnings == ()
    with pytest.raises(InputError, match=r"too large: 24x36"):
        read(tmp_path / "a.heic", max_pixels=100)


def test_what_a_heif_loses_is_told() -> None:
    heif = pytest.importorskip("pillow_heif")
    deep = np.random.default_rng(0).integers(0, 65536, (24, 36, 3), dtype=np.uint16)
    file, stream = heif.from_bytes("RGB;16", (36, 24), deep.tobytes()), io.BytesIO()
    file.add_from_pillow(Image.fromarray(PIXELS))
    file.save(stream, quality=90)
    stream.seek(0)
    assert read(stream).warnings == (
        "left out: what follows the picture in its file",
        "samples of more than 8 bits were reduced to 8",
    )
