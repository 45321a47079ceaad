"""The mark: 64 bits in the lowest bits of a small picture's green, which say how to restore it without its record.

Galleries, hosts and optimisers drop what a file holds besides its pixels. The mark stays in every copy with the same
pixels: after another filter, palette, colour type, container or depth. `docs/record.md` has its layout.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from irn_cli.picture import Picture
from irn_cli.record import Record, hash_pixels

LEAST = 1 << 18  # pixels of a small picture, below which the mark could cost more than a thousandth of a dB
_SCALES = {1: 2, 2: 4, 3: 8}


@dataclass(frozen=True)
class Mark:
    """What a mark says."""

    scale: int
    size: tuple[int, int]  # (H, W) of the original
    mode: str  # "RGB" or "L": the original's colours
    weights: str  # the first five hexadecimal digits of the weights' hash
    orientation: int = 1  # as a record's


def put(picture: Picture) -> Picture:
    """A small picture with a mark; the same one, if it is too small or the mark could not say how it was made."""
    record = picture.record
    if not isinstance(record, Record) or record.method != "network" or record.border_rows or record.border_columns:
        return picture
    chosen = _places(picture)
    if chosen is None:
        return picture
    pixels = picture.pixels.reshape(-1, 3).copy()
    pixels[chosen, 1] = (pixels[chosen, 1] & 0xFE) | _bits(record, picture.size)
    marked = pixels.reshape(picture.pixels.shape)
    digest = hash_pixels(marked)
    latent = replace(picture.latent, pixels=digest) if picture.latent else None
    return replace(picture, pixels=marked, record=replace(record, pixels=digest), latent=latent)


def find(picture: Picture) -> Mark | None:
    """The mark in a picture, if there is one."""
    chosen = _places(picture)
    if chosen is None:
        return None
    bits = picture.pixels.reshape(-1, 3)[chosen, 1] & 1
    told, check = np.packbits(bits).view(">u4").tolist()
    scale = _SCALES.get(told >> 26 & 3)
    if scale is None or check != _check(told, picture.size):
        return None
    rows, columns = picture.size
    size = (rows * scale - (told >> 23 & 7), columns * scale - (told >> 20 & 7))
    return Mark(scale, size, "L" if told >> 28 & 1 else "RGB", f"{told & 0xFFFFF:05x}", told >> 29 or 8)


def _places(picture: Picture) -> NDArray[np.int64] | None:
    """The 64 pixels, evenly spread over those that can be seen: what others hold, optimisers change. None: too few."""
    height, width = picture.size
    seen = None if picture.alpha is None else np.flatnonzero(picture.alpha)
    count = height * width if seen is None else len(seen)
    if count < LEAST:
        return None
    spread = (2 * np.arange(64) + 1) * count // 128
    return spread if seen is None else seen[spread]


def _bits(record: Record, small: tuple[int, int]) -> NDArray[np.uint8]:
    (rows, columns), scale = small, record.scale
    told = record.orientation % 8 << 29 | (record.mode == "L") << 28 | (scale.bit_length() - 1) << 26
    told |= (rows * scale - record.height) << 23 | (columns * scale - record.width) << 20 | int(record.weights[:5], 16)
    return np.unpackbits(np.array([told, _check(told, small)], ">u4").view(np.uint8))


def _check(told: int, small: tuple[int, int]) -> int:
    """CRC-32 over what the mark says and the small picture's size, each four bytes, the highest first."""
    return zlib.crc32(np.array([told, *small], ">u4").tobytes())
