"""The process that talks to Ray for `cluster.run_jobs`, and the workers that it starts: Ray Core actors.

Actors, not Ray Data, which tries a task whose worker died again for ever. Here nothing is tried again: a job whose
worker dies is lost, and reported as such; Ray starts the worker anew, and it takes the next job. Jobs and results pass
through as bytes, so that this process knows nothing of pictures. Only this module imports Ray.
"""

import logging
import math
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from importlib.metadata import version
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from irn_cli.cluster import Lost, Setup, WorkersChanged, kill_session
from irn_cli.errors import IrnError

_MOST_DEATHS = 5  # in a row of a worker that is loading, before it is given up
_PAUSE = 0.5  # seconds before a worker that is not up yet is asked again
_STOP = 1.5  # seconds that jobs have to end when the batch is stopped
_BEAT = 2.0  # seconds between two looks whether the head node answers
_MISSES = 5  # looks in a row without an answer after which it is lost
_STORE = 100_000_000  # bytes of shared memory, where we start Ray: only paths and outcomes travel


class Worker:
    """An actor: loads what jobs need, once, and does one job after another."""

    def __init__(self, setup: Setup, threads: int) -> None:
        """Do nothing yet: what can fail is left to `load`."""
        self._setup, self._threads = setup, threads
        self._stopped = threading.Event()

    def load(self) -> str:
        """Load what jobs need; returns the address of the node."""
        import ray

        node: str = ray.util.get_node_ip_address()
        if (here := version("irn-cli")) != self._setup.version:
            raise IrnError(f"node {node} has irn {here}, expected {self._setup.version}")
        with suppress(OSError):  # absolute paths mean the same wherever it works
            os.chdir(self._setup.directory)
        os.environ.update(self._setup.environment)
        os.environ["OMP_WAIT_POLICY"] = "passive"  # heeded where torch loads after this
        load = pickle.loads(self._setup.load)  # noqa: S301  # from the user's own process
        import torch

        torch.set_num_threads(self._threads)
        self._function = load()
        return node

    def work(self, job: bytes) -> bytes:
        """Do one job."""
        return pickle.dumps(self._function(pickle.loads(job), self._stopped.is_set))  # noqa: S301  # as above

    def stop(self) -> None:
        """Have the job at hand end early; called while `work` runs."""
        self._stopped.set()


