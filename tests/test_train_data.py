"""Training data: reading, caching, cropping, the guide, grain."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from irn_cli.errors import InputError
from irn_cli.resize import bicubic
from irn_cli.train import data
from irn_cli.train.data import Pictures, Sampler, add_grain, gather, hold_out, load_pictures, mixed_seed
from tests.helpers import SHARED, needs_shared


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


def one_picture(height: int, width: int) -> Pictures:
    pixels = torch.randint(256, (height * width, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Pictures(pixels, torch.tensor([[0, height, width]]), "stamp", ())


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

    def never(_path: Path) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(data, "read", never)
        again = load_pictures(paths, 4, 32, limit=0)
    assert torch.equal(again.pixels, in_memory.pixels)
    assert torch.equal(again.places, in_memory.places)

    os.utime(folder / "a.png", (1, 1))
    assert load_pictures(paths, 4, 32, limit=0).stamp != in_memory.stamp


def test_a_cache_that_no_run_used_for_a_month_is_removed(folder: Path) -> None:
    load_pictures([folder / "a.png"], 4, 32, limit=0)
    load_pictures([folder / "b.png"], 4, 32, limit=0)
    old = time.time() - 40 * 24 * 3600
    for path in data.cache_directory().iterdir():
        os.utime(path, (old, old))
    kept = load_pictures([folder / "b.png"], 4, 32, limit=0)  # swept before it is looked up: decoded again
    assert {path.stem for path in data.cache_directory().iterdir()} == {kept.stamp}
    recent = time.time() - 20 * 24 * 3600
    for path in data.cache_directory().iterdir():
        os.utime(path, (recent, recent))
    load_pictures([folder / "b.png"], 4, 32, limit=0)
    assert min(path.stat().st_mtime for path in data.cache_directory().glob("*.json")) > recent + 1


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


def test_each_epoch_takes_every_picture_once_and_corners_are_multiples_of_the_scale() -> None:
    places = torch.tensor([[0, 64, 64], [4096, 32, 64], [6144, 64, 48], [9216, 32, 32], [10240, 100, 36]])
    sampler = Sampler(places, batch=5, patch=32, scale=4, flips=True, turns=True, seed=1)
    orders, orientations = set(), set()
    for step in range(40):
        picks = sampler.draw(step)
        assert sorted(picks[:, 0].tolist()) == places[:, 0].tolist()
        orders.add(tuple(picks[:, 0].tolist()))
        orientations |= set(picks[:, 5].tolist())
        assert (picks[:, 3:5] % 4 == 0).all()
        assert (picks[:, 3:5] + 32 <= picks[:, 1:3]).all()
        assert torch.equal(picks, sampler.draw(step))
    assert len(orders) > 20
    assert orientations == set(range(8))
    plain = Sampler(places, batch=5, patch=32, scale=4, flips=False, turns=False, seed=1)
    assert not plain.draw(3)[:, 5].any()
    flips = Sampler(places, batch=5, patch=32, scale=4, flips=True, turns=False, seed=1)
    assert max(flips.draw(step)[:, 5].max() for step in range(20)) == 3


def test_neighbouring_seeds_are_far_apart() -> None:
    seeds = {mixed_seed(seed, "noise", step) for seed in range(10) for step in range(100)}
    assert len(seeds) == 1000
    assert 0 <= min(seeds) <= max(seeds) < 2**32


@pytest.mark.parametrize("orientation", range(8))
def test_crops_are_slices_mirrored_and_turned(orientation: int) -> None:
    pictures = one_picture(40, 56)
    whole = pictures.pixels.view(40, 56, 3)
    wanted = whole[8:24, 32:48]
    if orientation & 4:
        wanted = wanted.transpose(0, 1)
    if orientation & 1:
        wanted = wanted.flip(1)
    if orientation & 2:
        wanted = wanted.flip(0)
    crop = gather(pictures.pixels, torch.tensor([[0, 40, 56, 8, 32, orientation]]), 16, 0)
    assert torch.equal(crop[0], wanted)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("orientation", [0, 3, 6])
def test_the_guide_of_a_crop_is_a_crop_of_the_whole_pictures_guide(scale: int, orientation: int) -> None:
    """Also in the corners, where bicubic mirrors; and turned with the crop."""
    patch, margin = 4 * scale, 2 * scale
    height, width = 9 * scale, 7 * scale
    pictures = one_picture(height, width)
    whole = pictures.pixels.view(height, width, 3).permute(2, 0, 1).float() / 255
    small = bicubic(whole, (9, 7))
    shrink = data.shrinking_matrix(patch + 2 * margin, scale)
    for top in range(0, height - patch + 1, scale):
        for left in range(0, width - patch + 1, scale):
            pick = torch.tensor([[0, height, width, top, left, orientation]])
            x = gather(pictures.pixels, pick, patch, margin).permute(0, 3, 1, 2).float() / 255
            guide = (shrink @ x @ shrink.T)[0, :, 2:-2, 2:-2]
            wanted = small[:, top // scale : top // scale + 4, left // scale : left // scale + 4]
            if orientation & 4:
                wanted = wanted.transpose(1, 2)
            if orientation & 1:
                wanted = wanted.flip(2)
            if orientation & 2:
                wanted = wanted.flip(1)
            torch.testing.assert_close(guide, wanted, rtol=0, atol=1e-6)


@needs_shared
@pytest.mark.parametrize(("name", "scale"), [("astronaut", 2), ("astronaut", 4), ("coffee", 2), ("coffee", 4)])
def test_the_guide_is_the_papers_bicubic(name: str, scale: int) -> None:
    golden = load_file(SHARED / "golden" / "bicubic.safetensors")
    picture = golden[f"{name}.hr_uint8"][0].float() / 255
    height, width = (side - side % scale for side in picture.shape[1:])
    rows, columns = data.shrinking_matrix(height, scale), data.shrinking_matrix(width, scale)
    guide = rows @ picture[:, :height, :width] @ columns.T
    torch.testing.assert_close(guide, golden[f"{name}.down{scale}"], rtol=0, atol=1e-5)


def test_grain_has_the_strength_and_the_share_that_are_asked_for(rng: torch.Generator) -> None:
    grey = torch.full((400, 3, 32, 32), 0.5)
    noisy = add_grain(grey, 0.5, 12.0, rng)
    levels = 255 * noisy
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    deviations = levels.flatten(1).std(1)
    plain = deviations < 0.6  # what a deviation of less than a third of a level leaves after rounding
    assert 0.42 < plain.float().mean() < 0.62
    assert 10 < deviations.max() < 13
    # of the others, a uniform part of the variance is common to the channels
    centred = levels[~plain] - levels[~plain].mean((2, 3), keepdim=True)
    common = (centred[:, 0] * centred[:, 1]).mean((1, 2)) / centred.square().mean((1, 2, 3))
    assert 0.35 < common.mean() < 0.6
    assert common.min() < 0.15
    assert common.max() > 0.85


def test_grain_stays_within_the_picture_range(rng: torch.Generator) -> None:
    noisy = add_grain(torch.cat([torch.zeros(8, 3, 16, 16), torch.ones(8, 3, 16, 16)]), 1.0, 60.0, rng)
    assert noisy.min() == 0
    assert noisy.max() == 1
