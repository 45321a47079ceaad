"""One step: the paper's code's numbers, precision, the guard, what is drawn."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from irn_cli.errors import InputError, UsageError
from irn_cli.resize import bicubic
from irn_cli.train import batches
from irn_cli.train.batches import Batch
from irn_cli.train.data import Pictures
from irn_cli.train.recipe import Recipe, load_recipe
from irn_cli.train.step import Step
from irn_cli.weights import load_model, read_official
from tests.helpers import SHARED, make_tiny_model, needs_shared

CPU = torch.device("cpu")


def noise_pictures(count: int = 3, side: int = 48) -> Pictures:
    """Smooth random pictures: something that a network can learn a little of."""
    random = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    pixels = (255 * smooth).byte().permute(0, 2, 3, 1).reshape(-1, 3).contiguous()
    places = torch.tensor([[k * side * side, side, side] for k in range(count)])
    return Pictures(pixels, places, "stamp", ())


def small_recipe(**changes: Any) -> Recipe:
    recipe = replace(load_recipe("irn"), scale=2, batch=4, patch=16, turns=True)
    return replace(recipe, **changes)


def make_step(precision: str = "fp32", device: torch.device = CPU, **changes: Any) -> Step:
    recipe = small_recipe(**changes)
    return Step(make_tiny_model(recipe.scale), recipe, noise_pictures(), device, precision)  # type: ignore[arg-type]


def copies(step: Step) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in step.state().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor], kind: str = "") -> bool:
    names = [name for name in a if name.startswith(kind)]
    assert names
    return all(torch.equal(a[name], b[name]) for name in names)


@needs_shared
def test_three_steps_are_those_of_the_authors_code() -> None:
    golden = load_file(SHARED / "golden" / "train_x4.safetensors")
    facts = json.loads((SHARED / "golden" / "train_x4.json").read_text())
    recipe = replace(load_recipe("irn"), batch=2, patch=48)
    pictures = Pictures(torch.zeros(48 * 48, 3, dtype=torch.uint8), torch.tensor([[0, 48, 48]]), "", ())
    step = Step(load_model(SHARED / "golden" / "train_x4_official.pth"), recipe, pictures, CPU, "fp32")
    step.rate.fill_(recipe.rate(0, 0.0))
    weights = {"reconstruction": 1.0, "guide": 16.0, "distribution": 1.0}  # the file's terms are weighted
    for k, fact in enumerate(facts["steps"]):
        step.learn(Batch(golden[f"hr_uint8_{k}"] / 255, golden[f"lr_reference_{k}"], golden[f"z_sample_{k}"]))
        shown = step.read()
        for name, weight in weights.items():
            assert weight * shown[name] == pytest.approx(fact[name], rel=1e-4), name
        assert shown["loss"] == pytest.approx(fact["total"], rel=1e-4)
        assert shown["grad_norm"] == pytest.approx(fact["grad_norm_before_clip"], rel=1e-3)
    after = read_official(SHARED / "golden" / "train_x4_after_3_steps.pth")
    errors = torch.cat([(w.detach() - after[name]).abs().flatten() for name, w in step.master.named_parameters()])
    told = f"error: 99.9 % {errors.quantile(0.999):.1e}, max {errors.max():.1e}"
    assert (errors < 1e-5).float().mean() >= 0.999, told
    assert errors.max() < 2e-4, told


def test_steps_lower_the_loss_and_move_the_average() -> None:
    step = make_step()
    first = copies(step)
    losses = []
    for k in range(40):
        step.run(k, 2e-3)
        losses.append(step.read()["loss"])
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    averaged = step.averaged()
    name = "operations.1.F.conv1.weight"
    at_start, now = first[f"weights/{name}"], step.state()[f"weights/{name}"]
    between = dict(averaged.named_parameters())[name]
    assert 0 < (between - now).norm() < (at_start - now).norm()


@pytest.mark.parametrize("grain", [0.0, 0.5])
def test_a_step_depends_on_its_number_and_the_seed_alone(grain: float) -> None:
    def crops(seed: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
        step = make_step(grain=grain, seed=seed)
        step.batches.prepare(number)
        return step.batches.draw()

    for a, b in zip(crops(1, 7), crops(1, 7), strict=True):
        assert torch.equal(a, b)
    for other in (crops(1, 8), crops(2, 7)):
        assert not torch.equal(crops(1, 7)[2], other[2])
    x, guide, drawn = crops(1, 7)
    assert (x.shape, guide.shape, drawn.shape) == ((4, 3, 16, 16), (4, 3, 8, 8), (4, 9, 8, 8))
    assert x.min() >= 0
    assert x.max() <= 1


def test_each_crops_latent_has_a_temperature_of_its_own() -> None:
    def drawn(*temperature: float) -> Tensor:
        step = make_step(temperature=temperature, batch=16)
        step.batches.prepare(8)
        return step.batches.draw().drawn

    plain, warm, ranged = drawn(1.0, 1.0), drawn(0.5, 0.5), drawn(0.2, 0.6)
    assert torch.equal(warm, 0.5 * plain)
    factors = (ranged / plain).flatten(1)
    torch.testing.assert_close(factors.amin(1), factors.amax(1))
    lowest = (factors[:, 0] - 0.2).abs() < 1e-6
    assert len(set(factors[~lowest, 0].tolist())) == 16 - lowest.sum()
    assert 2 <= lowest.sum() <= 14
    assert factors.min() >= 0.2 - 1e-6
    assert factors.max() <= 0.6


def test_half_of_the_crops_has_the_lowest_temperature() -> None:
    step = make_step(temperature=(0.0, 1.0))
    found = []
    for index in range(200):
        step.batches.prepare(index)
        found += step.batches.draw().drawn.flatten(1).std(1).tolist()
    lowest = [temperature for temperature in found if temperature == 0]
    assert len(lowest) / len(found) == pytest.approx(0.5, abs=0.04)  # 800 crops: two deviations
    assert max(found) > 0.9, "the others have all up to the highest"


def test_a_batchs_guide_is_the_bicubic_of_its_crops() -> None:
    step = make_step()
    step.batches.prepare(3)
    x, guide, _ = step.batches.draw()
    inside = (..., slice(2, -2), slice(2, -2))  # at its borders the guide knows the crop's surroundings, too
    torch.testing.assert_close(guide[inside], bicubic(x, (8, 8))[inside], rtol=0, atol=1e-6)


def test_pictures_that_do_not_fit_the_device_give_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(grain=0.5)
    step.run(3, 1e-3)
    monkeypatch.setattr(batches, "fits", lambda *_: False)
    streamed = make_step(grain=0.5)
    assert not streamed.batches.resident
    streamed.run(3, 1e-3)
    assert same(copies(step), copies(streamed))


def test_recomputing_activations_changes_nothing() -> None:
    plain, lean = make_step(), make_step(recompute=True)
    for k in range(2):
        plain.run(k, 1e-3)
        lean.run(k, 1e-3)
    assert same(copies(plain), copies(lean))


def test_a_batch_that_has_no_such_parts() -> None:
    with pytest.raises(UsageError, match="a batch of 4 cannot be split evenly over 3 parts"):
        make_step(accumulate=3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_in_parts_gives_the_same_gradient(precision: str) -> None:
    whole, parts = make_step(precision), make_step(precision, accumulate=4)
    for step in (whole, parts):
        step.run(0, 1e-3)
    for name, value in whole.read().items():
        assert parts.read()[name] == pytest.approx(value, rel=1e-2 if precision == "bf16" else 1e-5), name
    (one, two) = (torch.cat([w.grad.flatten() for w in step.weights if w.grad is not None]) for step in (whole, parts))
    assert (one - two).norm() < (2e-2 if precision == "bf16" else 1e-5) * one.norm()


def test_a_setback_lowers_both_sides_rates() -> None:
    step = make_second_stage(discriminator_alone=0)
    step.run(0, 1e-4, setback=0.25)
    assert step.adversary is not None
    assert step.rate == pytest.approx(0.25e-4)
    assert step.adversary.rate == pytest.approx(0.25 * step.recipe.discriminator_lr)
    before = copies(step)
    step.run(1, 1e-4, setback=0.0)
    for name, weight in [*step.master.named_parameters(), *step.adversary.network.named_parameters()]:
        assert torch.equal(weight, before.get(f"weights/{name}", before.get(f"discriminator/{name}"))), name


def test_what_was_trained_in_bfloat16_is_exported_as_bfloat16_has_it() -> None:
    for precision, rounded in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        step = make_step(precision)
        step.run(0, 1e-3)
        for weight, average in zip(step.averaged().parameters(), step.average, strict=True):
            assert weight.dtype == torch.float32
            assert torch.equal(weight, average.to(rounded).float())


def test_bfloat16_convolutions_leave_masters_and_losses_in_float32() -> None:
    step, exact = make_step("bf16"), make_step()
    step.run(0, 1e-3)
    exact.run(0, 1e-3)
    assert {value.dtype for value in step.state().values()} == {torch.float32}
    assert {copy.dtype for copy in step.copies} == {torch.bfloat16}
    for name in ("loss", "reconstruction", "guide", "grad_norm"):
        assert step.read()[name] == pytest.approx(exact.read()[name], rel=0.02), name
        assert step.read()[name] != exact.read()[name]
    step.run(1, 0.0)  # the working copy follows the masters
    for weight, copy in zip(step.weights, step.copies, strict=True):
        assert torch.equal(weight.to(torch.bfloat16), copy)


def poison(step: Step, value: float) -> Callable[[], None]:
    """Put a value into one gradient on its way to the masters."""

    def spoil(copy: Tensor) -> None:
        assert copy.grad is not None
        copy.grad.view(-1)[0] = value

    return step.copies[5].register_post_accumulate_grad_hook(spoil).remove


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bad_gradient_never_reaches_the_weights(value: float, precision: str) -> None:
    step = make_step(precision)
    step.run(0, 1e-3)
    before = copies(step)
    heal = poison(step, value)
    step.run(1, 1e-3)
    step.run(2, 1e-3)
    after = copies(step)
    assert same(before, after, "weights/")  # values, moments and counts
    assert (step.read()["in_row"], step.read()["skipped"]) == (2, 2)
    assert step.read()["level"] == before["guard/level"]
    heal()
    step.run(3, 1e-3)
    assert not same(before, copies(step), "weights/")
    assert (step.read()["in_row"], step.read()["skipped"], step.read()["seen"]) == (0, 2, 2)
    assert all(torch.isfinite(value).all() for value in copies(step).values())


def test_a_bad_loss_never_reaches_the_weights() -> None:
    step = make_step()
    before = copies(step)
    step.batches.prepare(0)
    batch = step.batches.draw()
    step.rate.fill_(1e-3)
    step.learn(batch._replace(guide=batch.guide * float("nan")))
    assert same(before, copies(step), "weights/")
    assert step.read()["skipped"] == 1


def test_a_jump_is_skipped_only_once_the_guard_is_armed() -> None:
    def after_jump(jump_after: int) -> float:
        step = make_step(jump=5.0, jump_after=jump_after)
        for k in range(4):
            step.run(k, 1e-4)
        batch = step.batches.draw()
        step.learn(batch._replace(guide=batch.guide + 10))
        assert step.read()["loss"] > 5 * step.read()["level"] or not step.read()["skipped"]
        return step.read()["skipped"]

    assert after_jump(4) == 1
    assert after_jump(5) == 0


def test_state_and_restore_are_inverse() -> None:
    step, other = make_step(), make_step(seed=9)
    for k in range(3):
        step.run(k, 1e-3)
    other.restore(copies(step))
    assert same(copies(step), copies(other))
    with pytest.raises(InputError, match="of another network"):
        make_step(scale=4, patch=32).restore(copies(step))


def test_each_terms_gradient_norm_can_be_told_without_learning() -> None:
    step = make_step()
    step.run(0, 1e-3)
    before = copies(step)
    norms = step.term_norms(1)
    assert same(before, copies(step))
    assert set(norms) == {"reconstruction_norm", "guide_norm", "distribution_norm"}
    step.run(1, 0.0)
    total = step.read()["grad_norm"]
    assert total <= sum(norms.values()) * 1.0001
    only = make_step(guide=0.0, distribution=0.0)
    only.restore(before)
    only.run(1, 0.0)
    assert norms["reconstruction_norm"] == pytest.approx(only.read()["grad_norm"], rel=1e-4)


class Brightness(torch.nn.Module):
    """Stands in for VGG19, which is large."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def make_second_stage(device: torch.device = CPU, **changes: Any) -> Step:
    recipe = replace(load_recipe("irn-plus"), scale=2, batch=4, patch=16, discriminator_alone=2)
    features = Brightness()
    return Step(make_tiny_model(2), replace(recipe, **changes), noise_pictures(), device, "fp32", features)  # type: ignore[arg-type]


