"""The assembly line: a batch run by the threads of this process.

A runner takes a plan and the work on one picture, and yields what happens until each item of the plan has its outcome.
`run` is the one for a single machine; the one for many, `cluster.run_on_cluster`, has each worker call it.
"""

import itertools
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch

from irn_cli.batch.jobs import Job, Outcome, Result, failure
from irn_cli.batch.outputs import check_output
from irn_cli.batch.storage import Stamp, Storage, Written, size_of, stamp_of
from irn_cli.batch.work import Report, Work
from irn_cli.canvas import HUGE
from irn_cli.cluster import WorkersChanged
from irn_cli.errors import Code, InputError
from irn_cli.threads import TorchPool

if TYPE_CHECKING:
    from irn_cli.picture import Picture

SMALL = 1 << 19  # pixels up to which a picture is quicker done by one core than shared by several
_WRITERS = 4  # a GPU makes pictures faster than one core encodes them
_PAUSE = 0.05  # seconds between two reports of how far a picture is


@dataclass(frozen=True)
class Progressed:
    """How far the work on one picture is."""

    source: Path
    share: float  # 0 to 1; 0 is its begin, 1 its end but for what is still being written
    note: str = ""  # what else there is to say


Events = Generator[Progressed | WorkersChanged | Outcome, None, None]  # to be closed by whoever does not want them all


def run(
    plan: Sequence[Job | Outcome],
    work: Work,
    storage: Storage,
    *,
    at_once: int = 1,
) -> Events:
    """Work on one picture after another, or several small ones at once; none stops the others.

    Closing the generator ends the work under way; files that are being written are finished. A KeyboardInterrupt, also
    one thrown into it, does the same, and is raised again after the outcomes of what was finished.

    Args:
        plan: what is to be done, and outcomes that are clear already (`outputs.check_outputs`).
        work: what to do with each picture.
        storage: where pictures come from and results go.
        at_once: how many small pictures are worked on at the same time, in threads that share torch's.

    Yields:
        An outcome for each item of the plan, in its order; between them how far the pictures under way are.

    Raises:
        BrokenPipeError: standard output is a pipe that nobody reads any more.
    """
    jobs = sum(isinstance(item, Job) for item in plan)
    pipeline = _Pipeline(work, storage, max(min(at_once, jobs), 1))
    try:
        yield from pipeline.events(plan)
    except KeyboardInterrupt:
        pipeline.stop()
        yield from pipeline.finished()
        raise
    finally:
        pipeline.stop()


class _Stopped(Exception):  # noqa: N818  # no error: it ends the work that nobody waits for any more
    """Raised by a job's `report` when the batch ends before the job."""


