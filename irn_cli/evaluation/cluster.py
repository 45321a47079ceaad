"""Measuring on the workers of a Ray cluster: a picture to each, with all methods; the figures do not depend on it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from irn_cli.cluster import Cluster, JobFunction, Lost, WorkersChanged, run_jobs, unseen
from irn_cli.device import tune_allocator
from irn_cli.evaluation.dataset import DataSet
from irn_cli.evaluation.evaluate import evaluate
from irn_cli.evaluation.learned import load_metric
from irn_cli.evaluation.methods import Method
from irn_cli.evaluation.scores import Failure, Score
from irn_cli.paths import below, is_remote

Rows = list[Score | Failure]


def evaluate_on_cluster(
    load_methods: Callable[[], Sequence[Method]],
    datasets: Sequence[DataSet],
    cluster: Cluster,
    *,
    metrics: Sequence[str] = (),
    **protocol: Any,
) -> Iterator[Score | Failure | WorkersChanged]:
    """Measure every method on every picture.

    Args:
        load_methods: called in each worker, for the methods; picklable.
        datasets: what to measure on. All nodes must see the pictures under the same names.
        cluster: where the workers run.
        metrics: names for `load_metric`: what to measure besides `METRICS`.
        protocol: crop, seed, temperature and samples, as those of `evaluate`.

    Yields:
        What `evaluate` yields, in its order; a `Failure` for a picture whose worker died; how many workers are ready.

    Raises:
        UsageError: Ray is not installed.
        IrnError: no cluster answers, it was lost, or none of its workers can be used.
    """
    jobs = [replace(dataset, pictures=(path,)) for dataset in datasets for path in dataset.pictures]
    known: dict[int, Rows] = {}
    position = 0  # of the next picture whose rows to yield
    with closing(run_jobs(cluster, partial(_load, load_methods, metrics, protocol), jobs)) as events:
        for event in events:
            if isinstance(event, WorkersChanged):
                yield event
                continue
            number, rows = event
            known[number] = [_failure(jobs[number], rows.reason)] if isinstance(rows, Lost) else rows
            while position in known:
                yield from known.pop(position)
                position += 1


def _load(
    load_methods: Callable[[], Sequence[Method]], metrics: Sequence[str], protocol: dict[str, Any]
) -> JobFunction[DataSet, Rows]:
    """Prepare a worker."""
    tune_allocator()
    return partial(_measure, load_methods(), {"metrics": [load_metric(name) for name in metrics], **protocol})


def _measure(methods: Sequence[Method], options: dict[str, Any], job: DataSet, stopped: Callable[[], bool]) -> Rows:
    """Measure one picture in a worker; where the batch is stopped it ends early."""
    path = job.pictures[0]
    if not is_remote(path) and not path.exists():
        return [_failure(job, unseen(path))]
    rows: Rows = []
    for row in evaluate(methods, [job], **options):
        rows.append(row)
        if stopped():
            break
    return rows


def _failure(job: DataSet, reason: str) -> Failure:
    return Failure(job.name, below(job.pictures[0], job.directory).as_posix(), None, reason)
