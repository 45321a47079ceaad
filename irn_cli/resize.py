"""Resizing with antialiasing, as MATLAB's `imresize` does it: bicubic is the training guide and the papers' baseline.

When shrinking, the kernel is stretched by the factor so that it averages over what it replaces. Borders mirror
half-sample symmetrically, as MATLAB's do.

Source: Keys, "Cubic convolution interpolation" (1981), with a = -0.5, for the bicubic kernel.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CPU = torch.device("cpu")
_BAND = 64  # rows of the small picture at a time


def bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by separable bicubic interpolation, antialiased where it shrinks.

    Args:
        x: (..., H, W) float.
        size: the new (H, W), each at least 1. The factor is new / old, so to shrink exactly s times, crop to a multiple
            of s first.

    Returns:
        (..., *size), same dtype and device, neither clamped nor rounded: cubic interpolation overshoots at edges.
    """
    return _resize(x, size, _keys_cubic, 2)


def lanczos(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by Lanczos interpolation of three lobes; otherwise as `bicubic`."""
    return _resize(x, size, _lanczos3, 3)


def area(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrink by averaging the area that each new sample covers, enlarge by repeating samples; else as `bicubic`."""
    return _resize(x, size, _box, 0.5)


def _resize(x: Tensor, size: tuple[int, int], kernel: Callable[[Tensor], Tensor], radius: float) -> Tensor:
    for dim, new in zip((-2, -1), size, strict=True):
        if x.shape[dim] != new:
            x = _resample(x, dim, _taps(x.shape[dim], new, kernel, radius))
    return x


def bicubic_small(pixels: NDArray[np.uint8], scale: int, device: torch.device = _CPU) -> NDArray[np.float32]:
    """Make an original small by bicubic interpolation, a band of rows at a time.

    Args:
        pixels: (H, W, 3), any size; its last row and column are repeated up to a multiple of the scale.
        scale: how many times smaller.
        device: where to compute.

    Returns:
        (ceil(H / s), ceil(W / s), 3) levels, 0 to 255, not rounded.
    """
    height, width = -(-pixels.shape[0] // scale), -(-pixels.shape[1] // scale)
    small = np.empty((height, width, 3), np.float32)
    columns = np.minimum(np.arange(width * scale), pixels.shape[1] - 1)
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        first, last = max(top - 2, 0), min(bottom + 2, height)  # the stretched kernel reaches two small pixels
        rows = np.minimum(np.arange(first * scale, last * scale), pixels.shape[0] - 1)
        band = torch.from_numpy(pixels[rows].take(columns, 1)).to(device).permute(2, 0, 1).contiguous().float()
        reduced = bicubic(band, (last - first, width))[:, top - first : bottom - first]
        small[top:bottom] = reduced.clamp(0, 255).permute(1, 2, 0).cpu().numpy()
    return small


def bicubic_large(small: NDArray[np.uint8], scale: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Enlarge a small picture by bicubic interpolation, a band of rows at a time.

    Args:
        small: (h, w, C) levels.
        scale: how many times larger.

    Yields:
        The first row of a band of the large picture, and the band, (rows, s w, C) levels, 0 to 255, not rounded.
    """
    height, width = small.shape[:2]
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        first, last = max(top - 3, 0), min(bottom + 3, height)  # the kernel reaches two small pixels from each centre
        band = torch.from_numpy(small[first:last]).permute(2, 0, 1).float()
        enlarged = bicubic(band, ((last - first) * scale, width * scale))
        rows = slice((top - first) * scale, (bottom - first) * scale)
        yield top * scale, enlarged[:, rows].clamp(0, 255).permute(1, 2, 0).numpy()


def _resample(x: Tensor, dim: int, taps: tuple[Tensor, Tensor]) -> Tensor:
    """Resize one dimension, tap by tap, so that memory stays near that of the result."""
    indices, weights = taps
    broadcast = (-1, 1) if dim == -2 else (-1,)
    result = x.new_zeros(())
    for index, weight in zip(indices.to(x.device), weights.to(x), strict=True):
        result = torch.addcmul(result, x.index_select(dim, index), weight.view(broadcast))
    return result


def _taps(old: int, new: int, kernel: Callable[[Tensor], Tensor], radius: float) -> tuple[Tensor, Tensor]:
    """Which old samples make each new one: indices and weights, both (taps, new); weights float64, summing to 1.

    Args:
        old: samples there are.
        new: samples to make.
        kernel: weight of an old sample, given its distance from the new one, in the coarser of the two grids.
        radius: the distance from which on the kernel is zero.
    """
    factor = new / old
    stretch = min(factor, 1.0)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) / factor - 0.5
    count = math.ceil(2 * radius / stretch) + 2
    positions = torch.floor(centres - radius / stretch) + torch.arange(count, dtype=torch.float64)[:, None]
    weights = kernel((centres - positions) * stretch)
    weights /= weights.sum(0)
    indices = positions.long() % (2 * old)
    indices = torch.where(indices < old, indices, 2 * old - 1 - indices)  # mirror: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
    used = (weights != 0).any(1)
    return indices[used], weights[used]


def _keys_cubic(t: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5: 1 at 0, 0 at the other whole numbers, nothing beyond 2."""
    t = t.abs()
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))


def _lanczos3(t: Tensor) -> Tensor:
    """The sinc function in a window that is the sinc's own middle lobe, three times as wide."""
    return torch.where(t.abs() < 3, torch.sinc(t) * torch.sinc(t / 3), 0.0)


def _box(t: Tensor) -> Tensor:
    """1 within half a sample; a sample on the boundary of two counts for one of them."""
    return ((t >= -0.5) & (t < 0.5)).to(t)
