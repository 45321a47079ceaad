"""Transparency, which the network does not see: colours under transparent pixels, and the small and large alpha.

The network sees three colour channels. What is under fully transparent pixels means nothing (black, white,
leftovers), yet it would bleed into the visible edge when both are averaged, so it is replaced by the colours nearby.
"""

import numpy as np
from numpy.typing import NDArray

from irn_cli.resize import bicubic_large

Alpha = NDArray[np.uint8]
_QUARTERS = [(slice(row, None, 2), slice(column, None, 2)) for row in (0, 1) for column in (0, 1)]  # of 2x2 pixels


def fill_hidden(pixels: NDArray[np.uint8], alpha: Alpha | None) -> NDArray[np.uint8]:
    """Continue the visible colours under the fully transparent pixels.

    A pyramid: each coarser level holds the mean of the visible among 2x2 pixels; then from coarse to fine, what is
    hidden takes the colour of the level above.

    Args:
        pixels: (H, W, 3); not changed.
        alpha: (H, W), or None where everything is opaque.

    Returns:
        (H, W, 3); `pixels` itself where nothing is hidden, or nothing visible.
    """
    if alpha is None:
        return pixels
    known = alpha > 0
    if known.all() or not known.any():
        return pixels
    return _filled(pixels, known)


def _filled(pixels: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    if known.all():
        return pixels
    height, width = known.shape
    shape = -(-height // 2), -(-width // 2)
    count = np.zeros(shape, np.uint8)
    total = np.zeros((*shape, 3), np.uint16)
    for quarter in _QUARTERS:
        there = known[quarter]
        h, w = there.shape
        count[:h, :w] += there
        total[:h, :w] += pixels[quarter] * there[..., None]
    coarse = _filled((total // np.maximum(count, 1)[..., None]).astype(np.uint8), count > 0)
    filled = pixels.copy()
    for quarter in _QUARTERS:
        hidden = ~known[quarter]
        h, w = hidden.shape
        filled[quarter][hidden] = coarse[:h, :w][hidden]
    return filled


def shrink_alpha(alpha: Alpha, scale: int) -> Alpha:
    """The small picture's alpha: the mean of each scale x scale pixels (fewer at the right and bottom).

    Args:
        alpha: (H, W).
        scale: how many times smaller.

    Returns:
        (ceil(H / s), ceil(W / s)), rounded.
    """
    rows, columns = np.arange(0, alpha.shape[0], scale), np.arange(0, alpha.shape[1], scale)
    total = np.add.reduceat(np.add.reduceat(alpha, columns, 1, np.uint16), rows, 0, np.uint16)
    heights = np.diff(rows, append=alpha.shape[0])[:, None]
    widths = np.diff(columns, append=alpha.shape[1])
    area = heights * widths
    small: Alpha = ((total + area // 2) // area).astype(np.uint8)
    return small


def enlarge_alpha(alpha: Alpha, scale: int) -> Alpha:
    """A large alpha (s h, s w) from a small one (h, w), bicubic: where the original's own did not survive."""
    large = np.empty((alpha.shape[0] * scale, alpha.shape[1] * scale), np.uint8)
    for top, band in bicubic_large(alpha[..., None], scale):
        large[top : top + len(band)] = np.rint(band[..., 0])
    return large
