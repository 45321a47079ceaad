"""The loop: what it yields, where it ends, how it goes on, and that nothing ruins it."""

import errno
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from irn_cli import tensors
from irn_cli.errors import DeviceError, InputError, IrnError, OutputError
from irn_cli.evaluation.dataset import DataSet, find_data_set
from irn_cli.evaluation.evaluate import evaluate
from irn_cli.evaluation.methods import Network
from irn_cli.evaluation.scores import summarise
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.train import checkpoint as checkpoints
from irn_cli.train import trainer
from irn_cli.train.checkpoint import load_checkpoint
from irn_cli.train.job import Limits
from irn_cli.train.step import Step
from irn_cli.train.trainer import Clock, Ended, Event, Logged, Saved, SetBack, Validated, next_wait, train
from irn_cli.weights import load_model, read_info
from tests.test_train_step import copies, make_second_stage, make_step, noise_pictures, poison, same

QUICK = {"log_every": 1, "save_every": 2, "validate_every": 100, "grain": 0.5, "jump_after": 1, "iterations": 6}


def run(step: Step, directory: Path, **options: Any) -> list[Event]:
    return list(train(step, directory, {"recipe": "test"}, **options))


@pytest.fixture
def photo(tmp_path: Path) -> DataSet:
    """One small photograph to validate on."""
    source = Path(__file__).parents[1] / "examples" / "photos" / "chelsea.png"
    directory = tmp_path / "validation"
    directory.mkdir()
    Image.open(source).crop((150, 60, 246, 140)).save(directory / "cat.png")
    return find_data_set(directory)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "muon", "irn-plus"])
def test_six_steps_are_three_and_three(tmp_path: Path, kind: str) -> None:
    def fresh() -> Step:
        if kind == "irn-plus":
            return make_second_stage(**{**QUICK, "iterations": 4})
        if kind == "muon":
            return make_step(optimiser="muon", temperature=(0.0, 1.0), **QUICK)
        return make_step(kind, **QUICK)

    whole = fresh()
    events = run(whole, tmp_path / "whole")
    assert isinstance(events[-1], Ended)
    assert (events[-1].step, events[-1].reason) == (6, "finished")

    events = run(fresh(), tmp_path / "parts", limits=Limits(steps=3))
    assert (events[-1].step, events[-1].reason) == (3, "steps")  # type: ignore[union-attr]
    second = fresh()
    events += run(second, tmp_path / "parts", checkpoint=load_checkpoint(tmp_path / "parts"))
    assert same(copies(whole), copies(second))
    one, two = (load_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert same(dict(one.tensors), dict(two.tensors))
    assert replace(one.counters, elapsed=0.0) == replace(two.counters, elapsed=0.0)
    assert (
        read_info(tmp_path / "whole" / "weights.safetensors").hash
        == read_info(tmp_path / "parts" / "weights.safetensors").hash
    )
    assert [event.step for event in events if isinstance(event, Logged)] == [1, 2, 3, 4, 5, 6]


def test_the_log_has_what_it_promises(tmp_path: Path) -> None:
    events = run(make_step(**QUICK, term_norms=True), tmp_path, limits=Limits(steps=2))
    rows = [event.row for event in events if isinstance(event, Logged)]
    expected = {"loss", "reconstruction", "guide", "distribution", "lr", "grad_norm", "ms_per_step", "skipped"}
    assert expected | {"elapsed", "reconstruction_norm", "guide_norm", "distribution_norm"} == set(rows[0])
    assert rows[0]["lr"] == pytest.approx(2e-4)
    assert [type(event) for event in events] == [Logged, Saved, Logged, Saved, Saved, Ended]


def test_what_is_exported_is_the_average_and_validates_as_irn_eval_says(tmp_path: Path, photo: DataSet) -> None:
    step = make_step(**{**QUICK, "validate_every": 2})
    events = run(step, tmp_path / "run", validation=photo, limits=Limits(steps=2))
    validated = [event for event in events if isinstance(event, Validated)]
    assert len(validated) == 1  # due, and the last
    assert validated[0].failures == ()
    (saved, *_) = [event for event in events if isinstance(event, Saved)]
    shapes = [picture.shape for picture in vars(saved.preview).values()]
    assert shapes == [(80, 96, 3), (40, 48, 3), (80, 96, 3)]

    exported = load_model(tmp_path / "run" / "weights.safetensors")
    assert exported.temperatures == step.recipe.temperature
    for name, weight in exported.named_parameters():
        average = step.state()[f"average/{name}"]
        torch.testing.assert_close(weight, average, rtol=1e-3, atol=1e-6)
    method = Network("weights", Rescaler(step.averaged(), device="cpu", precision="fp32"))
    again = summarise(score for score in evaluate([method], [photo]) if hasattr(score, "psnr_y"))[0]
    assert again.psnr_y == validated[0].summary.psnr_y
    assert f"PSNR {again.psnr_y:.2f} dB" in read_info(tmp_path / "run" / "weights.safetensors").notes["validation"]


def test_a_run_has_a_row_and_a_preview_from_its_first_step_on(tmp_path: Path) -> None:
    step = make_step(**{**QUICK, "log_every": 10, "save_every": 100})
    events = run(step, tmp_path, limits=Limits(steps=3))
    assert [event.step for event in events if isinstance(event, Logged)] == [1]
    first, saved = (event for event in events if isinstance(event, Saved))
    assert (first.step, saved.step) == (1, 3)
    assert saved.preview.original.shape == (48, 48, 3)
    assert np.array_equal(saved.preview.original, noise_pictures().pixels.view(-1, 48, 48, 3)[0].numpy())
    scaler = Rescaler(step.averaged(), device="cpu", precision="fp32")
    assert np.array_equal(saved.preview.small, scaler.downscale(Picture(saved.preview.original)).pixels)


def test_a_validation_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="no validation picture can be measured"):
        run(make_step(**QUICK), tmp_path / "run", validation=find_data_set(tmp_path))


