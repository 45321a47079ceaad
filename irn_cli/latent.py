"""What a small picture cannot hold, kept in a file beside it: with it the original comes back bit for bit."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from irn_cli.errors import InputError
from irn_cli.paths import to_path
from irn_cli.tensors import Format

_FORMAT = Format("irn-latent-1", "a latent of irn", ("pixels", "original"), InputError)
Floats = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Latent:
    """The latent of one picture, and what rounding and clamping its small picture took."""

    z: Floats  # (h, w, 3 s^2 - 3) float16, or float32 where that would not do
    rounding: Floats  # (h, w, 3), alike: y - quantise(y)
    pixels: str  # hash of the small picture's pixels, to which it belongs
    original: str  # hash of the original's pixels: whether it came back bit for bit

    @property
    def nbytes(self) -> int:
        """The size of the arrays, in bytes."""
        return self.z.nbytes + self.rounding.nbytes


def latent_path(small: str | os.PathLike[str]) -> Path:
    """Where the latent of a small picture lies: `photo_down4.png` -> `photo_down4.latent.safetensors`."""
    return to_path(small).with_suffix(".latent.safetensors")


def write_latent(path: str | os.PathLike[str], latent: Latent, *, overwrite: bool = False) -> None:
    """Write a latent, atomically; 6 or 12 bytes for each pixel of the original.

    Raises:
        OutputError: the file exists already or cannot be written.
    """
    header = {"pixels": latent.pixels, "original": latent.original}
    _FORMAT.write(path, {"z": latent.z, "rounding": latent.rounding}, header, overwrite=overwrite)


def read_latent(path: str | os.PathLike[str]) -> Latent:
    """Read what `write_latent` wrote.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    header, arrays = _FORMAT.read(path)
    for name in ("z", "rounding"):
        if name not in arrays or arrays[name].dtype not in (np.float16, np.float32) or arrays[name].ndim != 3:
            raise InputError(f"{path} is damaged: expected {name!r} of three dimensions in float16 or float32")
    return Latent(arrays["z"], arrays["rounding"], header["pixels"], header["original"])
