"""The eight ways in which a picture can lie, as EXIF numbers its orientation.

1 is upright, 2 to 4 are flipped or upside down, 5 to 8 on their side.
"""

import numpy as np
from numpy.typing import NDArray


def as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of an upright picture as it lies in a file, or in the network, of an orientation.

    Args:
        upright: (H, W) or (H, W, C).
        orientation: 1 to 8.

    Returns:
        (H, W) or (H, W, C); with height and width exchanged from 5 on.
    """
    view = upright.swapaxes(0, 1) if orientation > 4 else upright
    if orientation in (3, 4, 6, 7):
        view = view[::-1]
    if orientation in (2, 3, 7, 8):
        view = view[:, ::-1]
    return view


def as_upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The upright picture whose `as_stored` this is; a copy, but for orientation 1."""
    if orientation == 1:
        return stored
    height, width = stored.shape[:2] if orientation <= 4 else stored.shape[1::-1]
    upright = np.empty((height, width, *stored.shape[2:]), stored.dtype)
    as_stored(upright, orientation)[:] = stored
    return upright
