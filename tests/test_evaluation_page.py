"""What the page shows of a picture. As a whole, and in a browser, it is tested in test_evaluation_report."""

import numpy as np
import pytest

from irn_cli.evaluation.page import worst_spot


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
