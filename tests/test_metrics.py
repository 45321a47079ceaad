import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from irn_cli.errors import InputError
from irn_cli.metrics import ciede2000, crop_border, delta_e_95, luma, psnr, ssim
from tests.helpers import SHARED, needs_shared


@needs_shared
def test_golden_pairs() -> None:
    pairs = load_file(SHARED / "golden" / "metrics.safetensors")
    expected = json.loads((SHARED / "golden" / "metrics.json").read_text())
    assert len(expected) == 9
    for row in expected:
        a, b = (crop_border(pairs[f"{row['pair']}.{side}"], row["border"]) for side in "ab")
        got = {"psnr_rgb": psnr(a, b), "psnr_y": psnr(luma(a), luma(b)), "ssim_y": ssim(luma(a), luma(b))}
        for name, value in got.items():
            assert value == pytest.approx(row[name], abs=1e-6, rel=0), (row["pair"], row["border"], name)


def test_luma_spans_the_studio_range() -> None:
    pixels = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]]], dtype=np.uint8)
    assert luma(pixels) == pytest.approx(np.array([[16, 235, 81.481, 40.966]]), abs=1e-9)


def test_full_range_luma_leaves_grey_as_it_is() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    assert luma(grey, full_range=True) == pytest.approx(grey[..., 0].astype(float), abs=1e-9)


def test_psnr_of_known_differences() -> None:
    a = np.full((4, 5, 3), 100, dtype=np.uint8)
    assert psnr(a, a) == math.inf
    assert psnr(a, a + np.uint8(1)) == pytest.approx(20 * math.log10(255))
    assert psnr(a + np.uint8(1), a) == psnr(a, a + np.uint8(1))  # uint8 must not wrap around


def ssim_as_written(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, one window after the other."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = 6.5025, 58.5225
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (43, 12), (75, 13)])  # one window, one band, two, three
def test_ssim_is_its_definition(size: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    a = random.uniform(0, 255, size)
    b = np.clip(a + random.normal(0, 25, size), 0, 255)
    assert ssim(a, b) == pytest.approx(ssim_as_written(a, b), abs=1e-12)
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_luma_of_bands_is_luma_of_the_whole() -> None:
    random = np.random.default_rng(4)
    a, b = random.integers(0, 256, (2, 75, 20, 3), dtype=np.uint8)
    assert ssim(a, b, of=luma) == pytest.approx(ssim(luma(a), luma(b)), abs=1e-12)
    assert psnr(a, b, of=luma) == pytest.approx(psnr(luma(a), luma(b)), abs=1e-12)


def test_ssim_of_integers_does_not_wrap_around() -> None:
    a = np.arange(400, dtype=np.uint8).reshape(20, 20)
    assert ssim(a, a[::-1]) == ssim(a.astype(float), a[::-1].astype(float))


def test_too_small_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="40 x 10 is too small for SSIM"):
        ssim(np.zeros((10, 40)), np.zeros((10, 40)))
    with pytest.raises(InputError, match="cannot crop 4 pixels off each side of a picture of 20 x 8"):
        crop_border(np.zeros((8, 20, 3)), 4)


def test_crop_takes_each_side() -> None:
    pixels = np.arange(5 * 6 * 3).reshape(5, 6, 3).astype(float)
    assert np.array_equal(crop_border(pixels, 2), pixels[2:3, 2:4])
    assert np.array_equal(crop_border(pixels, 0), pixels)


# Sharma, Wu and Dalal's pairs of colours: L, a and b of one, of the other, and their difference.
SHARMA = np.array([
    (50, 2.6772, -79.7751, 50, 0, -82.7485, 2.0425),
    (50, 3.1571, -77.2803, 50, 0, -82.7485, 2.8615),
    (50, 2.8361, -74.02, 50, 0, -82.7485, 3.4412),
    (50, -1.3802, -84.2814, 50, 0, -82.7485, 1.0),
    (50, -1.1848, -84.8006, 50, 0, -82.7485, 1.0),
    (50, -0.9009, -85.5211, 50, 0, -82.7485, 1.0),
    (50, 0, 0, 50, -1, 2, 2.3669),
    (50, -1, 2, 50, 0, 0, 2.3669),
    (50, 2.49, -0.001, 50, -2.49, 0.0009, 7.1792),
    (50, 2.49, -0.001, 50, -2.49, 0.001, 7.1792),
    (50, 2.49, -0.001, 50, -2.49, 0.0011, 7.2195),
    (50, 2.49, -0.001, 50, -2.49, 0.0012, 7.2195),
    (50, -0.001, 2.49, 50, 0.0009, -2.49, 4.8045),
    (50, -0.001, 2.49, 50, 0.001, -2.49, 4.8045),
    (50, -0.001, 2.49, 50, 0.0011, -2.49, 4.7461),
    (50, 2.5, 0, 50, 0, -2.5, 4.3065),
    (50, 2.5, 0, 73, 25, -18, 27.1492),
    (50, 2.5, 0, 61, -5, 29, 22.8977),
    (50, 2.5, 0, 56, -27, -3, 31.903),
    (50, 2.5, 0, 58, 24, 15, 19.4535),
    (50, 2.5, 0, 50, 3.1736, 0.5854, 1.0),
    (50, 2.5, 0, 50, 3.2972, 0, 1.0),
    (50, 2.5, 0, 50, 1.8634, 0.5757, 1.0),
    (50, 2.5, 0, 50, 3.2592, 0.335, 1.0),
    (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
    (63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.263),
    (61.2901, 3.7196, -5.3901, 61.4292, 2.248, -4.962, 1.8731),
    (35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645),
    (22.7233, 20.0904, -46.694, 23.0331, 14.973, -42.5619, 2.0373),
    (36.4612, 47.858, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146),
    (90.8027, -2.0831, 1.441, 91.1528, -1.6435, 0.0447, 1.4441),
    (90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381),
    (6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377),
    (2.0776, 0.0795, -1.135, 0.9033, -0.0636, -0.5514, 0.9082),
])  # fmt: skip


def test_ciede2000_on_the_published_pairs() -> None:
    found = ciede2000(SHARMA[:, :3], SHARMA[:, 3:6])
    assert np.abs(found - SHARMA[:, 6]).max() < 1e-4
    assert np.abs(ciede2000(SHARMA[:, 3:6], SHARMA[:, :3]) - found)[[0, 10, 16, 33]].max() < 1e-9


def test_delta_e_95_of_pictures() -> None:
    a = np.full((40, 50, 3), 128, np.uint8)
    b = a.copy()
    assert delta_e_95(a, b) == 0
    b[:3] += 40  # 7.5 % of the pixels
    some = delta_e_95(a, b)
    b[:] = a
    b[:1] += 40  # 2.5 %
    assert delta_e_95(a, b) == 0 < 10 < some
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert delta_e_95(black, white) == pytest.approx(100, abs=1e-3)
