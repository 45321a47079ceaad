"""Refining: never worse, within the rails, and worth its time with the shipped weights."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from irn_cli import load_model, mark, rescale
from irn_cli.border import LEAST
from irn_cli.colour import ciede2000, colour_difference, lab
from irn_cli.errors import UsageError
from irn_cli.metrics import Psnr, luma, ssim
from irn_cli.model import IRN
from irn_cli.picture import Picture, Pixels, Refinement
from irn_cli.refine import Rails, find_better, residual, rounded
from irn_cli.rescale import Rescaler
from irn_cli.resize import bicubic_small
from tests.helpers import PHOTOS, photo_like


def crop(name: str, top: int, left: int, side: int) -> Pixels:
    with Image.open(PHOTOS / name) as image:
        return np.asarray(image.convert("RGB"))[top : top + side, left : left + side].copy()


@pytest.mark.parametrize(("name", "gain"), [("irn-x4", 0.15), ("irn-x2", 0.05)])
def test_shipped_weights_gain_within_the_rails(name: str, gain: float) -> None:
    original = Picture(crop("coffee.png", 120, 200, 72))
    scaler = Rescaler(load_model(name), precision="fp32")
    plain, refined = scaler.downscale(original), scaler.downscale(original, refine=3)
    before, after = (Psnr.of(original.pixels, scaler.upscale(small).pixels) for small in (plain, refined))
    assert refined.refinement == Refinement(3, before, after), "both figures are those of what upscale makes"
    assert after.rgb > before.rgb + gain
    guide = rounded(torch.from_numpy(bicubic_small(original.pixels, scaler.scale)))
    assert ssim(refined.pixels, guide, of=luma) >= ssim(plain.pixels, guide, of=luma) - 0.004
    colours = [colour_difference(guide, small.pixels).percentile_95 for small in (plain, refined)]
    assert colours[1] <= colours[0] + 0.3
    assert plain.refinement is None
    assert refined.record != plain.record, "the record knows the refined pixels"


class Decoder:
    """Restores a small picture of 16 x 16 as its double, plus what is wrong with that draw."""

    def __init__(self, wrong: Callable[[Pixels, int], float]) -> None:
        self.wrong = wrong
        self.original = photo_like(32, 32)
        self.small = self.original[::2, ::2].copy()
        self.tried: list[Pixels] = []

    def restore(self, small: Pixels, sample: int) -> tuple[Tensor, Pixels]:
        if sample == 0:
            self.tried.append(small)
        x = torch.from_numpy(self.original + self.wrong(small, sample)) / 255
        return x.float(), rounded(x * 255)

    def refine(self, iterations: int) -> tuple[Pixels, Refinement, list[Refinement]]:
        told: list[Refinement] = []
        rails = Rails(self.small, self.small)
        gradient = torch.ones(16, 16, 3)
        result = find_better(
            self.small, self.original, iterations, rails, step=0.3, restore=self.restore,
            pull_back=lambda x: gradient, told=told.append,
        )  # fmt: skip
        return *result, told


def test_the_best_iterate_is_kept_and_not_the_last() -> None:
    errors = iter([9, 8, 5, 7, 6])
    decoder = Decoder(lambda small, sample: float(next(errors)) if sample == 0 else 9.0 - (small is not decoder.small))
    best, found, told = decoder.refine(4)
    assert best is decoder.tried[2]
    assert found.before.rgb == pytest.approx(10 * np.log10(255**2 / 81), abs=0.02)
    assert found.after.rgb == pytest.approx(10 * np.log10(255**2 / 25), abs=0.02)
    assert [one.iterations for one in told] == [0, 1, 2, 3, 4]
    assert told[1].after.rgb < told[2].after.rgb == told[3].after.rgb
    assert told[-1] == found


def test_the_unrefined_is_kept_where_nothing_is_better_or_only_one_draw_is() -> None:
    decoder = Decoder(lambda small, sample: 5.0 if small is decoder.small else 6.0)
    best, found, _ = decoder.refine(2)
    assert best is decoder.small
    assert found.before == found.after
    lucky = Decoder(lambda small, sample: 5.0 if small is lucky.small else (4.0, 7.0)[sample])
    best, found, _ = lucky.refine(2)
    assert best is lucky.small
    assert found.before == found.after


def test_steps_are_halved_where_things_got_worse() -> None:
    errors = iter([5.0, 6.0, 4.0])
    decoder = Decoder(lambda small, sample: next(errors) if sample == 0 else 5.0)
    decoder.small = np.full((16, 16, 3), 100, np.uint8)
    moves = []
    rails = Rails(decoder.small, decoder.small)
    rails.hold = lambda levels: moves.append(float(levels.mean()))  # type: ignore[method-assign]
    find_better(
        decoder.small, decoder.original, 2, rails, step=3, restore=decoder.restore,
        pull_back=lambda x: torch.ones(16, 16, 3),
    )  # fmt: skip
    assert moves == pytest.approx([100 - 3 * 1.4444, 100 - 3 * 1.4444 - 1.5 * 1.1475], abs=0.01)


def test_no_map_outlives_its_use() -> None:
    decoder = Decoder(lambda small, sample: 6.0 - 5 * (small is not decoder.small))
    restored: list[weakref.ref[Tensor]] = []

    def restore(small: Pixels, sample: int) -> tuple[Tensor, Pixels]:
        assert not [1 for x in restored if x() is not None], "a map is still held while the next is made"
        x, picture = decoder.restore(small, sample)
        restored.append(weakref.ref(x))
        return x, picture

    _, found = find_better(
        decoder.small, decoder.original, 3, Rails(decoder.small, decoder.small), step=0.3, restore=restore,
        pull_back=lambda x: torch.ones(16, 16, 3),
    )  # fmt: skip
    assert found.after.rgb > found.before.rgb
    assert len(restored) == 6, "four looks, and two at another draw"


def test_a_huge_pictures_memory_is_given_back(tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[None] = []
    monkeypatch.setattr(rescale, "trim_memory", lambda: trims.append(None))
    scaler = Rescaler(tiny_model(2), device="cpu", precision="fp32")
    scaler.downscale(Picture(photo_like(68, 75)), refine=2)
    assert not trims
    monkeypatch.setattr(rescale, "HUGE", 10)
    scaler.downscale(Picture(photo_like(68, 75)), refine=2)
    assert len(trims) >= 5, "before each look, and before each gradient"


def test_rails() -> None:
    guide = photo_like(24, 40)
    small = np.clip(guide.astype(int) + np.random.default_rng(0).integers(-4, 5, guide.shape), 0, 255).astype(np.uint8)
    rails = Rails(small, guide)
    assert rails.admit(small)
    assert rails.admit(guide)
    blotch = guide.copy()
    blotch[:8, :8, 1] = np.clip(blotch[:8, :8, 1].astype(int) + 17, 0, 255)  # 7 % of the pixels, SSIM nearly as before
    tinted = guide.copy()
    tinted[..., 2] = np.clip(tinted[..., 2].astype(int) - 12, 0, 255)  # every patch off by less than 16
    noisy = np.clip(guide.astype(int) + np.random.default_rng(1).integers(-9, 10, (24, 40, 1)), 0, 255).astype(np.uint8)
    for spoilt in (blotch, tinted, noisy):
        assert not rails.admit(spoilt)


def test_held_pixels_are_within_the_colour_rail() -> None:
    guide = photo_like(70, 40)
    random = np.random.default_rng(0)
    small = np.clip(guide.astype(int) + random.integers(-4, 5, guide.shape), 0, 255).astype(np.uint8)
    levels = torch.from_numpy(small + random.normal(0, 8, small.shape)).float()
    wild = levels.clone()
    Rails(small, guide).hold(levels)
    before = colour_difference(guide, small).percentile_95
    assert colour_difference(guide, rounded(wild)).percentile_95 > before + 1
    assert colour_difference(guide, rounded(levels)).percentile_95 <= before + 0.3
    assert (levels == wild).all(2).float().mean() > 0.3, "what is not too far stays"
    was, now = (ciede2000(lab(guide), lab(picture)) for picture in (small, rounded(levels)))
    rail = before + 0.3
    assert (now <= np.where(was > rail, was + 1, rail)).all(), "what was further goes on by 1 at most"
    assert (now > was + 0.5)[was > rail].any()


@pytest.mark.parametrize("grey", [False, True])
def test_residual_is_the_gradient_of_half_the_squared_error(grey: bool) -> None:
    original = photo_like(5, 7)
    x = (torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2).requires_grad_()
    picture = x[2:7, 1:8]
    if grey:
        picture = picture.mean(2, keepdim=True).expand_as(picture)
    loss = (picture.clamp(0, 1) - torch.from_numpy(original) / 255).square().sum() / 2
    (expected,) = torch.autograd.grad(loss, x)
    found = residual(x.detach(), original, (2, 1), grey=grey)
    if grey:  # each channel's, of which the mean is the true one: the same to a network that is given all three
        found = found.mean(2, keepdim=True).expand_as(found)
    torch.testing.assert_close(found, expected)


def test_alpha_grey_and_latent(tiny_model: Callable[..., IRN]) -> None:
    scaler = Rescaler(tiny_model(2), device="cpu", precision="fp32")
    pixels = photo_like(68, 75)
    plain = scaler.downscale(Picture(pixels), refine=2)
    opaque = scaler.downscale(Picture(pixels, alpha=np.full((68, 75), 200, np.uint8)), refine=2)
    assert np.array_equal(plain.pixels, opaque.pixels)
    assert opaque.alpha is not None
    grey = Picture(np.repeat(pixels[..., :1], 3, 2), mode="L")
    restored = scaler.upscale(scaler.downscale(grey, refine=2))
    assert restored.mode == "L"
    assert (restored.pixels == restored.pixels[..., :1]).all()
    kept = scaler.downscale(Picture(pixels), refine=2, keep_latent=True)
    assert np.array_equal(kept.pixels, plain.pixels)
    assert np.array_equal(scaler.upscale(kept).pixels, pixels), "bit for bit"
    assert replace(kept, latent=None).refinement == plain.refinement


def test_a_mark_is_in_what_is_judged(tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mark, "LEAST", 34 * 38)
    original = photo_like(68, 75)
    scaler = Rescaler(tiny_model(2), device="cpu", precision="fp32")
    small = scaler.downscale(Picture(original), refine=2, mark=True, keep_latent=True)
    assert mark.find(small)
    assert small.refinement
    restored = scaler.upscale(replace(small, latent=None)).pixels
    assert small.refinement.after == Psnr.of(original, restored), "the mark changes the latent that is drawn"
    assert np.array_equal(scaler.upscale(small).pixels, original), "bit for bit"
    assert not mark.find(scaler.downscale(Picture(original), refine=2))


def test_refining_less_than_not_at_all(tiny_model: Callable[..., IRN]) -> None:
    with pytest.raises(UsageError, match="-1"):
        Rescaler(tiny_model(2), device="cpu").downscale(Picture(photo_like(8, 8)), refine=-1)


def test_what_is_made_without_the_network_is_not_refined_and_says_so(tiny_model: Callable[..., IRN]) -> None:
    small = Rescaler(tiny_model(4), "cpu", "fp32").downscale(Picture(photo_like(LEAST - 1, LEAST)), refine=1)
    assert small.record.method == "bicubic"  # these weights are random
    assert small.refinement is None
    assert small.warnings == ("not refined: so small a picture is restored best without the network",)


def test_progress_rises_to_one_and_may_end_it(tiny_model: Callable[..., IRN]) -> None:
    scaler = Rescaler(tiny_model(4), device="cpu", precision="fp32")
    shares: list[float] = []
    told: list[Refinement] = []
    scaler.downscale(Picture(photo_like(64, 72)), refine=2, progress=shares.append, refining=told.append)
    assert shares == sorted(shares)
    assert 0.7 < shares[-1] <= 1.000001, "the check with a second draw falls away where nothing was found"
    assert [one.iterations for one in told] == [0, 1, 2]
    count = 0

    def interrupt(share: float) -> None:
        nonlocal count
        count += 1
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scaler.downscale(Picture(photo_like(64, 72)), refine=9, progress=interrupt)
    assert count < len(shares) * 9 / 2
