"""How near one picture is to another: luma, PSNR and SSIM, in float64, as the papers measure them.

`METRICS` is the table of what every evaluation measures; a further metric is a further line in it.

Pictures are arrays of levels, 0 to 255: (H, W, 3) RGB or (H, W) of one channel, uint8 or float. Nothing here rounds.

Sources: ITU-R BT.601 for luma, in the form of MATLAB's `rgb2ycbcr`; Wang et al., "Image quality assessment: from error
visibility to structural similarity" (2004) for SSIM, in the form of their `ssim_index.m`.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from irn_cli.errors import InputError

Levels = NDArray[np.uint8] | NDArray[np.float64]
Plane = NDArray[np.float64]

WINDOW = 11  # side of SSIM's Gaussian window, and so of the smallest picture that it can measure
_SIGMA = 1.5  # the window's standard deviation, pixels
_BAND = 1 << 17  # pixels worked on at once: few steps, after each of which threads wait for Python's lock
_ROWS = 32  # at least, which are few beside a huge picture


def luma(pixels: Levels, *, full_range: bool = False) -> Plane:
    """Weigh R, G, B into Y of BT.601.

    Args:
        pixels: (H, W, 3) RGB levels, 0 to 255.
        full_range: keep 0 to 255, which leaves a grey picture's levels as they are; otherwise black is 16, white 235.

    Returns:
        (H, W), not rounded.
    """
    weights = np.array([65.481, 128.553, 24.966])  # they add up to 219
    low, high = (0, 255) if full_range else (16, 235)
    y: Plane = low + np.asarray(pixels, dtype=np.float64) @ weights * ((high - low) / (219 * 255))
    return y


def crop_border(pixels: Levels, width: int) -> Levels:
    """Take `width` rows and columns off each side.

    Raises:
        InputError: nothing would be left.
    """
    H, W = pixels.shape[:2]
    if min(H, W) <= 2 * width:
        raise InputError(f"cannot crop {width} pixels off each side of a picture of {W} x {H}")
    return pixels[width : H - width, width : W - width]


def psnr(a: ArrayLike, b: ArrayLike, *, of: Callable[[Levels], Levels] | None = None) -> float:
    """Peak signal-to-noise ratio of two pictures of equal shape, in dB; infinite where they are equal.

    The peak is 255 for luma as well, though its range is narrower: so the papers do.

    Args:
        a: levels, or a `Picture`.
        b: the other, alike.
        of: what to compare of each band of rows, such as `luma`, where making it of the whole would take much memory.

    Raises:
        InputError: the shapes differ.
    """
    a, b = _alike(a, b)
    total, count = 0.0, 0
    for band in bands(a):
        band_a, band_b = a[band], b[band]
        if of:
            band_a, band_b = of(band_a), of(band_b)
        difference = np.asarray(band_a, dtype=np.float64) - band_b
        total += float(np.sum(difference * difference))
        count += difference.size
    return 10 * math.log10(255**2 * count / total) if total else math.inf


@dataclass(frozen=True)
class Psnr:
    """How near a restored picture comes to its original, over all pixels, in dB."""

    luma: float  # on Y of BT.601
    rgb: float

    @classmethod
    def of(cls, original: Levels, restored: Levels) -> "Psnr":
        """Compare two (H, W, 3) pictures."""
        return cls(luma=psnr(original, restored, of=luma), rgb=psnr(original, restored))


def ssim(a: ArrayLike, b: ArrayLike, *, of: Callable[[Levels], Levels] | None = None) -> float:
    """Mean structural similarity of two planes, over every place where the 11x11 window fits.

    Args:
        a: (H, W), levels; or a picture of which `of` makes them, as `luma` does.
        b: the other, alike.
        of: what to compare of each band of rows, as for `psnr`.

    Returns:
        At most 1, which it is for equal planes.

    Raises:
        InputError: a side is shorter than the window, or the shapes differ.
    """
    a, b = _alike(a, b)
    H, W = a.shape[:2]
    if min(H, W) < WINDOW:
        raise InputError(f"a picture of {W} x {H} is too small for SSIM: expected at least {WINDOW} pixels a side")
    rows, columns = H - WINDOW + 1, W - WINDOW + 1
    total = 0.0
    for windows in bands(a[:rows]):
        band = slice(windows.start, windows.stop + WINDOW - 1)
        band_a, band_b = (of(a[band]), of(b[band])) if of else (a[band], b[band])
        total += float(_similarity(np.asarray(band_a, dtype=np.float64), np.asarray(band_b, dtype=np.float64)).sum())
    return float(total / (rows * columns))


def bands(a: NDArray[Any]) -> Iterator[slice]:
    """Cut an array's rows into bands, so that what is made of each stays small beside a huge picture."""
    rows = max(_ROWS, _BAND // (a.shape[1] if a.ndim > 1 else 1))
    for top in range(0, len(a), rows):
        yield slice(top, min(top + rows, len(a)))


def _alike(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise InputError(f"expected two pictures of equal shape, found {a.shape} and {b.shape}")
    return a, b


def _similarity(a: Plane, b: Plane) -> Plane:
    """SSIM's map (Eq. 13 of the paper) of one band: (H, W) -> (H - 10, W - 10)."""
    mean_a, mean_b = _smooth(a), _smooth(b)
    means = mean_a * mean_b
    squares = mean_a * mean_a + mean_b * mean_b
    covariance = _smooth(a * b) - means
    variances = _smooth(a * a + b * b) - squares
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity: Plane = (2 * means + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return similarity


def _smooth(a: Plane) -> Plane:
    """Gaussian mean of each 11x11 window that fits, rows first, then columns: (H, W) -> (H - 10, W - 10)."""
    centre = WINDOW // 2
    weights = np.exp(-((np.arange(WINDOW) - centre) ** 2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for _ in range(2):
        size = len(a) - WINDOW + 1
        smooth = weights[centre] * a[centre : centre + size]
        for k in range(centre):  # the window is symmetric: both samples at a distance share a weight
            smooth += weights[k] * (a[k : k + size] + a[WINDOW - 1 - k : WINDOW - 1 - k + size])
        a = smooth.T
    return a


@dataclass(frozen=True)
class Metric:
    """A figure for how near a restored picture is to its original."""

    key: str  # in JSON, in CSV and on the command line
    label: str  # in tables
    digits: int  # behind the decimal point, in tables
    higher_is_better: bool
    measure: Callable[[Levels, Levels, bool], float]  # of the original, the restored one, and whether they are grey


def _luma(grey: bool) -> Callable[[Levels], Plane]:
    """A grey picture is measured on its own levels, a colour picture on BT.601's studio range."""
    return partial(luma, full_range=grey)


METRICS = (
    Metric("psnr_y", "PSNR Y", 2, True, lambda a, b, grey: psnr(a, b, of=_luma(grey))),
    Metric("ssim_y", "SSIM Y", 4, True, lambda a, b, grey: ssim(a, b, of=_luma(grey))),
    Metric("psnr_rgb", "PSNR RGB", 2, True, lambda a, b, grey: psnr(a, b)),
)


def finite(value: Any) -> Any:
    """The same nested value with None for what JSON lacks: infinity, as the PSNR of equal pictures is, and NaN."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def finite_mean(values: Sequence[float]) -> float:
    """The mean of what is finite; infinity where nothing is."""
    return statistics.fmean([value for value in values if value < math.inf] or values)
