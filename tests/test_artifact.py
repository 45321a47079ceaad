"""Blotches: found where they are, wherever the bands of rows end, and masked."""

import numpy as np
import pytest

from irn_cli.artifact import PATCH, THRESHOLD, artifact_mask, find_artifact


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("place", [(0, 0), (57, 3), (60, 40), (64, 41), (119, 84)])
def test_the_worst_patch_is_found(place: tuple[int, int]) -> None:
    row, column = place
    reference = noise(127, 92, 3).astype(np.float32) / 2 + 20
    small = reference.astype(np.uint8)
    small[row : row + PATCH, column : column + PATCH, 1] += 60
    artifact = find_artifact(small, reference)
    assert (artifact.row, artifact.column, artifact.channel) == (row, column, "green")
    patch = np.s_[row : row + PATCH, column : column + PATCH, 1]
    assert artifact.deviation == pytest.approx((small[patch] - reference[patch].astype(float)).mean(), abs=1e-4)
    assert f"at x {column}, y {row}: green is 60 levels off" in str(artifact)
    mask = artifact_mask(small, reference)
    assert mask.shape == (127, 92)
    assert (mask[row : row + PATCH, column : column + PATCH] == 1).all()
    assert 0 < mask.sum() < (6 * PATCH) ** 2


def test_it_deviates_alike_in_both_directions_and_not_where_that_averages_out() -> None:
    chequered = np.where(np.indices((32, 32)).sum(0) % 2, 200, 60).astype(np.uint8)
    small = np.repeat(chequered[..., None], 3, 2)
    assert find_artifact(small, np.full(small.shape, 130, np.float32)).deviation == 0
    small[9:17, 9:17, 2] -= 40
    assert find_artifact(small, np.full(small.shape, 130, np.float32)).deviation == 40


def test_nothing_is_masked_where_nothing_is_wrong() -> None:
    reference = noise(70, 70, 3).astype(np.float32)
    small = np.clip(reference + THRESHOLD - 2, 0, 255).astype(np.uint8)
    assert find_artifact(small, reference).deviation < THRESHOLD
    assert not artifact_mask(small, reference).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (50, 7)])
def test_pictures_smaller_than_a_patch(shape: tuple[int, int]) -> None:
    reference = np.zeros((*shape, 3), np.float32)
    small = np.full((*shape, 3), 80, np.uint8)
    assert find_artifact(small, reference).deviation == 80
    assert (artifact_mask(small, reference) == 1).all()
