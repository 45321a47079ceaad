"""A batch on the workers of a Ray cluster: the other runner, whose workers use that of `line` for a picture each."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from irn_cli.batch.jobs import Job, Outcome
from irn_cli.batch.line import Events, run
from irn_cli.batch.outputs import Outputs
from irn_cli.batch.storage import Storage
from irn_cli.batch.work import Work
from irn_cli.cluster import Cluster, JobFunction, Lost, WorkersChanged, run_jobs, unseen
from irn_cli.device import tune_allocator
from irn_cli.errors import Code, InputError, OutputError, UsageError
from irn_cli.files import lock
from irn_cli.inputs import STREAM
from irn_cli.paths import exists, is_remote


def run_on_cluster(
    plan: Sequence[Job | Outcome],
    load_work: Callable[[], Work],
    storage: Storage,
    cluster: Cluster,
) -> Events:
    """Work on as many pictures at once as there are workers; none stops the others, and neither does a worker's death.

    Closing the generator ends the workers; files that are being written are finished. So does a KeyboardInterrupt, also
    one thrown into it, which is raised again after the outcomes that are known by then.

    Args:
        plan: what is to be done, and outcomes that are clear already (`outputs.check_outputs`).
        load_work: called in each worker, for what to do with each picture; picklable.
        storage: where pictures come from and results go: all nodes must see both under the same names.
        cluster: where the workers run.

    Yields:
        An outcome for each item of the plan, in its order; between them how many workers are ready.

    Raises:
        UsageError: the plan needs standard input or output, or Ray is not installed.
        OutputError: the output directory cannot be written.
        IrnError: no cluster answers, it was lost, or none of its workers can be used.
    """
    known = {place: item for place, item in enumerate(plan) if isinstance(item, Outcome)}
    jobs = {place: item for place, item in enumerate(plan) if isinstance(item, Job)}
    if any(STREAM in (job.source, *job.targets) for job in jobs.values()):
        raise UsageError("workers read and write files: standard input and output need --runner local")
    places, position = list(jobs), 0  # in the plan: of each job, and of the next outcome to yield
    with _mark(storage.outputs, list(jobs.values())) as mark:
        load = partial(_load, load_work, storage, mark)
        with closing(run_jobs(cluster, load, list(jobs.values()))) as events:
            try:
                for event in events:
                    if isinstance(event, WorkersChanged):
                        yield event
                    else:
                        place, outcome = places[event[0]], event[1]
                        known[place] = _lost(jobs[place], outcome) if isinstance(outcome, Lost) else outcome
                    while position in known:
                        yield known.pop(position)
                        position += 1
            except KeyboardInterrupt:
                yield from (known[place] for place in sorted(known) if place in jobs)
                raise
    yield from (known[place] for place in sorted(known))


@contextmanager
def _mark(outputs: Outputs, jobs: Sequence[Job]) -> Iterator[Path | None]:
    """Keep a file in the output directory for as long as the batch runs: a worker that sees it sees the same directory.

    Else one that has a directory of that name on its own disk would write results there, and call them done. The file
    is locked: one that nobody holds is swept after a day, as what a killed run left behind.
    """
    if outputs.output is None or not jobs or is_remote(jobs[0].targets[0]):
        yield None  # results go into a store, or beside the inputs, which a worker must see anyway
        return
    directory = jobs[0].targets[0].parent
    mark = directory / f".irn-{secrets.token_hex(8)}.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stream = mark.open("xb")
    except OSError as error:
        raise OutputError(f"cannot write to {directory}: {error.strerror or error}") from error
    try:
        with stream:
            lock(stream)
            yield mark
    finally:
        mark.unlink(missing_ok=True)


def _load(load_work: Callable[[], Work], storage: Storage, mark: Path | None) -> JobFunction[Job, Outcome]:
    """Prepare a worker."""
    if mark and not mark.exists():
        raise InputError(unseen(mark.parent))
    tune_allocator()
    return partial(_do, load_work(), storage)


def _do(work: Work, storage: Storage, job: Job, stopped: Callable[[], bool]) -> Outcome:
    """Do a job in a worker; where the batch is stopped it ends early."""
    if not is_remote(job.source) and not exists(job.source):
        return Outcome(job.source, "failed", Code.MISSING, unseen(job.source))
    with closing(run([job], work, storage)) as events:
        for event in events:
            if isinstance(event, Outcome):
                return event
            if stopped():
                break
    return Outcome(job.source, "failed", Code.WORKER, "the batch was stopped")


def _lost(job: Job, lost: Lost) -> Outcome:
    return Outcome(job.source, "failed", Code.WORKER, lost.reason)
