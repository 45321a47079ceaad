"""A picture as a value: to and from Pillow and NumPy, and how it shows itself."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from irn_cli.errors import InputError
from irn_cli.image import as_picture, read, write
from irn_cli.picture import Picture
from tests.helpers import photo_like
from tests.test_image import record_of

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ALPHA = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "YCbCr", "CMYK"])
def test_pillows_modes_become_what_a_file_of_them_becomes(mode: str) -> None:
    by_way_of = {"La": "LA", "PA": "P", "RGBa": "RGBA"}.get(mode, mode)
    image = Image.fromarray(photo_like(20, 30)).convert(by_way_of).convert(mode)
    picture = Picture.from_pil(image)
    transparent = mode[-1] in "Aa"
    plain = image.convert(by_way_of) if mode in ("La", "RGBa") else image
    assert np.array_equal(picture.pixels, np.asarray(plain.convert("RGBA" if transparent else "RGB"))[..., :3])
    assert (picture.alpha is not None) == transparent
    assert picture.mode == ("L" if mode in ("1", "L", "LA", "La") else "RGB")
    assert [line[:4] for line in picture.warnings] == (["CMYK"] if mode == "CMYK" else [])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_there_and_back_through_pillow(mode: str, alpha: np.ndarray | None) -> None:
    pixels = photo_like(20, 30)
    pixels = pixels if mode == "RGB" else np.repeat(pixels[..., :1], 3, 2)
    image = Picture(pixels, alpha, mode, icc=SRGB if mode == "RGB" else None).to_pil()
    assert image.mode == mode + ("" if alpha is None else "A")
    back = Picture.from_pil(image)
    assert np.array_equal(back.pixels, pixels)
    assert back.alpha is alpha is None or np.array_equal(back.alpha, alpha)
    assert (back.mode, back.icc) == (mode, SRGB if mode == "RGB" else None)


def test_orientation_is_applied_to_pillows_images_too() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.fromarray(photo_like(20, 30))
    image.save(file, "PNG", exif=exif)
    assert np.array_equal(Picture.from_pil(Image.open(file)).pixels, np.asarray(image.rotate(-90, expand=True)))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_a_small_picture_that_pillow_opened_keeps_its_record(tmp_path: Path, suffix: str) -> None:
    pixels = photo_like(20, 30)
    full_alpha = np.arange(80 * 120, dtype=np.uint8).reshape(80, 120)
    write(tmp_path / f"a.{suffix}", Picture(pixels, ALPHA, record=record_of(pixels), full_alpha=full_alpha))
    with Image.open(tmp_path / f"a.{suffix}") as image:
        picture = Picture.from_pil(image)
    assert picture.record == record_of(pixels)
    assert picture.full_alpha is not None
    assert np.array_equal(picture.full_alpha, full_alpha)


def test_a_record_that_cannot_be_read_is_told() -> None:
    image = Image.fromarray(photo_like(20, 30))
    image.info["irn"] = '{"irn": 99}'
    assert "a newer irn is needed" in Picture.from_pil(image).warnings[0]


def test_floating_point_images_are_refused() -> None:
    with pytest.raises(InputError, match="samples of kind 'F'"):
        Picture.from_pil(Image.new("F", (3, 3)))


def test_numpy_takes_a_picture_for_its_pixels() -> None:
    picture = Picture(photo_like(20, 30))
    assert np.asarray(picture) is picture.pixels
    assert np.asarray(picture, np.float32).dtype == np.float32
    copied = np.array(picture)
    assert np.array_equal(copied, picture.pixels)
    assert not np.shares_memory(copied, picture.pixels)


def test_it_shows_itself_in_a_line() -> None:
    pixels = photo_like(20, 30)
    assert repr(Picture(pixels)) == "Picture(30x20, RGB)"
    small = Picture(pixels, ALPHA, mode="L", record=record_of(pixels))
    assert repr(small) == "Picture(30x20, grey, with alpha, small picture of 120x80 by m)"


def test_whatever_people_have_at_hand_becomes_a_picture(tmp_path: Path) -> None:
    pixels = photo_like(20, 30)
    picture = Picture(pixels)
    write(tmp_path / "a.png", picture)
    assert as_picture(picture) is picture
    for source in (
        pixels,
        Image.fromarray(pixels),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        read(tmp_path / "a.png"),
    ):
        assert np.array_equal(as_picture(source).pixels, pixels)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (None, "NoneType"),
        (b"a.png", "bytes"),
        ([[0]], "list"),
        (np.zeros((2, 3)), r"float64 of shape \(2, 3\)"),
        (np.zeros((2, 3, 3), np.float32), r"float32 of shape \(2, 3, 3\)"),
        (np.zeros((2, 3), np.uint8), r"uint8 of shape \(2, 3\)"),
        (np.zeros((3, 2, 2), np.uint8), r"uint8 of shape \(3, 2, 2\)"),
    ],
)
def test_anything_else_is_a_type_error_that_says_what_is_expected(source: object, found: str) -> None:
    expected = rf"expected a Picture, a PIL image, a path, or a uint8 array of shape \(H, W, 3\), not {found}$"
    with pytest.raises(TypeError, match=expected):
        as_picture(source)  # type: ignore[arg-type]
