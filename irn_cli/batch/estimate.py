"""What a batch would do, and what it would take: `--dry-run`."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from irn_cli.batch.jobs import Job, Outcome, Result
from irn_cli.batch.line import Events, Progressed
from irn_cli.batch.shares import Shares
from irn_cli.console import show_bytes, show_time
from irn_cli.errors import Code
from irn_cli.inputs import STREAM
from irn_cli.paths import is_remote

_LEAST = 1.0  # seconds that are measured, after as many, or a picture, of warming up
_MOST = 10.0  # seconds after which one picture must do, or what is there of its results
_SAMPLE = 200  # pictures at most, more than a second's worth


@dataclass(frozen=True)
class Estimate:
    """What the jobs of a plan would take."""

    seconds: float
    output_bytes: int


@dataclass
class _Made:
    """What the network has had: of pictures that restore too poorly nothing may be written."""

    files: int = 0
    pixels: int = 0
    written: int = 0  # bytes

    def add(self, result: Result, pixels: int) -> None:
        if result.output_size:
            self.files += 1
            self.pixels += pixels
            self.written += result.output_bytes or 0


def estimate(jobs: Sequence[Job], run: Callable[[Sequence[Job]], Events]) -> Estimate | None:
    """Do some of the jobs for a second, or until two are done, into a directory that is then removed.

    Args:
        jobs: what is to be done.
        run: does jobs as the batch would; nothing may exist that they write.

    Returns:
        None where none could be done: all failed, or read standard input.
    """
    sample = _sample([job for job in jobs if job.source != STREAM])
    shares = Shares({job.source: job.pixels for job in sample})
    made = _Made()
    begin = warm = time.monotonic()
    before = 0.0  # what was done when it was warm
    with tempfile.TemporaryDirectory() as directory, closing(run(list(_moved(sample, Path(directory))))) as events:
        for event in events:
            if isinstance(event, Outcome):
                shares.end(event)
                made.add(event.result, shares.pixels[event.source])
            elif isinstance(event, Progressed):
                shares.progress(event.source, event.share)
            now = time.monotonic()
            if now - begin > _MOST and (made.files or (part := _bytes_in(Path(directory)))):
                if not made.files:  # of many restorations
                    made = _Made(1, round(shares.pixels_done), part)
                break
            if not before and (made.files or now - begin > _LEAST):
                warm, before = now, shares.done
            elif before and made.files > 1 and now - warm > _LEAST:
                break
        now = time.monotonic()
    if not made.files:
        return None
    if now - warm < _LEAST:  # there was not more to do
        warm, before = begin, 0.0
    whole = Shares({job.source: job.pixels for job in jobs})
    rate = (shares.done - before) / max(now - warm, 1e-3)
    return Estimate(whole.total / rate, round(made.written / max(made.pixels, 1) * sum(whole.pixels.values())))


def _sample(jobs: Sequence[Job]) -> list[Job]:
    """Some jobs: one of the smallest to warm up, then from the middle outwards."""
    sample = sorted(jobs[:: max(len(jobs) // _SAMPLE, 1)], key=lambda job: job.pixels)[:_SAMPLE]
    if len(sample) > 2:
        middle = len(sample) // 2
        sample = [sample[0], *sorted(sample[1:], key=lambda job: abs(job.pixels - sample[middle].pixels))]
    return sample


def _bytes_in(directory: Path) -> int:
    """Bytes of the finished files in a directory of results."""
    return sum(file.stat().st_size for file in directory.glob("*/[!.]*"))


def _moved(jobs: Sequence[Job], directory: Path) -> Iterator[Job]:
    """The jobs, each writing into a directory of its own."""
    for number, job in enumerate(jobs):
        names = ("out.png" if target == STREAM else target.name for target in job.targets)
        yield replace(job, targets=tuple(directory / str(number) / name for name in names))


def count(plan: Sequence[Job | Outcome], estimated: Estimate | None) -> dict[str, int | float | None]:
    """What a plan would do, in numbers: pictures to be worked on, their pixels at full size, existing results ..."""
    jobs = [item for item in plan if isinstance(item, Job)]
    there = (Code.EXISTS, Code.OUTDATED)
    existing = [item for item in plan if isinstance(item, Outcome) and item.code in there]
    others = [item.status for item in plan if isinstance(item, Outcome) and item.code not in there]
    return {
        "pictures": len(jobs),
        "pixels": sum(job.pixels for job in jobs),
        "existing": len(existing),
        "skipped": others.count("skipped"),
        "failed": others.count("failed"),
        "seconds": round(estimated.seconds, 3) if estimated else None,
        "output_bytes": estimated.output_bytes if estimated else None,
    }


def describe(plan: Sequence[Job | Outcome], estimated: Estimate | None) -> Iterator[str]:
    """Say the same in words, line by line."""
    counts = count(plan, estimated)
    pictures = "1 picture" if counts["pictures"] == 1 else f"{counts['pictures']:,} pictures"
    yield f"to do: {pictures}, {(counts['pixels'] or 0) / 1e6:,.1f} megapixels at full size"
    yield f"results exist already: {counts['existing']:,}; skipped for other reasons: {counts['skipped']:,}"
    if not estimated:
        return
    yield f"time: about {show_time(estimated.seconds)} on this machine"
    yield f"disk: about {show_bytes(estimated.output_bytes)}"
    target = next(target for job in plan if isinstance(job, Job) for target in job.targets)
    free = _free(target)
    if free is not None and free < estimated.output_bytes:
        yield f"warning: only {show_bytes(free)} are free where {target} would be"


def _free(target: Path) -> int | None:
    """Free bytes on the disk on which a file would be made, where that can be told."""
    if is_remote(target):
        return None
    try:
        there = next(parent for parent in target.absolute().parents if parent.exists())
        return shutil.disk_usage(there).free
    except (OSError, ValueError, StopIteration):
        return None
