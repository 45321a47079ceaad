"""From a request to a job: what is found, what is refused, and what its directory holds."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from irn_cli.errors import DeviceError, OutputError, UsageError
from irn_cli.image import write
from irn_cli.picture import Picture
from irn_cli.train.checkpoint import Checkpoint, Counters, save_checkpoint
from irn_cli.train.job import TrainingJob, prepare, processes
from irn_cli.train.request import NAME, Request
from irn_cli.weights import save_model
from tests.helpers import make_tiny_model, photo_like


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with three pictures in `photos`, one of which cannot be read, and a small network's recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        write(tmp_path / "photos" / f"{number}.png", Picture(photo_like(48, 56, number)))
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "tiny.toml").write_text("blocks = 1\ngrowth = 8\n")
    return tmp_path


def prepared(**given: Any) -> TrainingJob:
    overrides = {"scale": 2, "patch": 32, "batch": 1, **given.pop("overrides", {})}
    request = {"data": (Path("photos"),), "config": Path("tiny.toml"), "device": "cpu", "precision": "fp32", **given}
    return prepare(Request(overrides=overrides, **request))


def test_what_is_asked_for_is_what_runs(place: Path) -> None:
    job = prepared(overrides={"lr": 1e-3, "seed": 5}, stop_after=3, time_limit=60.0)
    recipe = job.step.recipe
    assert (recipe.scale, recipe.patch, recipe.batch, recipe.lr, recipe.seed) == (2, 32, 1, 1e-3, 5)
    assert (recipe.blocks, recipe.growth) == (1, 8)
    assert (job.limits.steps, job.limits.seconds) == (3, 60)
    assert (job.run, job.checkpoint, job.branched, job.found) == (Path("runs/irn-x2"), None, None, None)
    assert job.remembered["data"] == [str(place / "photos")]
    assert not (place / "runs").exists()  # preparing writes nothing


def test_what_it_will_do_and_what_may_be_wrong_is_told(place: Path) -> None:
    job = prepared(vgg=Path("vgg.pth"))
    (fact,) = job.facts
    assert fact.startswith("2 pictures to train on, none to validate on")
    left_out, unused = job.remarks
    assert left_out.startswith("left out: ")
    assert "broken.png" in left_out
    assert unused == "--vgg is not used: stage irn compares no features"


def test_validating_on_what_is_trained_on_is_told(place: Path) -> None:
    job = prepared(validation=Path("photos"))
    assert job.validation is not None
    assert any("validation uses pictures that are trained on" in remark for remark in job.remarks)


def test_a_job_leaves_its_request_and_keeps_others_out(place: Path) -> None:
    job = prepared(run=Path("run"))
    with job.open():
        assert json.loads((place / "run" / NAME).read_text())["data"] == [str(place / "photos")]
        assert "growth = 8\n" in (place / "run" / "recipe.toml").read_text()
        with pytest.raises(UsageError, match="another process trains in run"):
            prepared(run=Path("run")).open()
    prepared(run=Path("run")).open().close()  # which is gone now


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"anneal": 60.0}, UsageError, "name the run with --resume"),
        ({"recipe": "irn-plus"}, UsageError, "irn-plus continues IRN weights"),
        ({"init": "tiny.safetensors", "overrides": {"scale": 4}}, UsageError, "is for 2x, but the recipe is for 4x"),
        ({"run": Path("photos/0.png/run")}, OutputError, r"0\.png is not a directory"),
    ],
)
def test_what_cannot_be_trained(place: Path, given: dict[str, Any], error: type[Exception], message: str) -> None:
    save_model(place / "tiny.safetensors", make_tiny_model(2))
    with pytest.raises(error, match=message):
        prepared(**given)


def test_starting_weights_bring_their_shape(place: Path) -> None:
    save_model(place / "tiny.safetensors", model := make_tiny_model(2))
    job = prepared(init="tiny.safetensors", config=None)
    for found, expected in zip(job.step.averaged().parameters(), model.parameters(), strict=True):
        assert np.allclose(found.detach(), expected.detach(), rtol=1e-3, atol=1e-6)  # which files hold as float16
    assert any("starting weights carry no optimiser state" in fact for fact in job.facts)


def test_a_continued_runs_notes_tell_what_was_changed_on_the_way(place: Path) -> None:
    step = prepared().step
    notes = {"recipe": "irn with scale = 2", "hardware": "an abacus", "software": "torch 2.11.0", "data": "all"}
    counters = Counters(step=7, elapsed=1.0, progress=0.1, setbacks=0)
    save_checkpoint(Path("run"), Checkpoint(step.state(), counters, step.recipe, step.master.config, step.stamp, notes))
    same = prepared(resume=Path("run")).notes
    assert same["recipe"] == notes["recipe"]
    assert same["hardware"].startswith("an abacus; from step 7 ")
    assert same["software"].startswith("torch 2.11.0; from step 7 torch ")
    assert same["data"] == "all; from step 7 2 pictures of photos"
    changed = prepared(resume=Path("run"), overrides={"lr": 1e-5}).notes
    assert changed["recipe"] == "irn with scale = 2; from step 7 with lr = 1e-05"


def test_a_single_process_keeps_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes("cuda:3") as device:
        assert device == "cuda:3"


def torchrun_gave(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_several_processes_that_torchrun_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun_gave(monkeypatch, WORLD_SIZE="4", RANK="1")
    with pytest.raises(UsageError, match="WORLD_SIZE is set, but not LOCAL_RANK: torchrun sets both"), processes("cpu"):
        pass


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WORLD_SIZE", "abc", "a whole number from 1,"),
        ("WORLD_SIZE", "0", "a whole number from 1,"),
        ("WORLD_SIZE", "", "a whole number from 1,"),
        ("RANK", "x", "a whole number from 0 to 1,"),
        ("RANK", "2", "a whole number from 0 to 1,"),
        ("LOCAL_RANK", "-1", "a whole number from 0 to 1,"),
        ("MASTER_PORT", "65536", "a whole number from 0 to 65535,"),
    ],
)
def test_what_torchrun_would_not_set_is_told(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    torchrun_gave(monkeypatch, **{**given, name: value})
    with pytest.raises(UsageError, match=f"^{name}={value}: expected {expected}"), processes("cpu"):
        pass


def test_ctrl_c_ends_the_wait_for_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = []
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: handlers.append(signal.getsignal(signal.SIGINT)))
    monkeypatch.setattr(dist, "barrier", lambda: handlers.append(signal.getsignal(signal.SIGINT)))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    torchrun_gave(monkeypatch, WORLD_SIZE="2", RANK="1", LOCAL_RANK="1", **place)
    with processes("cpu"):
        pass
    assert handlers == [signal.SIG_DFL, signal.getsignal(signal.SIGINT)]  # a handler would run once all have come


def test_a_share_of_no_processes_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "0")
    with pytest.raises(UsageError, match="LOCAL_WORLD_SIZE=0: expected a whole number from 1"):
        prepared()


@pytest.mark.parametrize(("gpus", "device"), [(0, "cuda"), (2, "auto"), (2, "cuda")])
def test_more_processes_than_gpus(gpus: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # where nobody answers: this comes before
    torchrun_gave(monkeypatch, WORLD_SIZE="4", RANK="3", LOCAL_RANK="3", **place)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    message = f"no device cuda:3: torch sees {gpus} CUDA device"
    with pytest.raises(DeviceError, match=message), processes(device):
        pass
