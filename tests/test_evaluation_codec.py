"""A whole picture in so many bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from irn_cli.errors import InputError
from irn_cli.evaluation.codec import CodecName, encode_lossless, encode_within
from irn_cli.picture import Picture
from tests.helpers import photo_like

PICTURE = Picture(photo_like(96, 96))


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif"])
def test_a_codec_fills_the_space_and_no_more(codec: CodecName) -> None:
    small, large = (encode_within(PICTURE, codec, budget) for budget in (2_000, 5_000))
    assert 1_000 < len(small) <= 2_000 < len(large) <= 5_000
    errors = [np.abs(np.asarray(decoded(data).convert("RGB")).astype(int) - PICTURE.pixels).mean() for data in
              (small, large)]  # fmt: skip
    assert errors[1] < errors[0] < 20
    assert decoded(small).format == codec.upper()


def test_the_space_may_be_filled_to_the_last_byte() -> None:
    data = encode_within(PICTURE, "jpeg", 5_000)
    assert encode_within(PICTURE, "jpeg", len(data)) == data


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif"])
def test_what_no_quality_fits_into_is_told(codec: CodecName) -> None:
    with pytest.raises(InputError, match=f"even at the lowest quality, {codec} needs more than 30 bytes"):
        encode_within(PICTURE, codec, 30)


def test_with_room_for_all_it_is_the_best_quality() -> None:
    stream = io.BytesIO()
    Image.fromarray(PICTURE.pixels).save(stream, "jpeg", quality=100, optimize=True, progressive=True)
    assert encode_within(PICTURE, "jpeg", 10**6) == stream.getvalue()


def test_a_grey_picture_has_one_channel() -> None:
    grey = Picture(np.repeat(PICTURE.pixels[..., :1], 3, 2), mode="L")
    assert decoded(encode_within(grey, "jpeg", 5_000)).mode == "L"


def test_without_loss_every_pixel_stays() -> None:
    assert np.array_equal(np.asarray(decoded(encode_lossless(PICTURE))), PICTURE.pixels)
