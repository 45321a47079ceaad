"""What only a GPU shows: the captured step is the eager one, and pictures become there what they become on the CPU.

With `-m slow` most of these tests are rehearsed, the CPU playing the GPU: so that they run on the day there is one.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from irn_cli.device import Precision, ieee_float32
from irn_cli.engine import Engine
from irn_cli.evaluation.dataset import find_data_set
from irn_cli.gradient import Gradient
from irn_cli.image import read
from irn_cli.metrics import Psnr, psnr
from irn_cli.model import quantise
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.train import batches
from irn_cli.train.batches import Batch
from irn_cli.train.checkpoint import load_checkpoint
from irn_cli.train.dense import Streams
from irn_cli.train.job import Limits
from irn_cli.train.step import Step
from irn_cli.train.trainer import Ended, Logged, Saved, SetBack, Validated, train
from irn_cli.weights import load_model
from tests.helpers import PHOTOS, ROOT
from tests.test_engine import assert_same, photo, plain_downscale, plain_upscale, received
from tests.test_gradient import assert_gradients_agree, by_autograd, cosine, known, relative
from tests.test_gradient import received as decoded
from tests.test_train_step import copies, make_second_stage, make_step, same

CPU = torch.device("cpu")


GPU = pytest.param("cuda", marks=pytest.mark.cuda)


@pytest.fixture(params=[GPU, pytest.param("cpu", marks=pytest.mark.slow)])
def gpu(request: pytest.FixtureRequest) -> torch.device:
    """The GPU, or the CPU as a rehearsal."""
    return device_named(request.param)


@pytest.fixture(params=[GPU])
def only_gpu(request: pytest.FixtureRequest) -> torch.device:
    """The GPU, for what the CPU cannot play, or not in reasonable time."""
    return device_named(request.param)


def device_named(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(name)


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two runs of one kernel give one result, so that what differs was computed otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with ieee_float32():
        yield


# Training -------------------------------------------------------------------------------------------------------------


def gpu_step(kind: str, gpu: torch.device) -> Step:
    if kind == "irn-plus":
        return make_second_stage(gpu, average=0.5)
    precision = "bf16" if kind in ("bf16", "streamed") else "fp32"
    changes = {"optimiser": "muon", "temperature": (0.0, 1.0)} if kind == "muon" else {}
    return make_step(precision, gpu, grain=0.5, average=0.5, recompute=kind == "recompute", **changes)


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], rate: float) -> None:
    """Adam moves a weight by about the rate, and by the whole of it where rounding turns a gradient's sign."""
    for name in expected:
        error = (found[name] - expected[name]).abs() / max(1.0, expected[name].abs().max().item())
        share = (error < 0.02 * rate).float().mean()
        assert share >= 0.99, f"{name}: only {share:.1%} near, largest error {error.max():.1e}"


