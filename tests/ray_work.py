"""What workers on a cluster do in `test_ray.py` and `test_cluster.py`; a module of its own, for Ray's import it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from irn_cli.batch.jobs import Job, Result
from irn_cli.batch.work import Product, Work
from irn_cli.engine import Progress
from irn_cli.errors import IrnError
from irn_cli.picture import Picture


def double(job: int, stopped: Callable[[], bool]) -> int:
    """Twice the job; 0 and 1 need two workers at the same time, 7 kills its worker and 9 raises."""
    until = time.monotonic() + 120
    if job < 2:
        Path(f"begun{job}").touch()
        while not Path(f"begun{1 - job}").exists() and time.monotonic() < until:
            time.sleep(0.02)
    if job == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if job == 9:
        raise ValueError("nine")
    return 2 * job


def load_double() -> Callable[[int, Callable[[], bool]], int]:
    return double


def load_nothing() -> Callable[[int, Callable[[], bool]], int]:
    raise IrnError("no weights on this node")


def copy(job: Job, picture: Picture, progress: Progress) -> Iterator[Product | Result]:
    """Write the picture as it is; one named `killer` kills the worker, one named `slow...` takes ten minutes."""
    if job.source.stem == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.source.stem.startswith("slow"):
        Path("begun").touch()
        until = time.monotonic() + 600
        while time.monotonic() < until:
            time.sleep(0.02)
            progress(0.5)
    yield Result(output_size=picture.size[::-1])
    yield Product(job.targets[0], picture)


def load_copy() -> Work:
    return copy
