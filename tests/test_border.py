"""What surrounds a picture in the network."""

from typing import get_args

import numpy as np
import pytest

from irn_cli.border import LEAST, Border, Kind


def test_zeros_add_nothing() -> None:
    assert Border.of("zero", (5, 7), 4, width=20) == Border()


@pytest.mark.parametrize("kind", ["mirror", "edge"])
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (3, 64), (63, 5), (64, 200)])
def test_each_side_becomes_long_enough_and_barely(kind: Kind, scale: int, size: tuple[int, int]) -> None:
    border = Border.of(kind, size, scale)
    for side, margin in zip(size, (border.rows, border.columns), strict=True):
        assert side + 2 * margin * scale >= LEAST
        assert margin == 0 or side + 2 * (margin - 1) * scale < LEAST


def test_a_least_width_is_added_to_every_side() -> None:
    assert Border.of("mirror", (500, 500), 4, width=10) == Border("mirror", 3, 3)


@pytest.mark.parametrize(("kind", "mode"), [("mirror", "symmetric"), ("edge", "edge"), ("zero", "edge")])
@pytest.mark.parametrize("size", [(1, 3), (5, 2), (8, 8)])
def test_rows_and_columns_are_those_that_numpy_pads_with(kind: Kind, mode: str, size: tuple[int, int]) -> None:
    pixels = np.arange(size[0] * size[1]).reshape(size)
    border = Border(kind, 0 if kind == "zero" else 4, 0 if kind == "zero" else 3)
    rows, columns = border.sources(size)
    expected = np.pad(pixels, [(border.rows, border.rows), (border.columns, border.columns)], mode=mode)
    assert np.array_equal(pixels[rows][:, columns], expected)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_an_original_is_filled_up_with_its_last_row_and_column(kind: Kind) -> None:
    rows, columns = Border(kind).sources((5, 8), scale=4)
    assert rows.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert columns.tolist() == list(range(8))


@pytest.mark.parametrize("kind", ["mirror", "edge"])
def test_both_sizes_have_the_same_border(kind: Kind) -> None:
    border, scale = Border(kind, 2, 3), 4
    large = [len(places) for places in border.sources((13, 16), scale)]
    small = [len(places) for places in border.sources((4, 4))]
    assert large == [scale * count for count in small]