class Seconds:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: Iterator[float]) -> None:
        self.now, self.each = 0.0, each
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def step(self, step: Step) -> Step:
        """Make a step take the next of the given seconds."""
        plain = step.run

        def slow(number: int, rate: float, setback: float = 1.0) -> None:
            plain(number, rate, setback)
            self.now += next(self.each)

        step.run = slow  # type: ignore[method-assign]
        return step


def test_a_time_limit_ends_the_run_and_takes_the_rate_to_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**QUICK, "horizon": "time", "schedule": "cosine", "warmup": 0, "lr": 1e-3, "iterations": 3}
    step = Seconds(monkeypatch, iter([1.0] * 99)).step(make_step(**changes))
    events = run(step, tmp_path, limits=Limits(seconds=10))
    rates = [event.row["lr"] for event in events if isinstance(event, Logged)]
    assert len(rates) == 10  # not the recipe's 3: time is the horizon
    assert rates[0] == 1e-3
    assert rates[5] == pytest.approx(5e-4)
    assert rates[-1] < 3e-5
    assert (events[-1].step, events[-1].reason) == (10, "time")  # type: ignore[union-attr]
    assert load_checkpoint(tmp_path).counters.progress == 1.0


def test_a_time_limit_without_a_horizon_in_time_leaves_the_schedule_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Seconds(monkeypatch, iter([1.0] * 99)).step(make_step(**QUICK))
    events = run(step, tmp_path, limits=Limits(seconds=4))
    assert (events[-1].step, events[-1].reason) == (4, "time")  # type: ignore[union-attr]
    assert {event.row["lr"] for event in events if isinstance(event, Logged)} == {2e-4}


def test_a_resumed_run_in_time_goes_on_where_its_rate_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**QUICK, "horizon": "time", "schedule": "cosine", "warmup": 0, "lr": 1e-3}
    seconds = Seconds(monkeypatch, iter([1.0] * 99))
    run(seconds.step(make_step(**changes)), tmp_path, limits=Limits(seconds=10, steps=5))
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.counters.progress == 0.5
    events = run(seconds.step(make_step(**changes)), tmp_path, checkpoint=checkpoint, limits=Limits(seconds=4))
    rates = [event.row["lr"] for event in events if isinstance(event, Logged)]
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * p)) / 2 for p in (0.5, 0.625, 0.75, 0.875)])


def test_a_stopped_process_loses_no_time_but_a_slower_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock = Clock()
    spent = 0.0
    for seconds in [1.0] * 10 + [600.0] + [1.0] * 10:
        now += seconds
        spent += clock.tick(1)
    assert spent == pytest.approx(24.0)
    spent = 0.0
    for _ in range(100):
        now += 3.0
        spent += clock.tick(1)
    assert spent == pytest.approx(300.0)


