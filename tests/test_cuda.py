"""What only a GPU shows: the captured step is the eager one, and the engine gives there what it gives on the CPU."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from irn_cli.dataset import find_data_set
from irn_cli.device import Precision, ieee_float32
from irn_cli.engine import Engine
from irn_cli.image import read
from irn_cli.metrics import psnr
from irn_cli.model import quantise
from irn_cli.rescale import Rescaler
from irn_cli.train import batches
from irn_cli.train.batches import Batch
from irn_cli.train.checkpoint import load_checkpoint
from irn_cli.train.job import Limits
from irn_cli.train.step import Step
from irn_cli.train.trainer import Ended, Logged, Saved, SetBack, Validated, train
from irn_cli.weights import load_model
from tests.test_engine import PHOTOS, assert_same, photo, plain_downscale, plain_upscale, received
from tests.test_train_step import copies, make_second_stage, make_step, same

pytestmark = pytest.mark.cuda

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two runs of one kernel give one result, so that what differs was computed otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with ieee_float32():
        yield


# Training -------------------------------------------------------------------------------------------------------------


def gpu_step(kind: str) -> Step:
    if kind == "irn-plus":
        return make_second_stage(GPU, average=0.5)
    precision = "bf16" if kind in ("bf16", "streamed") else "fp32"
    changes = {"optimiser": "muon", "temperature": (0.0, 1.0)} if kind == "muon" else {}
    return make_step(precision, GPU, grain=0.5, average=0.5, recompute=kind == "recompute", **changes)


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], rate: float) -> None:
    """Adam moves a weight by about the rate, and by the whole of it where rounding turns a gradient's sign."""
    for name in expected:
        error = (found[name] - expected[name]).abs() / max(1.0, expected[name].abs().max().item())
        share = (error < 0.02 * rate).float().mean()
        assert share >= 0.99, f"{name}: only {share:.1%} near, largest error {error.max():.1e}"


@pytest.mark.parametrize("kind", ["fp32", "bf16", "muon", "recompute", "streamed", "irn-plus"])
def test_a_captured_step_is_an_eager_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "streamed":
        monkeypatch.setattr(batches, "fits", lambda *_: False)
    captured, eager = gpu_step(kind), gpu_step(kind)
    eager.captured = False
    for number in range(6):  # in stage irn-plus two of the discriminator alone
        rate = 1e-3 / (1 + number % 3)
        captured.run(number, rate)
        eager.run(number, rate)
        found, expected = captured.read(), eager.read()
        assert found == {name: pytest.approx(value, rel=1e-3, abs=1e-6) for name, value in expected.items()}, number
    assert captured.captured
    assert_near(copies(captured), copies(eager), 1e-3)
    for name, value in copies(captured).items():
        if name.endswith("/step"):
            wanted = 4 if kind == "irn-plus" and name.startswith("weights/") else 6
            assert value == wanted, f"{name}: warming up counts, or a step does not"


