"""The work on many pictures: what runs at the same time, in which order it is told, and how it stops."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irn_cli.batch.jobs import Job, Outcome, Result
from irn_cli.batch.line import SMALL, Progressed, run
from irn_cli.batch.outputs import Outputs
from irn_cli.batch.storage import Storage
from irn_cli.batch.work import Chooser, Downscaler, Product, Report, Upscaler, Work
from irn_cli.engine import Progress
from irn_cli.errors import Code, InputError
from irn_cli.image import read, write
from irn_cli.latent import KeptOriginal, latent_path
from irn_cli.model import IRN
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from tests.helpers import photo_like

STORAGE = Storage(Outputs())


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


def doing(action: Action) -> Work:
    """Work that does this, and copies the picture."""

    def work(job: Job, picture: Picture, progress: Progress) -> Iterator[Product | Result]:
        action(job)
        yield Product(job.targets[0], picture)

    return work


def outcomes_of(plan: Sequence[Job | Outcome], work: Work, at_once: int = 1) -> list[Outcome]:
    return [event for event in run(plan, work, STORAGE, at_once=at_once) if isinstance(event, Outcome)]


def test_small_pictures_are_worked_on_at_the_same_time(tmp_path: Path) -> None:
    meeting, threads = threading.Barrier(2, timeout=30), []

    def meet(job: Job) -> None:
        meeting.wait()
        threads.append(torch.get_num_threads())

    plan = jobs(tmp_path, 6)
    outcomes = outcomes_of(plan, doing(meet), at_once=2)
    assert [outcome.status for outcome in outcomes] == ["done"] * 6
    assert threads == [2] * 6  # half of 4 each
    assert torch.get_num_threads() == 4
    started_later: list[int] = []
    thread = threading.Thread(target=lambda: started_later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert started_later == [4]


@pytest.mark.parametrize(("pixels", "at_once"), [(SMALL + 1, 2), (0, 2), (SMALL, 1)])
def test_others_are_worked_on_one_by_one_with_all_threads(tmp_path: Path, pixels: int, at_once: int) -> None:
    seen = []
    plan = jobs(tmp_path, 3, pixels)
    outcomes_of(plan, doing(lambda _: seen.append((threading.get_ident(), torch.get_num_threads()))), at_once)
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert seen[0][1] == 4


def test_several_are_encoded_while_the_next_are_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, plan = threading.Barrier(2, timeout=30), jobs(tmp_path, 4, SMALL + 1)

    def meet(*arguments: Any, **options: Any) -> tuple[str, ...]:
        meeting.wait()
        return write(*arguments, **options)

    monkeypatch.setattr("irn_cli.batch.storage.write", meet)
    outcomes = outcomes_of(plan, doing(lambda _: None))
    assert [outcome.outputs for outcome in outcomes] == [job.targets for job in plan]


def test_few_wait_to_be_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, held, most = [], threading.Event(), []
    plan = jobs(tmp_path, 12, SMALL + 1)

    def hold(*arguments: Any, **options: Any) -> tuple[str, ...]:
        held.wait(30)
        return write(*arguments, **options)

    monkeypatch.setattr("irn_cli.batch.storage.write", hold)
    threading.Timer(0.5, lambda: (most.append(len(begun)), held.set())).start()
    outcomes = outcomes_of(plan, doing(begun.append))
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert most[0] <= 5  # four are being encoded, and one waits


def test_the_share_done_is_that_of_the_whole_job(tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    job, picture = Job(tmp_path, (tmp_path / "a.png", tmp_path / "b.png")), Picture(photo_like(96, 96))
    downscaler = Downscaler(scaler=Rescaler(tiny_model(2), "cpu", "fp32"), verify=True, min_psnr=99.0)
    chooser = Chooser(downscalers=(downscaler, downscaler), otherwise="keep")
    shares: list[float] = []
    list(chooser(job, picture, lambda share, note="": shares.append(share)))
    assert shares == sorted(shares)
    assert [sum(low < share <= low + 0.25 for share in shares) > 0 for low in (0, 0.25, 0.5, 0.75)] == [True] * 4
    assert shares[-1] == 1


def test_a_factor_at_which_there_is_a_blotch_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., IRN]
) -> None:
    def work(self: Downscaler, job: Job, picture: Picture, report: Report) -> Iterator[Product | Result]:
        if self.scaler.scale == 4:
            raise InputError("a blotch", Code.ARTIFACT)
        yield Product(job.targets[0], picture)

    monkeypatch.setattr(Downscaler, "__call__", work)
    scalers = [Rescaler(tiny_model(scale), "cpu", "fp32") for scale in (4, 2)]
    chooser = Chooser(
        downscalers=tuple(Downscaler(scaler=scaler, min_psnr=30.0) for scaler in scalers), otherwise="fail"
    )
    job = Job(tmp_path, (tmp_path / "a.png", tmp_path / "b.png"))
    (product,) = chooser(job, Picture(photo_like(12, 16)), lambda share, note="": None)
    assert isinstance(product, Product)
    assert product.target == job.targets[1]


def test_few_of_one_pictures_many_results_wait_to_be_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, held, most = [], threading.Event(), []
    (job,) = jobs(tmp_path, 1)

    def hold(*arguments: Any, **options: Any) -> tuple[str, ...]:
        held.wait(30)
        return write(*arguments, **options)

    def work(job: Job, picture: Picture, progress: Progress) -> Iterator[Product | Result]:
        for number in range(12):
            begun.append(number)
            yield Product(tmp_path / f"{number}_large.png", picture)

    monkeypatch.setattr("irn_cli.batch.storage.write", hold)
    threading.Timer(0.5, lambda: (most.append(len(begun)), held.set())).start()
    (outcome,) = outcomes_of([job], work)
    assert (outcome.status, len(outcome.outputs)) == ("done", 12)
    assert most[0] <= 5  # four are being encoded, and one waits


def test_no_more_is_begun_than_whoever_asks_takes(tmp_path: Path) -> None:
    begun: list[Job] = []
    events = run(jobs(tmp_path, 20), doing(begun.append), STORAGE)
    next(event for event in events if isinstance(event, Outcome))
    time.sleep(0.5)
    events.close()
    assert len(begun) <= 6


def test_small_pictures_do_not_tell_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(job: Job, picture: Picture, progress: Progress) -> Iterator[Product | Result]:
        progress(0.5)
        yield Product(job.targets[0], picture)

    monkeypatch.setattr("irn_cli.batch.line._PAUSE", -1.0)
    them = jobs(tmp_path, 2)
    for at_once, shares in ((2, {0.0, 1.0}), (1, {0.0, 0.5, 1.0})):
        plan = [replace(job, targets=(tmp_path / f"{at_once}{job.source.name}",)) for job in them]
        events = run(plan, work, STORAGE, at_once=at_once)
        assert {event.share for event in events if isinstance(event, Progressed)} == shares


def test_bytes_that_are_not_known_are_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irn_cli.batch.storage.byte_count", lambda _: 0)  # as those of standard output
    (outcome,) = outcomes_of(jobs(tmp_path, 1), doing(lambda _: None))
    assert outcome.result.output_bytes is None


def test_a_reader_that_has_left_ends_the_batch(tmp_path: Path) -> None:
    def leave(_: Job) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        outcomes_of(jobs(tmp_path, 3), doing(leave))


def test_no_picture_without_its_kept_original(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, 1)
    latent = KeptOriginal(np.zeros((24, 32, 3), np.uint8), "")
    latent_path(job.targets[0]).mkdir()

    def work(job: Job, picture: Picture, progress: Progress) -> Iterator[Product | Result]:
        yield Product(job.targets[0], replace(picture, latent=latent))

    (outcome,) = outcomes_of([job], work)
    assert (outcome.status, outcome.code, outcome.outputs) == ("failed", Code.UNWRITABLE, ())
    assert "it is a directory" in outcome.reason
    assert not job.targets[0].exists()


@pytest.mark.parametrize(("pixels", "changed"), [(12 * 16, 1), (SMALL + 1, 1), (SMALL + 1, 2)])
def test_nothing_is_written_of_what_a_file_was_before_it_changed(tmp_path: Path, pixels: int, changed: int) -> None:
    """It would be newer than the file, so that `--update` would never renew it."""
    plan, reading = jobs(tmp_path, 4, pixels), threading.Event()

    class Reading(Storage):
        def read(self, job: Job) -> Picture:
            picture = super().read(job)
            if job is plan[changed]:
                reading.set()
            return picture

    def change(job: Job) -> None:
        if job is plan[1]:
            assert reading.wait(30)  # ahead, if it is the next
            write(plan[changed].source, Picture(photo_like(20, 16, 9)), overwrite=True)
        if job is plan[3]:
            job.source.unlink()  # what was made of it is all that there is

    events = run(plan, doing(change), Reading(Outputs()), at_once=2)
    outcomes = [event for event in events if isinstance(event, Outcome)]
    told = f"{plan[changed].source} has changed since it was read: nothing is written; run irn again"
    assert [outcome.reason for outcome in outcomes] == [told if number == changed else "" for number in range(4)]
    assert [job.targets[0].exists() for job in plan] == [number != changed for number in range(4)]


def test_outcomes_come_in_order_and_failures_with_them(tmp_path: Path) -> None:
    plan = jobs(tmp_path, 9)

    def odd(job: Job) -> None:
        number = int(job.source.stem)
        if number % 3 == 0:
            time.sleep(0.1)
        if number % 3 == 1:
            raise InputError(f"no {number}")

    outcomes = outcomes_of(plan, doing(odd), at_once=3)
    assert [outcome.source for outcome in outcomes] == [job.source for job in plan]
    assert [outcome.reason for outcome in outcomes] == ["", "no 1", "", "", "no 4", "", "", "no 7", ""]
    for job, outcome in zip(plan, outcomes, strict=True):
        assert job.targets[0].exists() == (outcome.status == "done")


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (
            ZeroDivisionError("division by zero"),
            Code.BUG,
            "unexpected ZeroDivisionError: division by zero; this is a bug",
        ),
        (RuntimeError("sizes do not match"), Code.BUG, "unexpected RuntimeError: sizes do not match; this is a bug"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Code.MEMORY, "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), Code.MEMORY, "not enough memory"),
        (MemoryError(), Code.MEMORY, "not enough memory"),
        (PermissionError(13, "Permission denied", "a/b"), Code.SYSTEM, "a/b: Permission denied"),
        (InputError("no good", Code.LOW_PSNR), Code.LOW_PSNR, "no good"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2])
def test_whatever_goes_wrong_is_one_pictures_failure(
    tmp_path: Path, error: Exception, code: Code, reason: str, at_once: int
) -> None:
    def fail(job: Job) -> None:
        if job.source.stem == "1":
            raise error

    outcomes = outcomes_of(jobs(tmp_path, 3), doing(fail), at_once)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    assert outcomes[1].code == code
    assert outcomes[1].reason.startswith(reason)
    assert "in fail\n    raise error\n" in outcomes[1].traceback


def test_an_allocation_that_fails_is_told_as_such(tmp_path: Path) -> None:
    outcomes = outcomes_of(jobs(tmp_path, 1), doing(lambda _: torch.empty(1 << 60) and None))
    assert outcomes[0].code == Code.MEMORY


@pytest.mark.parametrize("pixels", [12 * 16, SMALL + 1])
def test_who_has_enough_stops_what_is_running(tmp_path: Path, pixels: int) -> None:
    ended = []

    def until_stopped(job: Job, picture: Picture, progress: Progress) -> Iterator[Product | Result]:
        deadline = time.monotonic() + 30
        try:
            while job.source.stem != "0" and time.monotonic() < deadline:
                progress(0.5)
                time.sleep(0.01)
        finally:
            ended.append(time.monotonic() < deadline)
        yield Product(job.targets[0], picture)

    events = run(jobs(tmp_path, 9, pixels), until_stopped, STORAGE, at_once=2)
    assert next(event.status for event in events if isinstance(event, Outcome)) == "done"
    begin = time.monotonic()
    events.close()
    assert time.monotonic() - begin < 10
    assert 1 <= len(ended) < 9
    assert all(ended)
    assert len(list(tmp_path.glob("*_out.png"))) == 1


@pytest.mark.parametrize("pixels", [12 * 16, SMALL + 1])
def test_an_interruption_tells_what_was_finished_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    interrupted = threading.Event()

    def slow(*arguments: Any, **options: Any) -> tuple[str, ...]:
        assert interrupted.wait(30)
        return write(*arguments, **options)

    def work(job: Job, picture: Picture, progress: Progress) -> Iterator[Product | Result]:
        while job.source.stem != "0":
            if job.source.stem == "1":
                interrupted.set()
            progress(0.5)
            time.sleep(0.01)
        yield Product(job.targets[0], picture)

    monkeypatch.setattr("irn_cli.batch.storage.write", slow)
    plan = jobs(tmp_path, 9, pixels)
    events, seen = run(plan, work, STORAGE, at_once=2), []
    with pytest.raises(KeyboardInterrupt):
        for event in events:
            if isinstance(event, Progressed) and event.source == plan[1].source:
                seen.append(events.throw(KeyboardInterrupt))
            elif isinstance(event, Outcome):
                seen.append(event)
    assert [(outcome.source, outcome.status) for outcome in seen] == [(plan[0].source, "done")]
    assert list(tmp_path.glob("*_out.png")) == [plan[0].targets[0]]


def test_what_waits_to_be_written_when_a_batch_ends_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, interrupted = threading.Semaphore(0), threading.Event()

    def one_writer(threads: int, name: str, *arguments: Any) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1 if name == "irn-write" else threads, name, *arguments)

    def slow(*arguments: Any, **options: Any) -> tuple[str, ...]:
        assert interrupted.wait(30)
        return write(*arguments, **options)

    def work(job: Job, picture: Picture, progress: Progress) -> Iterator[Product | Result]:
        yield Product(job.targets[0], picture)
        made.release()

    monkeypatch.setattr("irn_cli.batch.line.ThreadPoolExecutor", one_writer)
    monkeypatch.setattr("irn_cli.batch.storage.write", slow)
    plan = jobs(tmp_path, 3, 12 * 16)
    events = run(plan, work, STORAGE, at_once=3)
    next(events)
    for _ in plan:
        assert made.acquire(timeout=30)
    threading.Timer(0.3, interrupted.set).start()
    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen.append(events.throw(KeyboardInterrupt))
        seen.extend(events)
    assert [(outcome.source, outcome.status) for outcome in seen] == [(job.source, "done") for job in plan]
    assert all(job.targets[0].exists() for job in plan)


def test_large_pictures_tell_how_far_they_are(tmp_path: Path) -> None:
    def slow(job: Job, picture: Picture, progress: Progress) -> Iterator[Product | Result]:
        for tenth in range(1, 11):
            time.sleep(0.02)
            progress(tenth / 10)
        yield Result(output_size=(1, 2), warnings=("odd",))
        yield Product(job.targets[0], picture)

    first, second = jobs(tmp_path, 2, SMALL + 1)
    events = list(run([first, second], slow, STORAGE))
    shares = [event.share for event in events if isinstance(event, Progressed) and event.source == first.source]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert 2 <= len(shares) <= 8  # not each of them: a terminal is redrawn a few times a second
    outcomes = [event for event in events if isinstance(event, Outcome)]
    assert [outcome.source for outcome in outcomes] == [first.source, second.source]
    assert (outcomes[0].result.input_size, outcomes[0].result.output_size) == ((16, 12), (1, 2))
    assert outcomes[0].result.input_bytes == first.source.stat().st_size
    assert outcomes[0].result.output_bytes == first.targets[0].stat().st_size
    assert outcomes[0].result.warnings == ("odd",)


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
        outcomes_of(downs, Downscaler(scaler=load("")), at_once)
        ups = [Job(job.targets[0], (place / f"{job.source.stem}_up.png",), 192) for job in downs]
        outcomes = outcomes_of(ups, Upscaler(load=load), at_once)
        assert {(outcome.status, outcome.result.warnings) for outcome in outcomes} == {("done", ())}
    assert len(loaded) == 4  # one for each run, however many asked at once
    for number in range(6):
        for name in (f"{number}_out.png", f"{number}_up.png"):
            assert np.array_equal(read(tmp_path / "1" / name).pixels, read(tmp_path / "3" / name).pixels)
