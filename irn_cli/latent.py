"""What is kept beside a small picture so that its original comes back bit for bit.

That is the original's own pixels, losslessly coded. What the network would need instead, its latent and what rounding
took from the small picture, takes more space however it is coded, and restores bit for bit only where the arithmetic is
the same (`benchmarks/README.md` has the figures); it is still read from the files of earlier versions.
"""

import errno
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from irn_cli.errors import InputError
from irn_cli.formats.known import FORMATS
from irn_cli.paths import is_file, to_path
from irn_cli.record import hash_pixels
from irn_cli.tensors import TensorFormat

_EARLIER = "irn-latent-1"
_FORMAT = TensorFormat("irn-latent-2", "a latent of irn", ("pixels", "original"), InputError, earlier=(_EARLIER,))
_PNG = b"\x89PNG"
Floats = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class KeptOriginal:
    """The original of one small picture."""

    original: NDArray[np.uint8] = field(repr=False)  # (H, W, 3) RGB
    pixels: str  # hash of the small picture's pixels, to which it belongs


@dataclass(frozen=True, eq=False)
class Latent:
    """The latent of one picture, and what rounding and clamping its small picture took: what earlier versions kept."""

    z: Floats = field(repr=False)  # (h, w, 3 s^2 - 3)
    rounding: Floats = field(repr=False)  # (h, w, 3): y - quantise(y)
    pixels: str  # hash of the small picture's pixels, to which it belongs
    original: str  # hash of the original's pixels: whether it came back bit for bit


Kept = KeptOriginal | Latent


def latent_path(small: str | os.PathLike[str]) -> Path:
    """The path of what is kept beside a small picture: `photo_down4.png` -> `photo_down4.latent.safetensors`."""
    return to_path(small).with_suffix(".latent.safetensors")


def find_latent(small: str | os.PathLike[str]) -> Path | None:
    """What is kept beside a small picture, if anything is."""
    beside = latent_path(small)
    try:
        return beside if is_file(beside) else None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # the picture's own name may be as long as names can be
            return None
        raise


def write_latent(path: str | os.PathLike[str], kept: Kept, *, overwrite: bool = False) -> None:
    """Write what is kept beside a small picture, atomically: an original takes its size as a lossless WebP.

    Raises:
        OutputError: the file exists already or cannot be written.
    """
    if isinstance(kept, Latent):
        arrays: dict[str, NDArray[Any]] = {"z": kept.z, "rounding": kept.rounding}
        header = {"format": _EARLIER, "pixels": kept.pixels, "original": kept.original}
    else:
        arrays = {"picture": np.frombuffer(_encoded(kept.original), np.uint8)}
        header = {"pixels": kept.pixels, "original": hash_pixels(kept.original)}
    _FORMAT.write(path, arrays, header, overwrite=overwrite)


def read_latent(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> Kept:
    """Read what `write_latent` wrote.

    Args:
        path: the file.
        max_pixels: refuse a larger original before it is decoded: a damaged file may claim any size.

    Raises:
        InputError: the file is missing, damaged, or holds something else, or a larger original.
    """
    header, arrays = _FORMAT.read(path)
    if header["format"] == _EARLIER:
        for name in ("z", "rounding"):
            if name not in arrays or arrays[name].dtype not in (np.float16, np.float32) or arrays[name].ndim != 3:
                raise InputError(f"{path} is damaged: expected {name!r} of three dimensions in float16 or float32")
        return Latent(arrays["z"], arrays["rounding"], header["pixels"], header["original"])
    coded = arrays.get("picture")
    if coded is None or coded.dtype != np.uint8 or coded.ndim != 1:
        raise InputError(f"{path} is damaged: expected 'picture', the bytes of a WebP or PNG")
    try:
        original = _decoded(coded.tobytes(), max_pixels)
    except InputError:
        raise
    except Exception as error:  # decoders of foreign bytes raise nearly anything
        raise InputError(f"{path} is damaged: the original in it cannot be decoded: {error}") from error
    if hash_pixels(original) != header["original"]:
        raise InputError(f"{path} is damaged: the original in it has changed")
    return KeptOriginal(original, header["pixels"])


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    """A picture as a lossless WebP, or as a PNG where a side is too long for that."""
    chosen = FORMATS["webp" if max(pixels.shape) <= FORMATS["webp"].longest else "png"]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, chosen.kind, **chosen.options(None, small=False))
    return stream.getvalue()


def _decoded(coded: bytes, max_pixels: int | None) -> NDArray[np.uint8]:
    # Not by `Image.open`, which has a limit of pixels of its own.
    opened = PngImageFile if coded.startswith(_PNG) else WebPImageFile
    with opened(io.BytesIO(coded)) as image:
        if max_pixels is not None and image.width * image.height > max_pixels:
            size = f"{image.width}x{image.height}"
            raise InputError(f"the kept original belongs to another picture: {size} is over {max_pixels} pixels")
        return np.array(image.convert("RGB"))