@pytest.mark.parametrize("kind", ["fp32", "bf16", "muon", "irn-plus"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_gradient_in_a_replay_never_reaches_the_weights(kind: str, value: float) -> None:
    step = gpu_step(kind)
    poison = torch.zeros((), device=GPU)  # added within the graph: nothing, until it is set
    spoilt = step.copies[5]

    def spoil(copy: Tensor) -> None:
        assert copy.grad is not None
        copy.grad.view(-1)[0] += poison

    spoilt.register_post_accumulate_grad_hook(spoil)
    first = step.recipe.discriminator_alone if kind == "irn-plus" else 0
    for number in range(first, first + 2):
        step.run(number, 1e-3)
    before = copies(step)
    poison.fill_(value)
    for number in range(first + 2, first + 4):
        step.run(number, 1e-3)
    assert same(before, copies(step), "weights/")  # values, moments and counts
    if kind == "irn-plus":
        assert same(before, copies(step), "discriminator/")
    assert (step.read()["in_row"], step.read()["skipped"]) == (2, 2)
    poison.zero_()
    step.run(first + 4, 1e-3)
    after = copies(step)
    assert not same(before, after, "weights/")
    assert (step.read()["in_row"], step.read()["skipped"], step.read()["seen"]) == (0, 2, 3)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())


def test_a_bad_loss_in_a_replay_never_reaches_the_weights() -> None:
    step = gpu_step("fp32")
    step.run(0, 1e-3)
    before, shrink = copies(step), step.batches.shrink.clone()
    step.batches.shrink.fill_(float("nan"))
    step.run(1, 1e-3)
    assert same(before, copies(step), "weights/")
    assert step.read()["skipped"] == 1
    step.batches.shrink.copy_(shrink)
    step.run(2, 1e-3)
    assert not same(before, copies(step), "weights/")


def test_a_gpus_step_is_the_cpus() -> None:
    """But for the noise, which another generator draws: of the picture only what comes without it."""
    on_gpu, on_cpu = make_step(device=GPU), make_step()
    for step in (on_gpu, on_cpu):
        step.batches.prepare(0)
        step.rate.fill_(1e-3)
    (x, guide, _), (same_x, same_guide, drawn) = on_gpu.batches.draw(), on_cpu.batches.draw()
    torch.testing.assert_close(x.cpu(), same_x, rtol=0, atol=1e-6)
    torch.testing.assert_close(guide.cpu(), same_guide, rtol=0, atol=1e-5)
    on_gpu.learn(Batch(x, guide, drawn.to(GPU)))
    on_cpu.learn(Batch(same_x, same_guide, drawn))
    assert on_gpu.read() == {name: pytest.approx(value, rel=1e-3) for name, value in on_cpu.read().items()}
    assert_near({name: value.cpu() for name, value in copies(on_gpu).items()}, copies(on_cpu), 1e-3)


QUICK = {"log_every": 2, "save_every": 4, "validate_every": 8, "iterations": 8, "grain": 0.5, "jump_after": 1}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_saves_validates_and_goes_on(tmp_path: Path, precision: str) -> None:
    directory = tmp_path / "validation"
    directory.mkdir()
    Image.open(PHOTOS / "chelsea.png").crop((150, 60, 246, 140)).save(directory / "cat.png")
    validation = find_data_set(directory)
    whole = make_step(precision, GPU, **QUICK)
    events = list(train(whole, tmp_path / "whole", {}, validation=validation))
    saved = [Logged, Logged, Saved]
    assert [type(event) for event in events] == [Logged, Saved, *saved, *saved, Validated, Saved, Ended]
    assert load_model(tmp_path / "whole" / "weights.safetensors").config.scale == 2

    list(train(make_step(precision, GPU, **QUICK), tmp_path / "parts", {}, limits=Limits(steps=3)))
    halfway = load_checkpoint(tmp_path / "parts")
    assert halfway.counters.step == 3
    second = make_step(precision, GPU, **QUICK)
    list(train(second, tmp_path / "parts", {}, checkpoint=halfway))
    assert_near(copies(second), copies(whole), 1e-3)


def test_after_several_bad_steps_a_run_returns_to_its_last_good_state(tmp_path: Path) -> None:
    step = make_step(device=GPU, **{**QUICK, "iterations": 20, "patience": 2, "setback": 0.5})
    shrink, states, events = step.batches.shrink.clone(), {}, []
    for event in train(step, tmp_path, {}):
        events.append(event)
        if isinstance(event, Saved):
            states[event.step] = copies(step)
        if isinstance(event, Logged) and event.step == 6:
            step.batches.shrink.fill_(float("nan"))
        if isinstance(event, SetBack):
            assert same(states[4], copies(step), "weights/")
            step.batches.shrink.copy_(shrink)
    assert [(event.step, event.factor) for event in events if isinstance(event, SetBack)] == [(8, 0.5)]
    assert all(torch.isfinite(tensor).all() for tensor in copies(step).values())
    assert not same(states[4], copies(step), "weights/")


# Pictures -------------------------------------------------------------------------------------------------------------


@cache
def on_the_cpu(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """A picture, what it becomes, and what of that comes back."""
    x, runner = photo(1060, 1204), Engine(load_model(name), CPU, "fp32")
    u = runner.downscale(x.clone())
    return x, u, runner.upscale(received(u, 1))


@pytest.mark.parametrize("name", ["irn-x2", "irn-x4"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("where", ["all at once", "in tiles", "the map on the host"])
def test_the_engine_agrees_with_the_cpus(name: str, precision: Precision, where: str) -> None:
    x, u, back = on_the_cpu(name)
    memory = {"all at once": None, "in tiles": x.nbytes * 16 // 5, "the map on the host": x.nbytes * 3 // 2}[where]
    runner = Engine(load_model(name), GPU, precision, memory)
    found, restored = runner.downscale(x.clone()), runner.upscale(received(u, 1))
    if precision == "fp32":
        assert_same(found, u)
        assert_same(restored, back)
    else:
        levels = (quantise(found[..., :3]) - quantise(u[..., :3])).abs() * 255
        assert levels.max() < 2.5
        assert (levels < 1.5).double().mean() >= 0.9999
        assert psnr(as_pixels(restored), as_pixels(back)) > 40, "two restorations, not two pictures"


def as_pixels(x: Tensor) -> np.ndarray:
    return (quantise(x) * 255).round().byte().numpy()


@pytest.mark.parametrize("name", ["irn-x2", "irn-x4"])
def test_the_plain_network_on_a_gpu_is_the_cpus(name: str) -> None:
    """Where this fails, it is not the engine."""
    model = load_model(name)
    x = photo(240, 320)
    u = plain_downscale(model, x)
    received_u = received(u, 1)
    expected = plain_upscale(model, received_u)
    model.to(GPU)
    assert_same(plain_downscale(model, x.to(GPU)).cpu(), u)
    assert_same(plain_upscale(model, received_u.to(GPU)).cpu(), expected)


def test_a_hundred_megapixels() -> None:
    """In bounded memory, and in its middle as where a part of it is all there is."""
    side, part = 10_000, slice(4_000, 6_000)
    x = photo(side, side)
    middle = x[part, part].contiguous()
    limit = 8 * 10**9
    runner = Engine(load_model("irn-x4"), GPU, "bf16", limit)
    torch.cuda.reset_peak_memory_stats()
    u = runner.downscale(x)
    assert u.shape == (side // 4, side // 4, 48)
    alone = runner.downscale(middle)
    inner, of_whole = slice(125, -125), slice(1_125, 1_375)  # 500 pixels from the part's borders: beyond their reach
    difference = (u[of_whole, of_whole, :3] - alone[inner, inner, :3]).abs().max() * 255
    assert difference < 1, "in levels"
    assert runner.upscale(u).shape == (side, side, 3)
    assert torch.cuda.max_memory_allocated() < 1.1 * limit


def test_pictures_come_back_bit_for_bit_with_their_latent() -> None:
    picture = read(PHOTOS / "coffee.png")
    model = load_model("irn-x4")
    scaler = Rescaler(model, "cuda")
    small = scaler.downscale(picture, keep_latent=True)
    assert not small.warnings
    assert np.array_equal(scaler.upscale(small).pixels, picture.pixels)
    elsewhere = Rescaler(model, "cpu", "fp32").upscale(replace(small, latent=None), seed=1)
    here = scaler.upscale(replace(small, latent=None), seed=1)
    assert psnr(here.pixels, elsewhere.pixels) > 40, "one draw on any device"
