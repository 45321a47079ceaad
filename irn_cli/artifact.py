"""Coloured blotches in small pictures: found by comparison with the bicubic small picture, and blended away.

Invertible networks are known to hide detail as coloured dots in textures far from their training; restoration fails
there as well. A mean over the whole picture does not show them, the mean of one 8x8 patch does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

PATCH = 8  # side, pixels of the small picture
THRESHOLD = 20.0  # levels: on a plain surface the eye finds it at once
_BAND = 64  # rows of the small picture at a time


@dataclass(frozen=True)
class Artifact:
    """The worst patch of a small picture."""

    deviation: float  # |mean(small - bicubic)| over the patch, in its worst channel, levels 0 to 255
    channel: str  # red, green or blue
    row: int  # of the patch's upper left corner in the small picture
    column: int

    def __str__(self) -> str:
        """One line for a warning."""
        return (
            f"coloured blotch in the small picture at x {self.column}, y {self.row}: "
            f"{self.channel} is {self.deviation:.0f} levels off over {PATCH}x{PATCH} pixels"
        )


def find_artifact(small: NDArray[np.uint8], reference: NDArray[np.float32]) -> Artifact:
    """Find the patch of a small picture that deviates most from the bicubic one.

    Args:
        small: (h, w, 3) levels.
        reference: (h, w, 3) levels, from `bicubic_small`.
    """
    worst = Artifact(-1.0, "", 0, 0)
    for top, deviations in _deviations(small, reference):
        channel, row, column = np.unravel_index(int(deviations.argmax()), deviations.shape)
        if (deviation := float(deviations[channel, row, column])) > worst.deviation:
            worst = Artifact(deviation, ("red", "green", "blue")[channel], top + int(row), int(column))
    return worst


def artifact_mask(small: NDArray[np.uint8], reference: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where the blotches are: 1 on every patch beyond the threshold, fading to 0 around it.

    Args:
        small: (h, w, 3) levels.
        reference: (h, w, 3) levels, from `bicubic_small`.

    Returns:
        (h, w), 0 to 1.
    """
    height, width = small.shape[:2]
    hit = torch.zeros(1, 1, height, width)
    for top, deviations in _deviations(small, reference):
        for row, column in (deviations.amax(0) > THRESHOLD).nonzero().tolist():
            hit[..., top + row : top + row + PATCH, column : column + PATCH] = 1
    reach = PATCH // 2
    wide = functional.max_pool2d(hit, 4 * reach + 1, 1, 2 * reach)
    mask = functional.avg_pool2d(wide, 2 * reach + 1, 1, reach, count_include_pad=False)
    return mask[0, 0].numpy()


def _deviations(small: NDArray[np.uint8], reference: NDArray[np.float32]) -> Iterator[tuple[int, Tensor]]:
    """The first row of each band of patches, and |mean deviation| of the patches, (3, rows, columns)."""
    height, width = small.shape[:2]
    patch = min(PATCH, height), min(PATCH, width)
    for top in range(0, height - patch[0] + 1, _BAND):
        rows = slice(top, min(top + _BAND + patch[0] - 1, height))
        difference = torch.from_numpy(small[rows] - reference[rows]).permute(2, 0, 1)
        yield top, functional.avg_pool2d(difference, patch, 1).abs()