def test_after_several_bad_steps_the_run_returns_to_its_last_good_state(tmp_path: Path) -> None:
    step = make_step(**{**QUICK, "iterations": 12, "patience": 3, "setback": 0.5})
    events, states, heal = [], {}, None
    for event in train(step, tmp_path, {}):
        events.append(event)
        if isinstance(event, Saved):
            states[event.step] = copies(step)
        if isinstance(event, Logged) and event.step == 5:
            heal = poison(step, float("nan"))
        if isinstance(event, SetBack):
            assert heal is not None
            heal()
            assert same(states[4], copies(step), "weights/")
            assert same(states[4], copies(step), "average/")
    back = [event for event in events if isinstance(event, SetBack)]
    assert [(event.step, event.factor) for event in back] == [(8, 0.5)]
    rows = {event.step: event.row for event in events if isinstance(event, Logged)}
    assert rows[12]["skipped"] == 3
    assert rows[7]["lr"] == 2 * rows[9]["lr"]
    assert load_checkpoint(tmp_path).counters.setbacks == 1
    assert all(torch.isfinite(value).all() for value in load_checkpoint(tmp_path).tensors.values())
    # while steps are skipped no checkpoint is written
    assert 6 not in states
    assert 10 in states


def test_a_rate_at_which_muon_diverges_is_caught_and_told(tmp_path: Path) -> None:
    step = make_step(**{**QUICK, "optimiser": "muon", "lr": 30.0, "iterations": 12})
    events = list(train(step, tmp_path, {}))
    assert any(isinstance(event, SetBack) for event in events)
    assert all(torch.isfinite(value).all() for value in load_checkpoint(tmp_path).tensors.values())


def test_a_run_that_does_not_recover_is_given_up_with_its_weights_whole(tmp_path: Path) -> None:
    step = make_step(**{**QUICK, "iterations": 200, "patience": 2})
    events = []
    with pytest.raises(IrnError, match=r"gave up at step .* after 10 returns"):
        for event in train(step, tmp_path, {}):
            events.append(event)
            if isinstance(event, Saved) and event.step == 4:
                poison(step, float("nan"))
    assert sum(isinstance(event, SetBack) for event in events) == 10
    assert load_checkpoint(tmp_path).counters.step == 4
    load_model(tmp_path / "weights.safetensors")


def test_too_little_memory_is_told(tmp_path: Path) -> None:
    step = make_step(**QUICK)

    def full(_number: int, _rate: float, _setback: float) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    step.run = full  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="not enough device memory for 4 crops of 16x16: lower --batch"):
        run(step, tmp_path)


def test_an_interruption_saves_and_leaves(tmp_path: Path) -> None:
    asked = count()
    events = run(make_step(**QUICK), tmp_path, interrupted=lambda: next(asked) >= 3)
    assert (events[-1].step, events[-1].reason) == (3, "interrupted")  # type: ignore[union-attr]
    assert load_checkpoint(tmp_path).counters.step == 3


def test_a_full_disk_loses_no_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(**QUICK)
    writes = count()
    whole = tensors.save

    def full(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
        if metadata["format"].startswith("irn-checkpoint") and next(writes) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(arrays, metadata=metadata)

    monkeypatch.setattr(tensors, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        run(step, tmp_path)
    assert load_checkpoint(tmp_path).counters.step == 1
    assert not list(tmp_path.glob(".irn-*"))


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        load_checkpoint(tmp_path)
    run(make_step(**QUICK), tmp_path, limits=Limits(steps=2))
    path = tmp_path / checkpoints.NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        load_checkpoint(tmp_path)
    path.write_bytes((tmp_path / trainer.WEIGHTS).read_bytes())
    with pytest.raises(InputError, match="is not a checkpoint of irn"):
        load_checkpoint(tmp_path)


def test_only_the_last_step_of_a_stretch_is_waited_for_on_a_gpu() -> None:
    step = make_step(**{**QUICK, "log_every": 10, "save_every": 25, "validate_every": 40, "iterations": 57})
    assert next_wait(step, 3, 0, None) == 4
    step.device = torch.device("cuda")
    marks, k = [], 0
    while k < 57:
        k = next_wait(step, k, 0, 33)
        marks.append(k)
    assert marks == [1, 10, 20, 25, 30, 33, 40, 50, 57]
