"""A whole picture in a given number of bytes: what JPEG, WebP and AVIF make of the space a small picture takes."""

import io
from typing import Any, Literal

from PIL import Image

from irn_cli.errors import InputError
from irn_cli.picture import Picture

CodecName = Literal["jpeg", "webp", "avif"]

# What makes files smaller at little cost; each codec halves the resolution of colours, as it does by default.
_OPTIONS: dict[CodecName, dict[str, Any]] = {
    "jpeg": {"optimize": True, "progressive": True},
    "webp": {"method": 6},
    "avif": {"speed": 6},
}


def encode_within(picture: Picture, codec: CodecName, nbytes: int) -> bytes:
    """Encode a picture at the highest quality, 1 to 100, at which the file is no larger than `nbytes`.

    Raises:
        InputError: it is larger at every quality.
    """
    image = Image.fromarray(picture.pixels[..., 0] if picture.mode == "L" else picture.pixels)
    best = b""
    low, high = 1, 100
    while low <= high:  # the higher the quality, the larger the file
        quality = (low + high) // 2
        stream = io.BytesIO()
        image.save(stream, codec, quality=quality, **_OPTIONS[codec])
        if stream.tell() <= nbytes:
            best, low = stream.getvalue(), quality + 1
        else:
            high = quality - 1
    if not best:
        raise InputError(f"even at the lowest quality, {codec} needs more than {nbytes:,} bytes")
    return best


def encode_lossless(picture: Picture) -> bytes:
    """Encode a picture's colours as WebP without loss, which takes about a quarter less than PNG."""
    stream = io.BytesIO()
    Image.fromarray(picture.pixels).save(stream, "webp", lossless=True)
    return stream.getvalue()
