"""How far apart two pictures are in colour, as eyes see it: CIEDE2000, in float64.

PSNR and SSIM are measured on luma, where a pink speckle on skin hardly shows. A difference of 1 is just noticeable side
by side; a JPEG of quality 95 differs from its original by some 3 to 9 at the 95th percentile.

Sources: Sharma, Wu, Dalal, "The CIEDE2000 color-difference formula" (2005), whose test pairs the tests hold it against;
IEC 61966-2-1 for sRGB, with its white point D65.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irn_cli.metrics import Plane, bands

_TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip  # its rows add up to the white point, so that grey has no chroma


class ColourDifference(NamedTuple):
    """CIEDE2000 over all pixels of two pictures."""

    mean: float
    percentile_95: float  # a twentieth of the pixels differ by more


def colour_difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> ColourDifference:
    """Compare two sRGB pictures, (H, W, 3) levels, 0 to 255."""
    found = np.concatenate([ciede2000(lab(a[band]), lab(b[band])).astype(np.float32) for band in bands(a)])
    return ColourDifference(float(found.mean(dtype=np.float64)), float(np.percentile(found, 95)))


def lab(pixels: NDArray[np.uint8]) -> Plane:
    """Turn sRGB levels, (..., 3), into CIELAB: L from 0 to 100, a and b around 0."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    relative = linear[pixels] @ (_TO_XYZ.T / _TO_XYZ.sum(1))
    cube = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(cube, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def ciede2000(lab_1: Plane, lab_2: Plane) -> Plane:
    """The difference of CIELAB colours, (..., 3) -> (...), with the weights k_L = k_C = k_H = 1.

    The names are the paper's, a bar written as `mean`; its primes are left out.
    """
    (L1, a1, b1), (L2, a2, b2) = np.moveaxis(lab_1, -1, 0), np.moveaxis(lab_2, -1, 0)
    # Chroma and hue, once the axis a is stretched near grey (Eq. 2 to 7).
    G = 0.5 - 0.5 * _towards_1((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)
    a1, a2 = (1 + G) * a1, (1 + G) * a2
    C1, C2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    # Differences (Eq. 8 to 11), that of hue the short way round.
    turn = h2 - h1
    turn -= 360 * np.sign(turn) * (np.abs(turn) > 180)
    dL, dC, dH = L2 - L1, C2 - C1, 2 * np.sqrt(C1 * C2) * np.sin(np.radians(turn) / 2)
    # Means (Eq. 12 to 14); a grey has no hue of its own.
    L_mean, C_mean = (L1 + L2) / 2, (C1 + C2) / 2
    h_mean = np.where(C1 * C2 == 0, h1 + h2, (h1 + turn / 2) % 360)
    # Weights (Eq. 15 to 22).
    T = (
        1
        - 0.17 * np.cos(np.radians(h_mean - 30))
        + 0.24 * np.cos(np.radians(2 * h_mean))
        + 0.32 * np.cos(np.radians(3 * h_mean + 6))
        - 0.20 * np.cos(np.radians(4 * h_mean - 63))
    )
    S_L = 1 + 0.015 * (L_mean - 50) ** 2 / np.sqrt(20 + (L_mean - 50) ** 2)
    S_C, S_H = 1 + 0.045 * C_mean, 1 + 0.015 * C_mean * T
    R_T = -2 * _towards_1(C_mean) * np.sin(np.radians(60 * np.exp(-(((h_mean - 275) / 25) ** 2))))
    dL, dC, dH = dL / S_L, dC / S_C, dH / S_H
    difference: Plane = np.sqrt((dL**2 + dC**2 + dH**2 + R_T * dC * dH).clip(0))
    return difference


def _towards_1(chroma: Plane) -> Plane:
    """The paper's sqrt(C^7 / (C^7 + 25^7)): 0 for grey, near 1 for vivid colours."""
    seventh = chroma**7
    return np.sqrt(seventh / (seventh + 25.0**7))