class _Handle:
    """A worker as the driver sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.node = ""  # where it runs, once it is ready
        self.job: int | None = None  # the number of the one that it is doing
        self.deaths = 0  # in a row, while it was loading


class Dispatcher:
    """Feeds the workers one job at a time, and sends home what happens."""

    def __init__(self, connection: Connection, actors: list[Any]) -> None:
        """Take workers that have not been called yet."""
        self._workers = [_Handle(actor) for actor in actors]
        self._connection = connection
        self._idle: deque[_Handle] = deque()
        self._ended: SimpleQueue[tuple[_Handle, Future[Any]]] = SimpleQueue()  # calls
        self._live = 0
        self._given_up = ""  # why the last one was

    def run(self, jobs: Iterator[tuple[int, bytes]]) -> None:
        """Do all jobs.

        Raises:
            IrnError: no worker is left to do them.
        """
        for worker in self._workers:
            self._call(worker, "load")
        upcoming = next(jobs, None)
        while upcoming or self._busy:
            while upcoming and self._idle:
                worker = self._idle.popleft()
                worker.job, job = upcoming
                self._call(worker, "work", job)
                upcoming = next(jobs, None)
            if not self._workers:
                raise IrnError(f"no worker is left: {self._given_up}")
            worker, call = self._ended.get()
            if worker.job is None:
                self._loaded(worker, call)
            else:
                self._worked(worker, worker.job, call)

    @property
    def _busy(self) -> list[_Handle]:
        return [worker for worker in self._workers if worker.job is not None]

    def stop(self) -> None:
        """Have all jobs end early, and wait a moment for them to do so."""
        for worker in self._busy:
            worker.actor.stop.options(concurrency_group="control").remote()
        until = time.monotonic() + _STOP
        with suppress(Empty):
            while self._busy:
                worker, _ = self._ended.get(timeout=max(until - time.monotonic(), 0))
                worker.job = None

    def _call(self, worker: _Handle, method: str, *arguments: Any) -> None:
        call = getattr(worker.actor, method).remote(*arguments).future()
        call.add_done_callback(lambda call: self._ended.put((worker, call)))

    def _loaded(self, worker: _Handle, call: "Future[Any]") -> None:
        """A worker has loaded what jobs need, or not."""
        from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

        try:
            worker.node, worker.deaths = call.result(), 0
        except RayTaskError as error:
            self._give_up(worker, str(error.cause))
        except RayActorError as error:
            # Ray says this for as long as it has no room to start the worker anew; anything else is a death.
            waits = isinstance(error, ActorUnavailableError) and "restarting" in str(error)
            worker.deaths += not waits
            if worker.deaths >= _MOST_DEATHS:
                self._give_up(worker, f"it dies as it starts: {_last_line(error)}")
                return
            again = threading.Timer(_PAUSE, self._call, (worker, "load"))
            again.daemon = True
            again.start()
        else:
            self._idle.append(worker)
            self._change(1)

    def _worked(self, worker: _Handle, job: int, call: "Future[Any]") -> None:
        """A worker has done a job, or died of it."""
        from ray.exceptions import RayError, RayTaskError

        worker.job = None
        try:
            result: bytes | Lost = call.result()
        except RayTaskError as error:
            result = Lost(f"unexpected {type(error.cause).__name__} in a worker: {error.cause}")
        except RayError as error:
            self._change(-1)
            self._connection.send((job, Lost(f"the worker that had it, on node {worker.node}, died: {_death(error)}")))
            self._call(worker, "load")
            return
        self._connection.send((job, result))
        self._idle.append(worker)

    def _give_up(self, worker: _Handle, reason: str) -> None:
        self._workers.remove(worker)
        self._given_up = reason
        self._connection.send(WorkersChanged(self._live, reason))

    def _change(self, by: int) -> None:
        self._live += by
        self._connection.send(WorkersChanged(self._live))


def _death(error: Exception) -> str:
    """Why a worker died, as far as Ray can tell at once."""
    text = str(error)
    if "OUT_OF_MEMORY" in text or "low on memory" in text:
        return "the node had no memory left"
    if "node" in text.lower() and ("died" in text or "dead" in text.lower()) and "worker process has died" not in text:
        return "the node was lost"
    return "it crashed, was killed, or was out of memory"


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2].strip()


def _refusal(error: Exception) -> str:
    """Why Ray could not be reached or started; that a token is missing only the cause says."""
    if "InvalidAuthToken" in str(error.__cause__):
        return "it wants its token: RAY_AUTH_MODE=token uses ~/.ray/auth_token, which must be the head's"
    return _last_line(error)


def _start_workers(setup: Setup) -> list[Any]:
    """Connect to a cluster, or start one here, and start the workers.

    Raises:
        IrnError: no cluster answers, or it has no room for a single worker.
    """
    import ray

    cluster = setup.cluster
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpus = cluster.cpus_per_worker
    options: dict[str, Any] = {"address": cluster.address}
    if not cluster.address:
        cpus = cpus or max(1, here // cluster.workers if cluster.workers else min(here, 2))
        room = max(here, math.ceil((cluster.workers or 0) * cpus))  # for all workers asked for, whatever it takes
        options = {"address": "local", "num_cpus": room, "include_dashboard": False, "object_store_memory": _STORE}
    try:
        if cluster.address and "/" not in cluster.address and ":" in cluster.address:
            _reach(cluster.address)  # Ray would try for minutes
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of any kind, and a plain one where a slow machine is late
        where = f"at {cluster.address} cannot be reached" if cluster.address else "cannot be started here"
        raise IrnError(f"Ray {where}: {_refusal(error)}") from error
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = cpus or min(2, max(node.get("CPU", 0) for node in nodes))
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
    count = cluster.workers or sum(_fitting(node, cpus, gpus) for node in nodes)
    if not count:
        raise IrnError(f"no node of the Ray cluster has room for a worker of {cpus:g} CPUs and {gpus:g} GPUs")
    actor = ray.remote(
        num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=0,
        concurrency_groups={"control": 1}, scheduling_strategy="SPREAD",
    )(Worker)  # fmt: skip
    return [actor.remote(setup, max(1, int(cpus))) for _ in range(count)]


def _fitting(node: dict[str, float], cpus: float, gpus: float) -> int:
    """How many workers of a size a node has room for."""
    return int(min(node.get("CPU", 0) / cpus, node.get("GPU", 0) / gpus if gpus else math.inf))


def _reach(address: str) -> None:
    """Connect, and hang up; raises `OSError` where nobody answers."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), _BEAT).close()


def _watch_head(address: str) -> NoReturn:
    """End this process when the head node is lost; Ray takes a minute to notice, or does not."""
    misses = 0
    while misses < _MISSES:
        time.sleep(_BEAT)
        try:
            _reach(address)
            misses = 0
        except OSError:
            misses += 1
    print(f"its head node {address} no longer answers", file=sys.stderr, flush=True)
    os._exit(1)


def _watch_irn(connection: Connection) -> None:
    """Kill all that was started here, and this process, when irn is gone: one that is killed cannot see to it."""
    end = select.poll()
    end.register(connection, 0)  # nothing but that the other side is closed
    end.poll()
    kill_session(os.getpid())


def _leave(_number: int, _frame: object) -> NoReturn:
    sys.exit()


def main() -> None:
    """Serve the process that started this one, over the pipe whose descriptor is our argument."""
    import ray

    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_watch_irn, args=(connection,), daemon=True).start()
    setup: Setup = connection.recv()
    dispatcher = Dispatcher(connection, [])
    try:
        dispatcher = Dispatcher(connection, _start_workers(setup))
        signal.signal(signal.SIGTERM, _leave)  # not before: Ray has a handler of its own
        threading.Thread(target=_watch_head, args=(ray.get_runtime_context().gcs_address,), daemon=True).start()
        dispatcher.run(enumerate(iter(connection.recv_bytes, b"")))
    except IrnError as error:
        connection.send(error)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        dispatcher.stop()
        ray.shutdown()