def test_in_the_second_stage_the_discriminator_learns_alone_first() -> None:
    step = make_second_stage()
    start = copies(step)
    step.run(0, 1e-4)
    step.run(1, 1e-4)
    alone = copies(step)
    assert same(start, alone, "weights/")
    assert not same(start, alone, "discriminator/")
    assert set(step.shown) == {"discriminator", "grad_norm"}
    step.run(2, 1e-4)
    both = copies(step)
    assert not same(alone, both, "weights/")
    assert not same(alone, both, "discriminator/")
    terms = {"reconstruction", "guide", "distribution", "perceptual"}
    assert set(step.shown) == {"loss", *terms, "discriminator", "grad_norm"}
    shown = step.read()
    total = sum(getattr(step.recipe, name) * shown[name] for name in terms)
    assert shown["loss"] == pytest.approx(total, rel=1e-5)
    assert set(step.term_norms(3)) == {f"{name}_norm" for name in terms}


def test_in_the_second_stage_a_bad_step_spoils_neither_side() -> None:
    step = make_second_stage(discriminator_alone=0)
    step.run(0, 1e-4)
    before = copies(step)
    heal = poison(step, float("nan"))
    step.run(1, 1e-4)
    heal()
    assert same(before, copies(step), "weights/")
    assert same(before, copies(step), "discriminator/")


def test_a_bad_step_of_the_discriminator_alone_is_counted() -> None:
    step = make_second_stage(jump_after=0)
    step.run(0, 1e-4)
    before = copies(step)
    assert step.adversary is not None
    healthy = step.adversary.weights[0].detach().clone()
    with torch.no_grad():
        step.adversary.weights[0].fill_(float("nan"))
    step.run(1, 1e-4)
    assert (step.read()["in_row"], step.read()["skipped"]) == (1, 1)
    with torch.no_grad():
        step.adversary.weights[0].copy_(healthy)
    assert same(before, copies(step), "discriminator/")
    step.run(1, 1e-4)
    assert (step.read()["in_row"], step.read()["skipped"], step.read()["seen"]) == (0, 1, 0)
    assert not same(before, copies(step), "discriminator/")


def test_without_features_there_is_no_perceptual_term() -> None:
    recipe = replace(load_recipe("irn-plus"), scale=2, batch=4, patch=16, discriminator_alone=0)
    step = Step(make_tiny_model(2), recipe, noise_pictures(), CPU, "fp32")
    step.run(0, 1e-4)
    assert "perceptual" not in step.shown
