"""The pictures that methods are measured on."""

from pathlib import Path

import numpy as np
import pytest

from irn_cli import resize
from irn_cli.errors import InputError, UsageError
from irn_cli.evaluation.dataset import DataSet, find_data_set, find_data_sets, load, unambiguous
from irn_cli.image import write
from irn_cli.picture import Picture
from irn_cli.record import Record, hash_pixels
from tests.helpers import photo_like


def save(path: Path, height: int = 50, width: int = 61, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = photo_like(height, width)
    write(path, Picture(np.repeat(pixels[..., :1], 3, 2) if mode == "L" else pixels, mode=mode))


def save_own(path: Path) -> None:
    """A small picture as irn leaves it."""
    pixels = photo_like(12, 16)
    record = Record(
        scale=4, width=64, height=48, mode="RGB", model="m", revision="1", weights="0" * 64, pixels=hash_pixels(pixels)
    )
    write(path, Picture(pixels, record=record))


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a/Set5", "b/Set5", "b/Set14"):
        save(tmp_path / folder / "x.png")
    sets = find_data_sets([tmp_path / "a/Set5", tmp_path / "b/Set5", tmp_path / "b/Set14"])
    assert [one.name for one in sets] == [str(tmp_path / "a/Set5"), str(tmp_path / "b/Set5"), "Set14"]
    with pytest.raises(UsageError, match="Set5 is given twice"):
        find_data_sets([tmp_path / "a/Set5"] * 2)
    assert unambiguous(["a", "b"], ["x/a", "x/b"]) == ["a", "b"]


def test_pictures_of_our_own_are_left_out_and_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save_own(tmp_path / "a_down4.png")
    found = find_data_set(tmp_path)
    assert [path.name for path in found.pictures] == ["a.png"]
    assert found.remark.startswith(f"left out as made by irn: 1, the first is {tmp_path}/a_down4.png")
    both = find_data_set(tmp_path, include_own=True)
    assert [path.name for path in both.pictures] == ["a.png", "a_down4.png"]
    assert both.remark == ""
    (tmp_path / "a.png").unlink()
    with pytest.raises(UsageError, match="but those that irn made"):
        find_data_set(tmp_path)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_picture_is_cropped_to_the_scale_and_made_small_as_others_do(tmp_path: Path, scale: int) -> None:
    save(tmp_path / "deep" / "x.png", 149, 142)
    found = find_data_set(tmp_path, "named")
    original = load(found, found.pictures[0], scale, crop=scale)
    height, width = 149 - 149 % scale, 142 - 142 % scale
    assert (original.dataset, original.name, original.size) == ("named", "deep/x.png", (149, 142))
    assert np.array_equal(original.picture.pixels, photo_like(149, 142)[:height, :width])
    assert original.guide.shape == (height // scale, width // scale, 3)
    assert np.array_equal(original.guide, np.rint(resize.bicubic_small(original.picture.pixels, scale)))


@pytest.mark.parametrize(("scale", "crop", "least"), [(2, 0, 22), (4, 0, 44), (4, 4, 44), (2, 10, 32)])
def test_what_is_too_small_to_measure_is_told(tmp_path: Path, scale: int, crop: int, least: int) -> None:
    dataset = DataSet("d", tmp_path, (tmp_path / "x.png",))
    save(tmp_path / "x.png", least, 200)
    load(dataset, tmp_path / "x.png", scale, crop)
    save_smaller = photo_like(least - 1, 200)
    write(tmp_path / "x.png", Picture(save_smaller), overwrite=True)
    with pytest.raises(InputError, match=f"expected at least {least} pixels a side, found 200 x {least - 1}"):
        load(dataset, tmp_path / "x.png", scale, crop)


@pytest.mark.parametrize(("name", "mode"), [("bridge", "L"), ("man", "RGB")])
def test_bridge_of_set14_is_grey_however_it_is_stored(tmp_path: Path, name: str, mode: str) -> None:
    save(tmp_path / f"{name}.png")
    path = tmp_path / f"{name}.png"
    assert load(DataSet("Set14", tmp_path, (path,)), path, 2, 2).picture.mode == mode
    assert load(DataSet("mine", tmp_path, (path,)), path, 2, 2).picture.mode == "RGB"


def test_a_grey_file_is_grey(tmp_path: Path) -> None:
    save(tmp_path / "x.png", mode="L")
    path = tmp_path / "x.png"
    assert load(DataSet("d", tmp_path, (path,)), path, 2, 2).picture.mode == "L"
