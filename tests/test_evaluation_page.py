"""What the page shows of a picture. As a whole, and in a browser, it is tested in test_evaluation_report."""

import math

import numpy as np
import pytest

from irn_cli.evaluation.page import choose, worst_spot
from irn_cli.evaluation.scores import Score


def test_the_worst_spot_is_found() -> None:
    a = np.zeros((60, 90, 3), np.uint8)
    b = a.copy()
    b[5, 5] = 255  # a single bad pixel weighs less than a bad area
    b[40:56, 70:86, 1] = 100
    assert worst_spot(a, b) == (48, 78)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 3), (16, 16)])
def test_the_worst_spot_lies_in_pictures_of_any_size(size: tuple[int, int]) -> None:
    a = np.zeros((*size, 3), np.uint8)
    b = a.copy()
    b[-1, -1] = 255
    row, column = worst_spot(a, b)
    assert 0 <= row < size[0]
    assert 0 <= column < size[1]


def test_equal_pictures_have_a_worst_spot_too() -> None:
    a = np.zeros((30, 30, 3), np.uint8)
    assert worst_spot(a, a) == (8, 8)


def scores(method: str, *levels: float) -> list[Score]:
    unknown = dict.fromkeys(
        ("lr_psnr_y", "lr_ssim_y", "lr_worst_patch", "lr_delta_e", "lr_delta_e_95", "lr_bits_per_pixel", "bytes",
         "bits_per_pixel", "seconds")
    )  # fmt: skip
    return [
        Score(method=method, scale=4, dataset="set", name=name, width=64, height=64, psnr_y_samples=(level,),
              quality={"psnr_y": level}, **unknown)
        for name, level in zip("abcd", levels, strict=False)
    ]  # fmt: skip


def test_the_largest_loss_is_that_against_the_best_other_method() -> None:
    rows = [*scores("first", 30, 28, 33, 31), *scores("other", 31, 33, 30, 31), *scores("third", 31, 20, 34)]
    assert choose("set", ["first", "other", "third"], rows)["b"] == ["largest loss", "worst"]
    better = choose("set", ["other", "third"], scores("other", 31, 33) + scores("third", 30, 20))
    assert better == {"a": ["worst"], "b": ["median", "best"]}


@pytest.mark.parametrize("kept", [[math.inf] * 4, [math.inf, 30, 28, math.inf]])
def test_methods_that_lose_nothing_lose_nothing_to_each_other(kept: list[float]) -> None:
    rows = scores("first", *kept) + scores("other", *[math.inf] * 4)
    losing = [name for name, roles in choose("set", ["first", "other"], rows).items() if "largest loss" in roles]
    assert losing == ["c"] * (28 in kept)
