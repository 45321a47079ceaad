"""What a plan would take: how it is measured, and what is said of it."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from irn_cli.batch.estimate import Estimate, count, describe, estimate
from irn_cli.batch.jobs import Job, Outcome, Result
from irn_cli.batch.line import Events, Progressed
from irn_cli.errors import Code

PIXELS = 1 << 20


def jobs(*pixels: int) -> list[Job]:
    return [Job(Path(f"{number}.png"), (Path(f"out/{number}.png"),), each) for number, each in enumerate(pixels)]


def taking(seconds: float, seen: list[Job]) -> Callable[[Sequence[Job]], Events]:
    """Does jobs in so many seconds each, and says that a result takes 1,000 bytes."""

    def run(them: Sequence[Job]) -> Events:
        for job in them:
            seen.append(job)
            yield Progressed(job.source, 0.0)
            time.sleep(seconds)
            yield Outcome(job.source, "done", Code.DONE, result=Result(output_size=(1, 1), output_bytes=1000))

    return run


def test_one_of_the_smallest_comes_first_then_those_of_the_middle() -> None:
    seen: list[Job] = []
    estimate(jobs(9, 1, 5, 7, 3), taking(0, seen))
    assert [job.pixels for job in seen] == [1, 5, 3, 7, 9]


def test_of_very_many_a_sample_is_taken() -> None:
    seen: list[Job] = []
    estimate(jobs(*range(1, 1001)), taking(0, seen))
    assert len(seen) == 200
    assert {job.pixels for job in seen} == set(range(1, 1001, 5))


def test_a_single_picture_is_measured_as_well_as_several() -> None:
    for many in (1, 3):
        begin = time.monotonic()
        found = estimate(jobs(*[PIXELS] * many), taking(0.1, []))
        assert found
        assert 0.1 * many <= found.seconds <= time.monotonic() - begin
        assert found.output_bytes == 1000 * many


def test_the_bytes_are_those_of_the_pixels() -> None:
    found = estimate(jobs(PIXELS, 3 * PIXELS), lambda them: taking(0, [])(them[:1]))
    assert found
    assert found.output_bytes == 4000


def test_nothing_is_foretold_where_nothing_can_be_done() -> None:
    def fail(them: Sequence[Job]) -> Events:
        yield from (Outcome(job.source, "failed", Code.UNUSABLE, "damaged") for job in them)

    assert estimate(jobs(1), fail) is None
    assert estimate([Job(Path("-"), (Path("-"),))], taking(0, [])) is None
    assert list(describe(jobs(10**6), None)) == [
        "to do: 1 picture, 1.0 megapixels at full size",
        "results exist already: 0; skipped for other reasons: 0",
    ]


@pytest.mark.parametrize(("free", "warned"), [(999_999, True), (1_000_000, False)])
def test_a_disk_that_is_too_small_is_told(monkeypatch: pytest.MonkeyPatch, free: int, warned: bool) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    lines = list(describe(jobs(1, 1), Estimate(90, 1_000_000)))
    assert lines[2:4] == ["time: about 90 s on this machine", "disk: about 1.0 MB"]
    assert lines[4:] == (["warning: only 1000 kB are free where out/0.png would be"] if warned else [])


def test_what_exists_is_counted_apart() -> None:
    there = [Outcome(Path("a"), "skipped", Code.EXISTS), Outcome(Path("b"), "failed", Code.EXISTS)]
    others = [Outcome(Path("c"), "skipped", Code.OWN), Outcome(Path("d"), "failed", Code.MISSING)]
    found = count([*jobs(5), *there, *others], Estimate(1.23456, 7))
    assert found == {
        "pictures": 1, "pixels": 5, "existing": 2, "skipped": 1, "failed": 1, "seconds": 1.235, "output_bytes": 7,
    }  # fmt: skip
