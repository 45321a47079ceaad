"""Bicubic resizing with antialiasing, as MATLAB's `imresize` does it: the training guide and the papers' baseline.

Source: Keys, "Cubic convolution interpolation" (1981), with a = -0.5; when shrinking, the kernel is stretched by the
factor so that it averages over what it replaces. Borders mirror half-sample symmetrically, as MATLAB's do.
"""

import math

import torch
from torch import Tensor


def bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by separable bicubic interpolation, antialiased where it shrinks.

    Args:
        x: (..., H, W) float.
        size: the new (H, W), each at least 1. The factor is new / old, so to shrink exactly s times, crop to a multiple
            of s first.

    Returns:
        (..., *size), same dtype and device, neither clamped nor rounded: cubic interpolation overshoots at edges.
    """
    return _resample(_resample(x, -2, size[0]), -1, size[1])


def _resample(x: Tensor, dim: int, new: int) -> Tensor:
    """Resize one dimension, tap by tap, so that memory stays near that of the result."""
    old = x.shape[dim]
    if old == new:
        return x
    indices, weights = _taps(old, new)
    broadcast = (new, 1) if dim == -2 else (new,)
    result = x.new_zeros(())
    for index, weight in zip(indices.to(x.device), weights.to(x), strict=True):
        result = torch.addcmul(result, x.index_select(dim, index), weight.view(broadcast))
    return result


def _taps(old: int, new: int) -> tuple[Tensor, Tensor]:
    """Which old samples make each new one: indices and weights, both (taps, new); weights float64, summing to 1."""
    factor = new / old
    stretch = min(factor, 1.0)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) / factor - 0.5
    count = math.ceil(4 / stretch) + 2
    positions = torch.floor(centres - 2 / stretch) + torch.arange(count, dtype=torch.float64)[:, None]
    weights = _keys_cubic((centres - positions) * stretch)
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