class _Pipeline:
    """What runs at the same time::

    large pictures   read ahead (1 thread) -> network (1 thread, which has all of torch's) -> write (4 threads)
    small pictures   read and network (as many threads as are at once)                     -> write
    """

    def __init__(self, work: Work, storage: Storage, at_once: int) -> None:
        self._work, self._storage, self._at_once = work, storage, at_once
        threads = torch.get_num_threads()
        self._reader = ThreadPoolExecutor(1, "irn-read")
        self._network = TorchPool(1, "irn-network", threads)
        self._small = TorchPool(at_once, "irn-small", max(threads // at_once, 1))
        self._writers = ThreadPoolExecutor(_WRITERS, "irn-write")
        self._free = threading.Semaphore(_WRITERS)  # so that few pictures wait to be written
        self._ahead: Future[tuple[Picture, Stamp]] | None = None  # of the next large picture; for the network's thread
        self._waiting: deque[Outcome | _InFlight] = deque()  # in the plan's order
        self._stopped = threading.Event()
        self._news: SimpleQueue[Progressed | None] = SimpleQueue()  # None: a thread has finished something

    def events(self, items: Sequence[Job | Outcome]) -> Events:
        """Do all jobs, and report them."""
        jobs = [item for item in items if isinstance(item, Job)]
        following = dict(itertools.pairwise(jobs))
        for item in items:
            self._waiting.append(self._begin(item, following.get(item)) if isinstance(item, Job) else item)
            yield from self._ready(4 * self._at_once)
        yield from self._ready(0)

    def finished(self) -> Iterator[Outcome]:
        """Yield the outcomes of the jobs that were finished anyway, once the line is stopped."""
        for flight in self._waiting:
            if isinstance(flight, _InFlight) and not flight.unfinished:
                yield flight.outcome()

    def stop(self) -> None:
        """Begin nothing more, and end what is under way; what is being written, or is about to be, is finished."""
        self._stopped.set()
        for pool in (self._network, self._small, self._reader):  # each may hand on to the next
            pool.shutdown(cancel_futures=True)
        self._writers.shutdown()

    def _begin(self, job: Job, following: Job | None) -> "_InFlight":
        small = self._is_small(job)
        flight = _InFlight(job)
        flight.working = (self._small if small else self._network).submit(self._do, flight, small, following)
        flight.working.add_done_callback(self._tell)
        return flight

    def _ready(self, most: int) -> Events:
        """Yield the first outcomes: those that are known, then wait for more until `most` are left."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, Outcome) or first.settled:
                self._waiting.popleft()
                yield first if isinstance(first, Outcome) else first.outcome()
            elif len(self._waiting) > most:
                if news := self._news.get():
                    yield news
            else:
                return

    def _do(self, flight: "_InFlight", small: bool, following: Job | None) -> None:
        """Do all of a job, in this thread, but wait for its files to be written."""
        job, begin = flight.job, time.perf_counter()
        reading = None
        if not small:
            reading, self._ahead = self._ahead, None
        try:
            earlier = check_output(job, self._storage.outputs)
            if isinstance(earlier, Outcome):  # another run has done it since this one began
                flight.earlier = earlier
                return
            report = self._progress(job, silent=small)
            picture, stamp = reading.result() if reading else self._read(job)
            known: dict[str, Any] = {"input_size": picture.size[::-1], "input_bytes": size_of(job.source)}
            flight.result = Result(warnings=picture.warnings, **known)
            alone = max(picture.pixels.size // 3, following.pixels if following else 0) > HUGE
            if following and not small and not alone and not self._is_small(following):
                self._ahead = self._reader.submit(self._read, following)
            for item in self._work(job, picture, report):
                if isinstance(item, Result):
                    flight.result = replace(item, **known)
                    continue
                if (now := stamp_of(job.source)) and now != stamp:
                    raise InputError(f"{job.source} has changed since it was read: nothing is written; run irn again")
                self._free.acquire()
                writing = self._writers.submit(self._storage.store, item, job)
                writing.add_done_callback(lambda _: self._free.release())
                writing.add_done_callback(self._tell)
                flight.writes.append(writing)
                if alone:
                    wait([writing])
        except Exception as error:  # whatever it is, it is this picture's
            flight.error = error
        flight.seconds = time.perf_counter() - begin
        self._news.put(Progressed(job.source, 1.0))

    def _read(self, job: Job) -> "tuple[Picture, Stamp]":
        stamp = stamp_of(job.source)  # before it is read: a change in the middle of that is seen, too
        return self._storage.read(job), stamp

    def _is_small(self, job: Job) -> bool:
        return self._at_once > 1 and 0 < job.pixels <= SMALL

    def _progress(self, job: Job, *, silent: bool) -> Report:
        """Report that a job begins; the result reports how far it is, unless silent, and ends it with the batch."""
        self._news.put(Progressed(job.source, 0.0))
        reported = time.monotonic()

        def report(share: float, note: str = "") -> None:
            nonlocal reported
            if self._stopped.is_set():
                raise _Stopped
            if not silent and time.monotonic() - reported > _PAUSE:
                reported = time.monotonic()
                self._news.put(Progressed(job.source, share, note))

        return report

    def _tell(self, _: Future[Any]) -> None:
        self._news.put(None)


@dataclass
class _InFlight:
    """A job that may still be worked on, or whose files may still be being written."""

    job: Job
    working: Future[None] = field(init=False)
    writes: list[Future[Written]] = field(default_factory=list)
    earlier: Outcome | None = None  # where another run has done it
    result: Result = field(default_factory=Result)
    error: Exception | None = None
    seconds: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether nothing of it is still being worked on or written."""
        return self.working.done() and all(writing.done() for writing in self.writes)

    @property
    def unfinished(self) -> bool:
        """Whether, settled, it was ended or never begun."""
        return self.working.cancelled() or isinstance(self.error, (_Stopped, CancelledError))

    def outcome(self) -> Outcome:
        """What became of it, once it is settled."""
        if self.earlier:
            return self.earlier
        source = self.job.source
        written = [writing.result() for writing in self.writes if not writing.exception()]
        files = tuple(file for each in written for file in each.files)
        errors = [self.error, *(writing.exception() for writing in self.writes)]
        error = next((error for error in errors if isinstance(error, Exception)), None)
        if isinstance(error, BrokenPipeError):
            raise error
        if not (error or files):
            return Outcome(source, "skipped", Code.EXISTS, f"{self.job.targets[0]} exists already: another run made it")
        told = (line for each in written for line in each.told)
        warnings = dict.fromkeys((*self.job.warnings, *self.result.warnings, *filter(None, told)))
        size = sum(each.size for each in written)
        latent = next((each.latent for each in written if each.latent), None)
        result = replace(
            self.result,
            latent_bytes=latent,
            output_bytes=size or None,
            seconds=self.seconds,
            warnings=tuple(warnings),
        )
        if error is None:
            return Outcome(source, "done", Code.DONE, outputs=files, result=result)
        trace = "".join(traceback.format_exception(error))
        return replace(failure(source, error), outputs=files, result=result, traceback=trace)
