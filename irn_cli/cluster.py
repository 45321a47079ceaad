"""Jobs run by workers on a Ray cluster, one at a time by each; a worker that dies costs no more than its job.

Ray runs in a process of its own (`ray_driver`), which this one starts, feeds and ends: when the head node is lost Ray
ends the process that it is in, it writes to standard error as it likes, and it may take its time to leave::

    this process                    ray_driver                      any machine
    jobs -> run_jobs -> pipe ->     one job to each idle worker ->  worker: an actor that holds what jobs need
    results          <- pipe <-     results as they come        <-  result
"""

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import Pipe
from pathlib import Path
from socket import gethostname
from threading import Thread
from typing import IO, TYPE_CHECKING, TypeVar

from irn_cli.errors import IrnError, UsageError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
# Does one job in a worker. Its second argument says whether the batch has been stopped: it then returns soon, anything.
JobFunction = Callable[[JobT, Callable[[], bool]], ResultT]

_LEAVE = 3.0  # seconds that the driver has to end its workers and Ray before it is killed


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where workers run, how many, and what each has to itself."""

    address: str | None = None  # of a running cluster; None starts Ray on this machine
    workers: int | None = None  # None is as many as fit
    cpus_per_worker: float | None = None  # None is 2, or all of a machine with fewer
    gpus_per_worker: float | None = None  # None is 1 where the cluster has GPUs, else 0


@dataclass(frozen=True)
class WorkersChanged:
    """A worker has become ready, has died, or was given up."""

    live: int  # how many are ready now
    given_up: str = ""  # why one was given up for good


class Throughput:
    """What workers do in a second, for progress bars."""

    def __init__(self) -> None:
        """There is no cluster yet."""
        self._live: int | None = None
        self._begin = 0.0

    def update(self, changed: WorkersChanged) -> None:
        """Take note of how many workers are ready."""
        self._live, self._begin = changed.live, self._begin or time.monotonic()

    def describe(self, done: int) -> str:
        """As `2 workers, 3.1 files/s`, given the files done so far; empty without a cluster."""
        if self._live is None:
            return ""
        rate = done / max(time.monotonic() - self._begin, 1e-3)
        return f"{self._live} worker{'s' * (self._live != 1)}, {rate:.1f} files/s"


@dataclass(frozen=True)
class Lost:
    """What a job has instead of a result, above all because its worker died."""

    reason: str


@dataclass(frozen=True)
class Setup:
    """What the driver is sent first: all that it needs to start workers."""

    cluster: Cluster
    load: bytes  # pickled: what each worker calls once, for its `JobFunction`
    directory: str  # the caller's; a worker that can, works in it, so that relative paths mean the same
    environment: dict[str, str]  # what is set for irn here: where weights lie
    version: str  # of irn here


def run_jobs(
    cluster: Cluster, load: Callable[[], JobFunction[JobT, ResultT]], jobs: Sequence[JobT]
) -> Generator[WorkersChanged | tuple[int, ResultT | Lost], None, None]:
    """Run jobs on a cluster.

    Closing the generator ends the workers, and Ray where it was started here, within 5 seconds.

    Args:
        cluster: where.
        load: called once in each worker: loads what jobs need and returns what does one; picklable. An `IrnError` that
            it raises means that this worker cannot be used.
        jobs: picklable, as are their results.

    Yields:
        As they come: each job's number and its result, or why that was lost; and how many workers are ready.

    Raises:
        UsageError: Ray is not installed.
        IrnError: no cluster answers, it was lost, or none of its workers can be used.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--runner ray needs Ray: pip install 'irn-cli[ray]'")
    if not jobs:
        return
    with tempfile.TemporaryFile() as log:
        driver, connection = _start_driver(log)
        patience = 0.0  # until a worker is ready no job need be stopped, and Ray may take its time to start
        try:
            environment = {name: value for name, value in os.environ.items() if name.startswith("IRN_")}
            connection.send(Setup(cluster, pickle.dumps(load), str(Path.cwd()), environment, version("irn-cli")))
            Thread(target=_send, args=(connection, jobs), daemon=True).start()
            for event in _receive(connection, len(jobs)):
                patience = _LEAVE
                yield event
        except IrnError:
            patience = _LEAVE  # it ends by itself
            raise
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                driver.wait(_LEAVE)
            raise IrnError(f"the Ray cluster was lost: {_last_words(log)}") from error
        finally:
            _end(driver, patience)
            connection.close()


def unseen(path: Path) -> str:
    """Why a worker cannot do a job whose file it does not find."""
    return f"node {gethostname()} does not see {path}: inputs and outputs must lie where all nodes see them"


def _start_driver(log: IO[bytes]) -> "tuple[subprocess.Popen[bytes], Connection]":
    """Start the driver, in a session of its own: no Ctrl-C reaches it, and it is known what is left of it."""
    connection, theirs = Pipe()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RAY_USAGE_STATS_ENABLED": "0"}
    driver = subprocess.Popen(  # noqa: S603  # our own module
        [sys.executable, "-c", "from irn_cli.ray_driver import main; main()", str(theirs.fileno())],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()
    return driver, connection


def _send(connection: "Connection", jobs: Sequence[JobT]) -> None:
    """Feed the driver, which takes a job when a worker is idle; in a thread, since the pipe holds only so many."""
    with suppress(OSError):  # the driver is gone, or need not go on
        for job in jobs:
            connection.send_bytes(pickle.dumps(job))
        connection.send_bytes(b"")


def _receive(
    connection: "Connection", count: int
) -> Generator[WorkersChanged | tuple[int, ResultT | Lost], None, None]:
    while count:
        message = connection.recv()
        if isinstance(message, IrnError):
            raise message
        if isinstance(message, WorkersChanged):
            yield message
            continue
        number, result = message
        yield number, result if isinstance(result, Lost) else pickle.loads(result)  # noqa: S301  # from our workers
        count -= 1


def _last_words(log: IO[bytes]) -> str:
    """The last line that the driver wrote, which says why it ended."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "its driver was killed")


def _end(driver: "subprocess.Popen[bytes]", patience: float) -> None:
    """End the driver and what it has started: Ray, some of whose processes would stay for half a minute."""
    driver.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            driver.wait(patience)
    finally:  # at a second Ctrl-C, too
        kill_session(driver.pid)
        driver.wait()


def kill_session(leader: int) -> None:
    """Kill all processes of a session, the caller last; without `/proc` only its first group, which is Ray itself.

    Workers do not outlive Ray. A cluster that was there before the driver is in none of its sessions.
    """
    for _ in range(2):  # what one has started just before it was killed is found the second time
        for path in Path("/proc").glob("[0-9]*"):  # workers have groups of their own
            with suppress(OSError):  # it has ended meanwhile
                if path.name != str(os.getpid()) and os.getsid(int(path.name)) == leader:
                    os.kill(int(path.name), signal.SIGKILL)
    with suppress(OSError):  # nothing is left
        os.killpg(leader, signal.SIGKILL)