@pytest.mark.parametrize("kind", ["fp32", "bf16", "muon", "recompute", "streamed", "irn-plus"])
def test_a_captured_step_is_an_eager_one(kind: str, gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "streamed":
        monkeypatch.setattr(batches, "fits", lambda *_: False)
    captured, eager = gpu_step(kind, gpu), gpu_step(kind, gpu)
    eager.captured = False
    for number in range(6):  # in stage irn-plus two of the discriminator alone
        rate = 1e-3 / (1 + number % 3)
        captured.run(number, rate)
        eager.run(number, rate)
        found, expected = captured.read(), eager.read()
        assert found == {name: pytest.approx(value, rel=1e-3, abs=1e-6) for name, value in expected.items()}, number
    assert captured.captured == (gpu != CPU)
    assert_near(copies(captured), copies(eager), 1e-3)
    for name, value in copies(captured).items():
        if name.endswith("/step"):
            wanted = 4 if kind == "irn-plus" and name.startswith("weights/") else 6
            assert value == wanted, f"{name}: warming up counts, or a step does not"


@pytest.mark.parametrize("kind", ["fp32", "bf16", "muon", "irn-plus"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_gradient_in_a_replay_never_reaches_the_weights(kind: str, value: float, gpu: torch.device) -> None:
    step = gpu_step(kind, gpu)
    poison = torch.zeros((), device=gpu)  # added within the graph: nothing, until it is set
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


def test_a_bad_loss_in_a_replay_never_reaches_the_weights(gpu: torch.device) -> None:
    step = gpu_step("fp32", gpu)
    step.run(0, 1e-3)
    before, shrink = copies(step), step.batches.shrink.clone()
    step.batches.shrink.fill_(float("nan"))
    step.run(1, 1e-3)
    assert same(before, copies(step), "weights/")
    assert step.read()["skipped"] == 1
    step.batches.shrink.copy_(shrink)
    step.run(2, 1e-3)
    assert not same(before, copies(step), "weights/")


def test_what_runs_at_once_changes_no_gradient(only_gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = gpu_step("bf16", only_gpu)
    monkeypatch.setattr(Streams, "on", lambda _: None)
    in_turn = gpu_step("bf16", only_gpu)
    for number in [0, 1] * 10:
        for step in (at_once, in_turn):
            step.run(number, 0)
        assert at_once.read() == in_turn.read()
        for one, other in zip(at_once.weights, in_turn.weights, strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert torch.equal(one.grad, other.grad)


def test_a_gpus_step_is_the_cpus(gpu: torch.device) -> None:
    """But for the noise, which another generator draws: of the picture only what comes without it."""
    on_gpu, on_cpu = make_step(device=gpu), make_step()
    for step in (on_gpu, on_cpu):
        step.batches.prepare(0)
        step.rate.fill_(1e-3)
    (x, guide, _), (same_x, same_guide, drawn) = on_gpu.batches.draw(), on_cpu.batches.draw()
    torch.testing.assert_close(x.cpu(), same_x, rtol=0, atol=1e-6)
    torch.testing.assert_close(guide.cpu(), same_guide, rtol=0, atol=1e-5)
    on_gpu.learn(Batch(x, guide, drawn.to(gpu)))
    on_cpu.learn(Batch(same_x, same_guide, drawn))
    assert on_gpu.read() == {name: pytest.approx(value, rel=1e-3) for name, value in on_cpu.read().items()}
    assert_near({name: value.cpu() for name, value in copies(on_gpu).items()}, copies(on_cpu), 1e-3)


QUICK = {"log_every": 2, "save_every": 4, "validate_every": 8, "iterations": 8, "grain": 0.5, "jump_after": 1}


@pytest.mark.parametrize("kind", ["fp32", "bf16", "muon"])
def test_a_run_saves_validates_and_goes_on(tmp_path: Path, kind: str, gpu: torch.device) -> None:
    precision = "bf16" if kind == "bf16" else "fp32"
    changes = QUICK | ({"optimiser": "muon"} if kind == "muon" else {})
    directory = tmp_path / "validation"
    directory.mkdir()
    Image.open(PHOTOS / "chelsea.png").crop((150, 60, 246, 140)).save(directory / "cat.png")
    validation = find_data_set(directory)
    whole = make_step(precision, gpu, **changes)
    events = list(train(whole, tmp_path / "whole", {}, validation=validation))
    saved = [Logged, Logged, Saved]
    assert [type(event) for event in events] == [Logged, Saved, *saved, *saved, Validated, Saved, Ended]
    assert load_model(tmp_path / "whole" / "weights.safetensors").config.scale == 2

    list(train(make_step(precision, gpu, **changes), tmp_path / "parts", {}, limits=Limits(steps=3)))
    halfway = load_checkpoint(tmp_path / "parts")
    assert halfway.counters.step == 3
    second = make_step(precision, gpu, **changes)
    list(train(second, tmp_path / "parts", {}, checkpoint=halfway))
    assert_near(copies(second), copies(whole), 1e-3)


def test_after_several_bad_steps_a_run_returns_to_its_last_good_state(tmp_path: Path, gpu: torch.device) -> None:
    step = make_step(device=gpu, **{**QUICK, "iterations": 20, "patience": 2, "setback": 0.5})
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


# cuDNN's float32 convolutions round a little more than a CPU's: pictures may differ by a hundredth of a level.
HUNDREDTH = 0.01 / 255


@pytest.mark.parametrize("name", ["irn-x2", "irn-x4"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("where", ["all at once", "in tiles", "the map on the host"])
def test_the_engine_agrees_with_the_cpus(name: str, precision: Precision, where: str, only_gpu: torch.device) -> None:
    x, u, back = on_the_cpu(name)
    memory = {"all at once": None, "in tiles": x.nbytes * 16 // 5, "the map on the host": x.nbytes * 3 // 2}[where]
    runner = Engine(load_model(name), only_gpu, precision, memory)
    found, restored = runner.downscale(x.clone()), runner.upscale(received(u, 1))
    if precision == "fp32":
        assert_same(found, u, HUNDREDTH)
        assert_same(restored, back, HUNDREDTH)
    else:
        levels = (quantise(found[..., :3]) - quantise(u[..., :3])).abs() * 255
        assert levels.max() < 2.5
        assert (levels < 1.5).double().mean() >= 0.9999
        assert psnr(as_pixels(restored), as_pixels(back)) > 40, "two restorations, not two pictures"


def as_pixels(x: Tensor) -> np.ndarray:
    return (quantise(x) * 255).round().byte().numpy()


@pytest.mark.parametrize("name", ["irn-x2", "irn-x4"])
def test_the_plain_network_on_a_gpu_is_the_cpus(name: str, only_gpu: torch.device) -> None:
    """Where this fails, it is not the engine."""
    model = load_model(name)
    x = photo(240, 320)
    u = plain_downscale(model, x)
    received_u = received(u, 1)
    expected = plain_upscale(model, received_u)
    model.to(only_gpu)
    assert_same(plain_downscale(model, x.to(only_gpu)).cpu(), u, HUNDREDTH)
    assert_same(plain_upscale(model, received_u.to(only_gpu)).cpu(), expected, HUNDREDTH)


def test_a_hundred_megapixels(only_gpu: torch.device) -> None:
    """In bounded memory, and in its middle as where a part of it is all there is."""
    side, part = 10_000, slice(4_000, 6_000)
    x = photo(side, side)
    middle = x[part, part].contiguous()
    limit = 8 * 10**9
    runner = Engine(load_model("irn-x4"), only_gpu, "bf16", limit)
    torch.cuda.reset_peak_memory_stats()
    u = runner.downscale(x)
    assert u.shape == (side // 4, side // 4, 48)
    alone = runner.downscale(middle)
    inner, of_whole = slice(125, -125), slice(1_125, 1_375)  # 500 pixels from the part's borders: beyond their reach
    difference = (u[of_whole, of_whole, :3] - alone[inner, inner, :3]).abs().max() * 255
    assert difference < 1, "in levels"
    assert runner.upscale(u).shape == (side, side, 3)
    assert torch.cuda.max_memory_allocated() < 1.1 * limit


def test_pictures_come_back_bit_for_bit_with_their_latent(only_gpu: torch.device) -> None:
    picture = read(PHOTOS / "coffee.png")
    model = load_model("irn-x4")
    scaler = Rescaler(model, str(only_gpu))
    small = scaler.downscale(picture, keep_latent=True)
    assert not small.warnings
    assert np.array_equal(scaler.upscale(small).pixels, picture.pixels)
    elsewhere = Rescaler(model, "cpu", "fp32").upscale(replace(small, latent=None), seed=1)
    here = scaler.upscale(replace(small, latent=None), seed=1)
    assert psnr(here.pixels, elsewhere.pixels) > 40, "one draw on any device"


@pytest.mark.parametrize(("name", "height", "width"), [("irn-x4", 9, 13), ("irn-x2", 17, 21)])
def test_the_decoders_gradient_is_autograds(name: str, height: int, width: int, gpu: torch.device) -> None:
    model, u, weight = known(name, height, width)
    x, expected = by_autograd(model, u, weight)
    _, found = Gradient(model, gpu, "fp32").pull_back(x.clone(), weight.clone())
    assert_gradients_agree(found.cpu(), expected)
    apart = []
    for device in (gpu, CPU):
        given = Engine(model, device, "bf16").upscale(u.clone())
        _, rough = Gradient(model, device, "bf16").pull_back(given, weight.clone())
        apart.append(1 - cosine(rough.cpu(), expected))
    assert apart[0] < 2 * apart[1], "bfloat16 rounds on a GPU in another order, not twice as roughly"


def test_a_gradients_map_may_stay_on_the_host(only_gpu: torch.device) -> None:
    model = load_model("irn-x2")
    u, weight = decoded(model, 384, 320, temperature=1)
    x = Engine(model, CPU, "fp32").upscale(u)
    whole = Gradient(model, only_gpu, "fp32").pull_back(x.clone(), weight.clone())[1]
    memory = 2 * (x.nbytes + weight.nbytes) - 1  # half of what there is may be the maps'
    parts = Gradient(model, only_gpu, "fp32", memory).pull_back(x, weight)[1]
    assert relative(parts.cpu(), whole.cpu()) < 1e-4


@pytest.mark.parametrize("name", ["irn-x2", "irn-x4"])
def test_refining_gains_as_on_the_cpu(name: str, gpu: torch.device) -> None:
    pixels = read(PHOTOS / "coffee.png").pixels[120:192, 200:272].copy()
    model = load_model(name)
    here, there = (Rescaler(model, device, "fp32").downscale(Picture(pixels), refine=3) for device in (str(gpu), "cpu"))
    assert here.refinement is not None
    assert there.refinement is not None
    assert here.refinement.before.rgb == pytest.approx(there.refinement.before.rgb, abs=0.02)
    assert here.refinement.after.rgb == pytest.approx(there.refinement.after.rgb, abs=0.05)
    assert here.refinement.after.rgb > here.refinement.before.rgb
    restored = Rescaler(model, str(gpu), "fp32").upscale(here)
    assert Psnr.of(pixels, restored.pixels).rgb == pytest.approx(here.refinement.after.rgb, abs=1e-6)


@pytest.mark.slow
def test_all_tests_for_a_gpu_are_found_and_skipped_where_there_is_none() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", str(ROOT / "tests")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) skipped, \d+ deselected", done.stdout)
    assert found, done.stdout
    assert int(found[1]) >= 40
