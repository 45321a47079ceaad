"""A picture in memory: what the network works on, and what travels with it from file to file."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irn_cli.errors import InputError
from irn_cli.latent import Latent
from irn_cli.metrics import Psnr
from irn_cli.record import Record, Restored


@dataclass(frozen=True)
class Refinement:
    """What refining a small picture came to, so far or in all."""

    iterations: int
    before: Psnr  # of what the picture, as the network made it, is restored to
    after: Psnr  # of what the best one is restored to


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in memory, upright, with what travels with it."""

    pixels: NDArray[np.uint8]  # (H, W, 3) RGB; a grey picture has three equal channels
    alpha: NDArray[np.uint8] | None = None  # (H, W), straight (not premultiplied); 255 is opaque
    mode: str = "RGB"  # the colours of its file: "RGB" or "L" (grey)
    icc: bytes | None = None  # colour profile, of the kind that `mode` needs
    exif: bytes | None = None  # without orientation and thumbnail
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None  # horizontal, vertical
    chunks: tuple[tuple[bytes, bytes], ...] = ()  # texts, and what colours mean, as the chunks of a PNG: (kind, data)
    record: Record | Restored | None = None  # where it came from, if we made it
    full_alpha: NDArray[np.uint8] | None = None  # on a small picture: the original's alpha, full size
    latent: Latent | None = None  # on a small picture: what it cannot hold, where it was kept
    refinement: Refinement | None = None  # on a small picture just made: what refining it came to
    warnings: tuple[str, ...] = ()  # what was lost or doubtful on the way here; one line each

    def __post_init__(self) -> None:
        """Refuse arrays of another kind with an `InputError`; copy reversed and read-only ones, which torch refuses."""
        size = self.pixels.shape[:2]
        for name, array, shape in (("pixels", self.pixels, (*size, 3)), ("alpha", self.alpha, size)):
            if array is None:
                continue
            if array.dtype != np.uint8 or array.shape != shape or not array.size:
                raise InputError(f"a picture's {name}: expected uint8, {shape}, found {array.dtype}, {array.shape}")
            object.__setattr__(self, name, np.require(array, requirements=["C", "W"]))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.pixels.shape[:2]
        return height, width
