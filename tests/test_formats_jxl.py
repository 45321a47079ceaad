"""JPEG XL: what a file says before it is decoded, what travels along, what is refused. It needs the extra `formats`."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from irn_cli.errors import InputError, OutputError
from irn_cli.formats import jxl
from irn_cli.image import peek, read, write
from tests.test_formats_known import PIXELS, SMALL
from tests.test_metadata import XMP, exif


def jpeg_xl(pixels: np.ndarray, **options: object) -> bytes:
    pytest.importorskip("pillow_jxl")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JXL", **{"lossless": True, "effort": 1, **options})
    return stream.getvalue()


@pytest.mark.parametrize(
    "size", [(1, 1), (8, 16), (33, 41), (40, 40), (256, 256), (200, 240), (240, 320), (200, 300), (90, 160), (80, 100),
             (50, 100), (1, 3000), (600, 900)]
)  # fmt: skip
def test_a_jpeg_xl_says_its_size_before_it_is_decoded(size: tuple[int, int]) -> None:
    for options in ({}, {"xmp": XMP}):  # a bare codestream, and one in boxes
        file = jpeg_xl(np.zeros((*size, 3), np.uint8), **options)
        assert jxl.header(file) == jxl.JxlHeader(size, 8, animated=False)
        assert jxl.xmp(file) == (XMP if options else None)
        assert peek(io.BytesIO(file)).size == size


def test_a_jpeg_xl_is_read_with_what_travels_along() -> None:
    file = jpeg_xl(PIXELS, exif=exif(6), xmp=XMP)
    picture = read(io.BytesIO(file))
    assert np.array_equal(picture.pixels, PIXELS)  # its EXIF does not turn it: the codestream would
    assert b"Ada Byron" in picture.exif
    assert (picture.format, picture.mode, picture.icc, picture.warnings) == ("jxl", "RGB", None, ())
    with pytest.raises(InputError, match="too large: 36x24"):
        read(io.BytesIO(file), max_pixels=100)
    grey = read(io.BytesIO(jpeg_xl(PIXELS[..., 0])))
    assert (grey.mode, grey.icc) == ("L", None)
    deep = read(io.BytesIO(jpeg_xl(np.full((24, 36), 40_000, np.uint16))))
    assert deep.warnings == ("samples of more than 8 bits were reduced to 8",)
    assert deep.pixels[0, 0, 0] == round(40_000 / 257)


def test_damaged_jpeg_xl_is_refused() -> None:
    file = jpeg_xl(PIXELS, xmp=XMP)
    for damaged in (file[:40], file[:-50], file[:12] + b"\0\0\0\x01" + file[16:], b"\xff\x0a", b"\xff\x0a\xff"):
        with pytest.raises(InputError, match="cannot read standard input"):
            read(io.BytesIO(damaged))


def test_a_jpeg_xl_is_not_written_where_colours_would_shift(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with pytest.raises(OutputError, match=r"JPEG XL writes no colour profile.*write a PNG, WebP or TIFF"):
        write(tmp_path / "a.jxl", replace(SMALL, icc=profile))
    assert not list(tmp_path.iterdir())
