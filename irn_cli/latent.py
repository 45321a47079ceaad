"""What a small picture cannot hold, kept in a file beside it: with it the original comes back bit for bit."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from irn_cli.errors import InputError
from irn_cli.files import atomic_write

FORMAT = "irn-latent-1"


@dataclass(frozen=True, eq=False)
class Latent:
    """The latent of one picture, and what rounding and clamping its small picture took."""

    z: Tensor  # (h, w, 3 s^2 - 3) float16, or float32 where that would not do
    rounding: Tensor  # (h, w, 3), alike: y - quantise(y)
    pixels: str  # hash of the small picture's pixels, to which it belongs
    original: str  # hash of the original's pixels: whether it came back bit for bit

    @property
    def nbytes(self) -> int:
        """The size of the tensors, in bytes."""
        return int(self.z.nbytes + self.rounding.nbytes)


def latent_path(small: Path) -> Path:
    """Where the latent of a small picture lies: `photo_down4.png` -> `photo_down4.latent.safetensors`."""
    return small.with_suffix(".latent.safetensors")


def write_latent(path: str | os.PathLike[str], latent: Latent, *, overwrite: bool = False) -> None:
    """Write a latent, atomically; 6 or 12 bytes for each pixel of the original.

    Raises:
        OutputError: the file exists already or cannot be written.
    """
    header = {"format": FORMAT, "pixels": latent.pixels, "original": latent.original}
    with atomic_write(path, overwrite=overwrite) as stream:
        stream.write(save({"z": latent.z, "rounding": latent.rounding}, metadata=header))


def read_latent(path: str | os.PathLike[str]) -> Latent:
    """Read what `write_latent` wrote.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if (found := header.get("format")) != FORMAT:
                raise InputError(f"{path} is not a latent of irn: expected format {FORMAT!r}, found {found!r}")
            latent = Latent(file.get_tensor("z"), file.get_tensor("rounding"), header["pixels"], header["original"])
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path} is not a whole latent of irn: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if any(t.dtype not in (torch.float16, torch.float32) or t.dim() != 3 for t in (latent.z, latent.rounding)):
        raise InputError(f"{path} is damaged: expected tensors of three dimensions in float16 or float32")
    return latent
