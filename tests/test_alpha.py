"""Transparency: no colour of what is hidden reaches what is seen, and alpha itself survives."""

import numpy as np
import pytest

from irn_cli.alpha import enlarge_alpha, fill_hidden, shrink_alpha
from irn_cli.resize import bicubic_large


def disc(height: int, width: int, soft: float = 1.0) -> np.ndarray:
    """A disc of alpha whose edge is `soft` pixels wide."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2)
    return (np.clip((min(height, width) / 3 - distance) / soft + 0.5, 0, 1) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (77, 2), (64, 64), (101, 37)])
def test_hidden_pixels_take_visible_colours(shape: tuple[int, int]) -> None:
    alpha = disc(*shape)
    pixels = np.where(alpha[..., None] > 0, [200, 90, 10], [0, 255, 0]).astype(np.uint8)
    before = pixels.copy()
    filled = fill_hidden(pixels, alpha)
    assert np.array_equal(pixels, before)
    assert (filled == [200, 90, 10]).all()


def test_visible_pixels_stay_and_the_fill_is_nearby() -> None:
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, :20], alpha[:, 50:] = 255, 1
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels[:, :20] //= 4
    pixels[:, 50:] = pixels[:, 50:] // 4 + 190
    filled = fill_hidden(pixels, alpha)
    assert np.array_equal(filled[alpha > 0], pixels[alpha > 0])
    assert filled[:, 20:28].max() < 64
    assert filled[:, 44:50].min() > 180


@pytest.mark.parametrize("alpha", [None, np.full((5, 4), 255, np.uint8), np.zeros((5, 4), np.uint8)])
def test_nothing_to_fill(alpha: np.ndarray | None) -> None:
    pixels = np.zeros((5, 4, 3), np.uint8)
    assert fill_hidden(pixels, alpha) is pixels


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (8, 8), (13, 30)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_small_alpha_is_the_mean(shape: tuple[int, int], scale: int) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    small = shrink_alpha(alpha, scale)
    assert small.shape == (-(-shape[0] // scale), -(-shape[1] // scale))
    for row, column in np.ndindex(small.shape):
        block = alpha[row * scale : (row + 1) * scale, column * scale : (column + 1) * scale]
        assert abs(small[row, column] - block.mean()) <= 0.5


def test_alpha_is_enlarged_when_its_own_is_gone() -> None:
    alpha = disc(160, 300, soft=12)
    small = shrink_alpha(alpha, 4)
    large = enlarge_alpha(small, 4)
    assert large.shape == alpha.shape
    assert np.abs(large.astype(int) - alpha).mean() < 2
    bicubic = np.concatenate([band[..., 0] for _, band in bicubic_large(small[..., None], 4)])
    assert np.abs(large - bicubic).max() <= 0.5, "rounded, not cut off"
