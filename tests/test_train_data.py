"""Training pictures: reading, cropping to the scale, caching, holding out."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from irn_cli.errors import InputError
from irn_cli.train import data
from irn_cli.train.data import hold_out, load_pictures, sweep_cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three usable pictures of odd sizes, one too small, one broken."""
    directory = tmp_path / "pictures"
    directory.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("a.png", (37, 50)), ("b.png", (41, 33)), ("c.webp", (32, 40)), ("small.png", (20, 90))):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(directory / name, lossless=True)
    (directory / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    return directory


def test_pictures_are_cropped_to_the_scale_and_bad_ones_told(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    pictures = load_pictures(paths, 4, 32)
    assert pictures.places[:, 1:].tolist() == [[36, 48], [40, 32], [32, 40]]
    assert len(pictures.skipped) == 2
    assert "broken.jpg" in pictures.skipped[0]
    assert "expected at least 32x32, found 90x20" in pictures.skipped[1]
    start, height, width = pictures.places[1].tolist()
    stored = pictures.pixels[start : start + height * width].view(height, width, 3).numpy()
    np.testing.assert_array_equal(stored, np.asarray(Image.open(folder / "b.png"))[:40, :32])


def test_what_cannot_even_be_looked_at_is_left_out(folder: Path) -> None:
    (folder / "d.png").symlink_to("nowhere")
    pictures = load_pictures([folder / "a.png", folder / "d.png"], 4, 32)
    assert (len(pictures.places), pictures.skipped) == (1, (f"no such file: {folder}/d.png",))


def test_nothing_usable_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none of 2 pictures can be used; the first: .*broken\.jpg"):
        load_pictures([folder / "broken.jpg", folder / "small.png"], 4, 32)


def test_beyond_the_limit_a_mapped_cache_is_made_and_reused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(folder.iterdir())
    in_memory = load_pictures(paths, 4, 32)
    assert not data.cache_directory().exists()
    mapped = load_pictures(paths, 4, 32, limit=6000)
    assert torch.equal(mapped.pixels, in_memory.pixels)
    assert (mapped.stamp, mapped.skipped) == (in_memory.stamp, in_memory.skipped)
    assert len(list(data.cache_directory().iterdir())) == 2

    def never(_path: Path, **_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(data, "read_original", never)
        again = load_pictures(paths, 4, 32, limit=0)
    assert torch.equal(again.pixels, in_memory.pixels)
    assert torch.equal(again.places, in_memory.places)

    os.utime(folder / "a.png", (1, 1))
    assert load_pictures(paths, 4, 32, limit=0).stamp != in_memory.stamp


def test_a_cache_that_no_run_used_for_a_month_is_removed(folder: Path) -> None:
    used = load_pictures([folder / "a.png"], 4, 32, limit=0)
    for name in ("b.png", "c.webp"):
        load_pictures([folder / name], 4, 32, limit=0)

    def age(days: int, stem: str = "*") -> None:
        past = time.time() - days * 24 * 3600
        for path in data.cache_directory().glob(f"{stem}.*"):
            os.utime(path, (past, past))

    age(20)
    recent = load_pictures([folder / "c.webp"], 4, 32, limit=0).stamp
    assert sweep_cache() == 0
    age(40)
    load_pictures([folder / "c.webp"], 4, 32, limit=0)  # it counts when a run began with it
    assert sweep_cache() == 40 * 32 * 3
    kept = {path.name for path in data.cache_directory().iterdir()}
    assert kept == {f"{stamp}.{kind}" for stamp in (used.stamp, recent) for kind in ("json", "pixels")}
    del used
    assert sweep_cache() == 36 * 48 * 3
    assert {path.stem for path in data.cache_directory().iterdir()} == {recent}


def test_a_cache_that_another_process_has_removed_meanwhile_stops_no_run(folder: Path) -> None:
    load_pictures([folder / "a.png"], 4, 32, limit=0)
    for path in list(data.cache_directory().iterdir()):
        os.utime(path, (1, 1))
    (data.cache_directory() / "gone.pixels").symlink_to("nowhere")  # found, and then not there
    assert sweep_cache() == 36 * 48 * 3
    assert {path.name for path in data.cache_directory().iterdir()} == {"gone.pixels"}


def test_a_cache_that_is_swept_just_now_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_pictures([folder / "a.png"], 4, 32, limit=0)

    def swept(*_: object) -> None:
        for path in data.cache_directory().iterdir():
            path.unlink()
        raise FileNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", swept)
        again = load_pictures([folder / "a.png"], 4, 32, limit=0)
    assert torch.equal(again.pixels, made.pixels)
    assert len(list(data.cache_directory().iterdir())) == 2


def test_held_out_are_the_same_files_wherever_they_lie() -> None:
    names = [f"{k}.png" for k in range(100)]
    train, held = hold_out([Path("/x") / name for name in names], 7)
    assert len(held) == 7
    assert len(train) == 93
    assert not set(train) & set(held)
    _, elsewhere = hold_out([Path("/y/z") / name for name in reversed(names)], 7)
    assert {path.name for path in held} == {path.name for path in elsewhere}
    assert hold_out([Path("a"), Path("b")], 7)[1] == []
    train, others = hold_out([Path("/x") / name for name in names], 7, lambda path: path != held[0])
    assert held[0] in train
    assert set(held[1:]) < set(others)
    assert len(others) == 7
