import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load_file

from irn_cli.errors import InputError
from irn_cli.metrics import bands, crop_border, luma, psnr, ssim
from irn_cli.picture import Picture
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
def test_ssim_is_its_definition(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irn_cli.metrics._BAND", 0)  # as few rows as there may be
    random = np.random.default_rng(3)
    a = random.uniform(0, 255, size)
    b = np.clip(a + random.normal(0, 25, size), 0, 255)
    assert ssim(a, b) == pytest.approx(ssim_as_written(a, b), abs=1e-12)
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_luma_of_bands_is_luma_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    a, b = random.integers(0, 256, (2, 75, 20, 3), dtype=np.uint8)
    whole = ssim(luma(a), luma(b)), psnr(luma(a), luma(b))
    monkeypatch.setattr("irn_cli.metrics._BAND", 0)
    assert len(list(bands(a))) == 3
    assert (ssim(a, b, of=luma), psnr(a, b, of=luma)) == pytest.approx(whole, abs=1e-12)


def test_ssim_of_integers_does_not_wrap_around() -> None:
    a = np.arange(400, dtype=np.uint8).reshape(20, 20)
    assert ssim(a, a[::-1]) == ssim(a.astype(float), a[::-1].astype(float))


def test_pictures_are_taken_for_their_pixels() -> None:
    a, b = (np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8) for seed in (0, 1))
    assert psnr(Picture(a), Picture(b)) == psnr(a, b)
    assert ssim(Picture(a), b, of=luma) == ssim(a, b, of=luma)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pictures_of_different_shapes_are_refused(measure: Callable[..., float]) -> None:
    with pytest.raises(InputError, match=r"equal shape, found \(40, 40\) and \(40, 1\)"):
        measure(np.zeros((40, 40)), np.zeros((40, 1)))


def test_too_small_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="40 x 10 is too small for SSIM"):
        ssim(np.zeros((10, 40)), np.zeros((10, 40)))
    with pytest.raises(InputError, match="cannot crop 4 pixels off each side of a picture of 20 x 8"):
        crop_border(np.zeros((8, 20, 3)), 4)


def test_crop_takes_each_side() -> None:
    pixels = np.arange(5 * 6 * 3).reshape(5, 6, 3).astype(float)
    assert np.array_equal(crop_border(pixels, 2), pixels[2:3, 2:4])
    assert np.array_equal(crop_border(pixels, 0), pixels)
