"""Batches: sampling, cropping, the guide, grain."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from irn_cli.resize import bicubic
from irn_cli.train.batches import Sampler, add_grain, add_panels, add_stripes, gather, mixed_seed, shrinking_matrix
from irn_cli.train.data import Pictures
from irn_cli.train.recipe import load_recipe
from tests.helpers import SHARED, needs_shared


def one_picture(height: int, width: int) -> Pictures:
    pixels = torch.randint(256, (height * width, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Pictures(pixels, torch.tensor([[0, height, width]]), "stamp", ())


def sampled(places: torch.Tensor, *, flips: bool, turns: bool) -> Sampler:
    recipe = replace(load_recipe("irn"), batch=5, patch=32, scale=4, flips=flips, turns=turns, seed=1)
    return Sampler(places, recipe)


def oriented(picture: torch.Tensor, orientation: int) -> torch.Tensor:
    """A picture (3, H, W), turned and mirrored as a crop is."""
    if orientation & 4:
        picture = picture.transpose(1, 2)
    return picture.flip([axis for axis, bit in ((2, 1), (1, 2)) if orientation & bit])


def test_each_epoch_takes_every_picture_once_and_corners_are_multiples_of_the_scale() -> None:
    places = torch.tensor([[0, 64, 64], [4096, 32, 64], [6144, 64, 48], [9216, 32, 32], [10240, 100, 36]])
    sampler = sampled(places, flips=True, turns=True)
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
    plain = sampled(places, flips=False, turns=False)
    assert not plain.draw(3)[:, 5].any()
    flips = sampled(places, flips=True, turns=False)
    assert max(flips.draw(step)[:, 5].max() for step in range(20)) == 3


def test_neighbouring_seeds_are_far_apart() -> None:
    seeds = {mixed_seed(seed, "noise", step) for seed in range(10) for step in range(100)}
    assert len(seeds) == 1000
    assert 0 <= min(seeds) <= max(seeds) < 2**32


@pytest.mark.parametrize("orientation", range(8))
def test_crops_are_slices_mirrored_and_turned(orientation: int) -> None:
    pictures = one_picture(40, 56)
    whole = pictures.pixels.view(40, 56, 3).permute(2, 0, 1)
    crop = gather(pictures.pixels, torch.tensor([[0, 40, 56, 8, 32, orientation]]), 16, 0)
    assert torch.equal(crop[0].permute(2, 0, 1), oriented(whole[:, 8:24, 32:48], orientation))


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("orientation", [0, 3, 6])
def test_the_guide_of_a_crop_is_a_crop_of_the_whole_pictures_guide(scale: int, orientation: int) -> None:
    """Also in the corners, where bicubic mirrors; and turned with the crop."""
    patch, margin = 4 * scale, 2 * scale
    height, width = 9 * scale, 7 * scale
    pictures = one_picture(height, width)
    whole = pictures.pixels.view(height, width, 3).permute(2, 0, 1).float() / 255
    small = bicubic(whole, (9, 7))
    shrink = shrinking_matrix(patch + 2 * margin, scale)
    for top in range(0, height - patch + 1, scale):
        for left in range(0, width - patch + 1, scale):
            pick = torch.tensor([[0, height, width, top, left, orientation]])
            x = gather(pictures.pixels, pick, patch, margin).permute(0, 3, 1, 2).float() / 255
            guide = (shrink @ x @ shrink.T)[0, :, 2:-2, 2:-2]
            wanted = small[:, top // scale : top // scale + 4, left // scale : left // scale + 4]
            torch.testing.assert_close(guide, oriented(wanted, orientation), rtol=0, atol=1e-6)


@needs_shared
@pytest.mark.parametrize(("name", "scale"), [("astronaut", 2), ("astronaut", 4), ("coffee", 2), ("coffee", 4)])
def test_the_guide_is_the_papers_bicubic(name: str, scale: int) -> None:
    golden = load_file(SHARED / "golden" / "bicubic.safetensors")
    picture = golden[f"{name}.hr_uint8"][0].float() / 255
    height, width = (side - side % scale for side in picture.shape[1:])
    rows, columns = shrinking_matrix(height, scale), shrinking_matrix(width, scale)
    guide = rows @ picture[:, :height, :width] @ columns.T
    torch.testing.assert_close(guide, golden[f"{name}.down{scale}"], rtol=0, atol=1e-5)


def test_grain_has_the_strength_and_the_share_that_are_asked_for(rng: torch.Generator) -> None:
    grey = torch.full((400, 3, 32, 32), 0.5)
    noisy = add_grain(grey, 0.5, 12.0, rng)
    levels = 255 * noisy
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
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


def test_panels_are_flat_of_any_colour_and_on_the_share_that_is_asked_for(rng: torch.Generator) -> None:
    noise = torch.full((600, 3, 64, 64), 2.0)  # no panel's colour
    panelled = add_panels(noise, 0.25, rng)
    covered = (panelled[:, 0] != 2).flatten(1).float().mean(1)
    chosen = covered > 0
    assert 0.18 < chosen.float().mean() < 0.3  # two deviations of 600 crops, and panels too thin to meet a pixel
    assert covered.max() > 0.5
    colours = [crop.flatten(1).unique(dim=1).T for crop in panelled[chosen]]
    assert max(map(len, colours)) == 3  # what was there, and two flat areas
    flat = torch.cat(colours)
    flat = 255 * flat[flat[:, 0] != 2]
    torch.testing.assert_close(flat, flat.round(), rtol=0, atol=1e-4)
    ends = [(flat == end).all(1).float().mean() for end in (0, 255)]
    assert min(ends) > 0.08, "black and white are frequent"
    assert (flat.amax(1) - flat.amin(1)).max() > 150, "there are strong colours"
    assert torch.equal(panelled[~chosen], noise[~chosen])


def test_stripes_have_the_strength_the_share_and_the_periods_that_are_asked_for(rng: torch.Generator) -> None:
    grey = torch.full((400, 3, 64, 64), 0.5)
    levels = 255 * add_stripes(grey, 0.25, 40.0, rng)
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert torch.equal(levels[:, 0], levels[:, 1])
    assert torch.equal(levels[:, 0], levels[:, 2])
    amplitudes = (levels - 127.5).flatten(1).abs().amax(1)
    striped = amplitudes > 1
    assert 0.17 < striped.float().mean() < 0.31  # two deviations of 400 crops, and those too faint to see
    assert 36 < amplitudes.max() < 41
    waves = levels[striped, 0] - levels[striped, 0].mean((1, 2), keepdim=True)
    spectra = torch.fft.fft2(waves).abs().flatten(1)
    frequency = torch.fft.fftfreq(64)
    radius = torch.hypot(*torch.meshgrid(frequency, frequency, indexing="ij")).flatten()
    strongest = radius[spectra.argmax(1)]
    assert strongest.min() < 0.1
    assert strongest.max() > 0.45
    assert ((strongest > 0.25).float().mean() - 0.5).abs() < 0.15, "all periods are as likely, in cycles a pixel"


def test_stripes_stay_within_the_picture_range(rng: torch.Generator) -> None:
    striped = add_stripes(torch.cat([torch.zeros(8, 3, 16, 16), torch.ones(8, 3, 16, 16)]), 1.0, 60.0, rng)
    assert striped.min() == 0
    assert striped.max() == 1


def test_grain_stays_within_the_picture_range(rng: torch.Generator) -> None:
    noisy = add_grain(torch.cat([torch.zeros(8, 3, 16, 16), torch.ones(8, 3, 16, 16)]), 1.0, 60.0, rng)
    assert noisy.min() == 0
    assert noisy.max() == 1
