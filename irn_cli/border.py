"""What surrounds a picture while the network works on it; it is taken off again afterwards.

The network's convolutions pad with zeros where a picture ends, and it was trained so. A tiny or thin picture is nearly
all border to it, and comes back as noise; such a picture is continued by itself before it enters the network.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["zero", "mirror", "edge"]
LEAST = 64  # pixels: pictures with no shorter side are restored best with zeros around them (benchmarks/README.md)


@dataclass(frozen=True)
class Border:
    """A picture's surroundings, counted in pixels of the small picture so that they fit both sizes."""

    kind: Kind = "zero"  # nothing is added and the network pads; or the picture mirrored, or its outermost pixels
    rows: int = 0  # added above, and as many below
    columns: int = 0  # added on the left, and as many on the right

    @classmethod
    def of(cls, kind: Kind, size: tuple[int, int], scale: int, width: int = 0) -> "Border":
        """The border that makes each side of an original at least LEAST pixels long.

        Args:
            kind: of the border.
            size: the original's (H, W).
            scale: how many times smaller it becomes.
            width: the least number of the original's pixels that are added on every side.
        """
        if kind == "zero":
            return cls()
        rows, columns = (-(-max((LEAST - side) / 2, width) // scale) for side in size)
        return cls(kind, int(rows), int(columns))

    def sources(self, size: tuple[int, int], scale: int = 1) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which rows and columns of a picture make up its extended form, `pixels[rows][:, columns]`.

        Args:
            size: the picture's (H, W).
            scale: s for an original, whose last row and column are repeated up to a multiple of s; 1 for a small one.

        Returns:
            Row numbers and column numbers.
        """
        height, width = size
        return self._along(height, self.rows, scale), self._along(width, self.columns, scale)

    def _along(self, length: int, margin: int, scale: int) -> NDArray[np.intp]:
        whole = length + -length % scale
        at = np.arange(-margin * scale, whole + margin * scale)
        if self.kind == "mirror":
            at %= 2 * whole
            at = np.minimum(at, 2 * whole - 1 - at)
        return at.clip(0, length - 1)
