"""The work on many pictures: what runs at the same time, in which order it is told, and how it stops."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irn_cli.batch import SMALL, Downscaler, Job, Outputs, Upscaler, run
from irn_cli.errors import InputError, OutputError
from irn_cli.image import read, write
from irn_cli.latent import Latent
from irn_cli.model import IRN
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from tests.helpers import photo_like


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def jobs(place: Path, count: int, pixels: int = 12 * 16) -> list[Job]:
    """Small pictures, each to be written under another name; said to be of so many pixels."""
    result = []
    for number in range(count):
        write(place / f"{number}.png", Picture(photo_like(12, 16, number)))
        result.append(Job(place / f"{number}.png", (place / f"{number}_out.png",), pixels))
    return result


Action = Callable[[Job], None]


def doing(action: Action) -> Callable[[Job, Picture, dict[str, Any]], Iterator[tuple[Path, Picture]]]:
    """Work that does this, and copies the picture."""

    def work(job: Job, picture: Picture, facts: dict[str, Any]) -> Iterator[tuple[Path, Picture]]:
        action(job)
        yield job.targets[0], picture

    return work


def test_small_pictures_are_worked_on_at_the_same_time(tmp_path: Path) -> None:
    meeting, threads = threading.Barrier(2, timeout=30), []

    def meet(job: Job) -> None:
        meeting.wait()
        threads.append(torch.get_num_threads())

    plan = jobs(tmp_path, 6)
    outcomes = list(run(plan, doing(meet), Outputs(), at_once=2))
    assert [outcome.status for outcome in outcomes] == ["done"] * 6
    assert threads == [2] * 6  # half of 4 each
    assert torch.get_num_threads() == 4
    started_later: list[int] = []
    thread = threading.Thread(target=lambda: started_later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert started_later == [4]


@pytest.mark.parametrize(("pixels", "at_once"), [(SMALL + 1, 2), (0, 2), (SMALL, 1)])
def test_others_have_the_callers_thread_one_by_one(tmp_path: Path, pixels: int, at_once: int) -> None:
    seen = set()
    plan = jobs(tmp_path, 3, pixels)
    list(run(plan, doing(lambda _: seen.add(threading.current_thread())), Outputs(), at_once=at_once))
    assert seen == {threading.current_thread()}


def test_several_are_encoded_while_the_next_are_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, plan = threading.Barrier(2, timeout=30), jobs(tmp_path, 4, SMALL + 1)

    def meet(*arguments: Any, **options: Any) -> None:
        meeting.wait()
        write(*arguments, **options)

    monkeypatch.setattr("irn_cli.batch.write", meet)
    outcomes = list(run(plan, doing(lambda _: None), Outputs()))
    assert [outcome.outputs for outcome in outcomes] == [job.targets for job in plan]


def test_few_wait_to_be_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, held, most = [], threading.Event(), []
    plan = jobs(tmp_path, 12, SMALL + 1)

    def hold(*arguments: Any, **options: Any) -> None:
        held.wait(30)
        write(*arguments, **options)

    monkeypatch.setattr("irn_cli.batch.write", hold)
    threading.Timer(0.5, lambda: (most.append(len(begun)), held.set())).start()
    outcomes = list(run(plan, doing(begun.append), Outputs()))
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert most[0] <= 5  # four are being encoded, and one waits


def test_no_picture_without_its_latent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs(tmp_path, 1)
    latent = Latent(np.zeros((12, 16, 9), np.float16), np.zeros((12, 16, 3), np.float16), "", "")
    job = replace(job, targets=(*job.targets, tmp_path / "0.safetensors"), together=True)

    def work(job: Job, picture: Picture, facts: dict[str, Any]) -> Iterator[tuple[Path, Picture | Latent]]:
        yield job.targets[1], latent
        yield job.targets[0], picture

    def fail(path: Path, latent: Latent, *, overwrite: bool) -> None:
        time.sleep(0.1)
        raise OutputError(f"cannot write {path}: no space left")

    monkeypatch.setattr("irn_cli.batch.write_latent", fail)
    (outcome,) = run([job], work, Outputs())
    assert outcome.status == "failed"
    assert "no space left" in outcome.reason
    assert not job.targets[0].exists()


def test_outcomes_come_in_order_and_failures_with_them(tmp_path: Path) -> None:
    plan = jobs(tmp_path, 9)

    def odd(job: Job) -> None:
        number = int(job.source.stem)
        if number % 3 == 0:
            time.sleep(0.1)
        if number % 3 == 1:
            raise InputError(f"no {number}")

    outcomes = list(run(plan, doing(odd), Outputs(), at_once=3))
    assert [outcome.source for outcome in outcomes] == [job.source for job in plan]
    assert [outcome.reason for outcome in outcomes] == ["", "no 1", "", "", "no 4", "", "", "no 7", ""]
    for job, outcome in zip(plan, outcomes, strict=True):
        assert job.targets[0].exists() == (outcome.status == "done")


def test_a_mistake_of_ours_is_raised(tmp_path: Path) -> None:
    def mistake(_: Job) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run(jobs(tmp_path, 3), doing(mistake), Outputs(), at_once=2))


def test_who_has_enough_stops_what_is_running(tmp_path: Path) -> None:
    stopped = threading.Event()

    def until_stopped(job: Job) -> None:
        if job.source.stem != "0" and not stopped.wait(30):
            raise AssertionError("nobody told us")

    outcomes = run(jobs(tmp_path, 9), doing(until_stopped), Outputs(), at_once=2, stopped=stopped)
    assert next(outcomes).status == "done"
    begin = time.monotonic()
    outcomes.close()  # type: ignore[attr-defined]  # it is a generator
    assert time.monotonic() - begin < 10
    assert stopped.is_set()
    assert len(list(tmp_path.glob("*_out.png"))) < 9


def test_together_they_become_what_they_become_alone(tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    loaded = []

    def load(source: str | Path) -> Rescaler:
        loaded.append(source)
        time.sleep(0.05)  # so that others come while this is under way
        return Rescaler(tiny_model(4), "cpu", "fp32")

    for at_once in (1, 3):
        place = tmp_path / str(at_once)
        place.mkdir()
        downs = jobs(place, 6)
        list(run(downs, Downscaler(load("")), Outputs(), at_once=at_once))
        ups = [Job(job.targets[0], (place / f"{job.source.stem}_up.png",), 192) for job in downs]
        assert not [o for o in run(ups, Upscaler(load), Outputs(), at_once=at_once) if o.status != "done" or o.warnings]
    assert len(loaded) == 4  # one for each run, however many asked at once
    for number in range(6):
        for name in (f"{number}_out.png", f"{number}_up.png"):
            assert np.array_equal(read(tmp_path / "1" / name).pixels, read(tmp_path / "3" / name).pixels)
