"""What runs on a cluster, with workers that are threads here; `test_ray.py` has the same with a real Ray.

All of the driver is ours and real but for the actors: Ray's are replaced by ones that live, die and restart as told.
"""

import json
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from click.testing import CliRunner

from irn_cli import cluster as cluster_module
from irn_cli import ray_driver
from irn_cli.batch.cluster import _mark, run_on_cluster
from irn_cli.batch.jobs import Job, Outcome
from irn_cli.batch.outputs import Outputs
from irn_cli.batch.progress import follow
from irn_cli.batch.storage import Storage
from irn_cli.cli import irn
from irn_cli.cluster import Cluster, Lost, Setup, WorkersChanged, run_jobs
from irn_cli.errors import Code, IrnError, OutputError, UsageError
from irn_cli.files import atomic_write
from irn_cli.image import write
from irn_cli.picture import Picture
from irn_cli.ray_driver import Dispatcher, Worker
from irn_cli.weights import save_model
from tests.helpers import make_tiny_model, photo_like
from tests.ray_work import load_copy, load_double, load_nothing

exceptions = pytest.importorskip("ray.exceptions", reason="Ray is not installed: pip install 'irn-cli[ray]'")

start_driver = cluster_module._start_driver

KILLERS = (7, Job(Path("photos/killer.png"), (Path("out/killer.png"),)))  # jobs that kill their worker


class ThreadActor:
    """An actor as Ray has them: calls run one after another, `stop` beside them; one that dies starts anew."""

    def __init__(self, setup: Setup, deaths: list[Exception]) -> None:
        self._setup, self._deaths = setup, deaths  # what its first calls meet
        self._worker, self._calls = Worker(setup, 1), ThreadPoolExecutor(1)

    def __getattr__(self, name: str) -> "ThreadMethod":
        return ThreadMethod(self, name)

    def do(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if self._deaths:
            raise self._deaths.pop(0)
        if name == "work" and pickle.loads(arguments[0]) in KILLERS:
            self._worker = Worker(self._setup, 1)
            raise exceptions.ActorDiedError
        try:
            return getattr(self._worker, name)(*arguments)
        except Exception as error:
            raise exceptions.RayTaskError(name, "", error) from None

    def begin(self, name: str, arguments: tuple[Any, ...]) -> "Future[Any]":
        return self._calls.submit(self.do, name, arguments)


class ThreadMethod:
    def __init__(self, actor: ThreadActor, name: str) -> None:
        self._actor, self._name = actor, name

    def options(self, **_: object) -> "ThreadMethod":
        return self

    def remote(self, *arguments: Any) -> "ThreadMethod":
        if self._name == "stop":
            self._actor.do("stop", arguments)
        else:
            self._begun = self._actor.begin(self._name, arguments)
        return self

    def future(self) -> "Future[Any]":
        return self._begun


class ThreadDriver:
    """The driver's process, as a thread: `run_jobs` talks to it through the same pipe."""

    def __init__(self, connection: Connection, deaths: list[Exception]) -> None:
        self._connection, self._deaths = connection, deaths
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        setup: Setup = self._connection.recv()
        actors = [ThreadActor(setup, self._deaths) for _ in range(setup.cluster.workers or 2)]
        self._dispatcher = Dispatcher(self._connection, actors)
        try:
            self._dispatcher.run(enumerate(iter(self._connection.recv_bytes, b"")))
        except IrnError as error:
            self._connection.send(error)
        except OSError:
            pass  # the batch was stopped
        finally:
            self._connection.close()

    @property
    def pid(self) -> int:
        return self._thread.native_id or 0  # no session has it

    def terminate(self) -> None:
        self._dispatcher.stop()

    def wait(self, timeout: float | None = None) -> None:
        self._thread.join(0)


@pytest.fixture
def deaths() -> list[Exception]:
    """What the workers' next calls meet."""
    return []


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deaths: list[Exception]) -> Iterator[None]:
    def start(log: IO[bytes]) -> tuple[ThreadDriver, Connection]:
        ours, theirs = Pipe()
        return ThreadDriver(theirs, deaths), ours

    monkeypatch.setattr(cluster_module, "_start_driver", start)
    monkeypatch.setattr(ray_driver, "_PAUSE", 0.01)
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_death_costs_one_job() -> None:
    events = list(run_jobs(Cluster(), load_double, range(40)))
    results = dict(event for event in events if not isinstance(event, WorkersChanged))
    death, mistake = results.pop(7), results.pop(9)
    assert results == {job: 2 * job for job in range(40) if job not in (7, 9)}
    assert isinstance(death, Lost)
    assert "died: it crashed, was killed, or was out of memory" in death.reason
    assert mistake == Lost("unexpected ValueError in a worker: nine")
    live = [event.live for event in events if isinstance(event, WorkersChanged)]
    assert (live[:2], live[-1] in (1, 2)) == ([1, 2], True)
    assert 1 in live[2:]  # one died
    assert list(run_jobs(Cluster(), load_double, [])) == []


def test_a_worker_that_has_to_wait_for_room_is_asked_again(deaths: list[Exception]) -> None:
    waiting = exceptions.ActorUnavailableError("The actor is restarting.", None)
    deaths.extend([waiting] * 3 * ray_driver._MOST_DEATHS + [exceptions.ActorDiedError()] * 2)
    events = list(run_jobs(Cluster(workers=1), load_double, [3]))
    assert events == [WorkersChanged(1), (0, 6)]


def test_workers_that_cannot_be_used_end_the_batch(deaths: list[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    with pytest.raises(IrnError, match=r"^no worker is left: no weights on this node$"):
        events.extend(run_jobs(Cluster(), load_nothing, range(4)))
    assert events == [WorkersChanged(0, "no weights on this node")] * 2
    deaths.extend([exceptions.ActorDiedError()] * ray_driver._MOST_DEATHS)
    with pytest.raises(IrnError, match=r"^no worker is left: it dies as it starts: \S"):
        list(run_jobs(Cluster(workers=1), load_double, range(4)))
    monkeypatch.setattr(ray_driver, "version", lambda _: "0.0")
    with pytest.raises(IrnError, match=r"^no worker is left: node \S+ has irn 0.0, expected \d"):
        list(run_jobs(Cluster(), load_double, range(4)))


def test_a_driver_that_ends_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_start_driver", start_driver)
    broken = Cluster(workers="two")  # type: ignore[arg-type]
    with pytest.raises(IrnError, match=r"^the Ray cluster was lost: TypeError: \S"):
        list(run_jobs(broken, load_double, range(4)))


def pictures(place: Path, count: int) -> list[Path]:
    for number in range(count):
        write(place / f"{number:02}.png", Picture(photo_like(20 + number % 3, 24, number)))
    return sorted(place.iterdir())


def test_a_batch_loses_nothing_and_does_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = pictures(Path("photos"), 20)
    for number in (3, 17):
        sources[number].write_bytes(sources[number].read_bytes()[:99])
    sources[11] = sources[11].rename(sources[11].with_name("killer.png"))
    out = Path("out")
    plan: list[Job | Outcome] = [Job(source, (out / source.name,)) for source in sources]
    plan.insert(0, Outcome(Path("first"), "skipped", Code.OWN))
    plan += [Job(Path("gone.png"), (out / "gone.png",)), Outcome(Path("last"), "skipped", Code.OWN)]
    events = list(run_on_cluster(plan, load_copy, Storage(Outputs(str(out))), Cluster()))
    outcomes = [event for event in events if isinstance(event, Outcome)]
    assert [outcome.source for outcome in outcomes] == [item.source for item in plan]
    failed = {outcome.source.stem: outcome.code for outcome in outcomes if outcome.status == "failed"}
    assert failed == {"03": Code.UNUSABLE, "17": Code.UNUSABLE, "killer": Code.WORKER, "gone": Code.MISSING}
    assert "inputs and outputs must lie where all nodes see them" in outcomes[-2].reason
    assert {path.stem for path in out.iterdir()} == {source.stem for source in sources} - set(failed)

    again = run_on_cluster(plan, load_copy, Storage(Outputs(str(out), "skip")), Cluster())
    counts = [event.status for event in again if isinstance(event, Outcome)]
    assert (counts.count("skipped"), counts.count("failed")) == (19, 4)
    with pytest.raises(
        IrnError, match=r"does not see out: inputs and outputs must lie where all nodes see them$"
    ):  # a directory of that name on its own disk
        monkeypatch.setattr("irn_cli.batch.cluster.lock", lambda stream: Path(stream.name).unlink())
        list(run_on_cluster(plan, load_copy, Storage(Outputs(str(out), "replace")), Cluster()))


def test_ctrl_c_ends_the_jobs_and_reports_those_that_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    sources = pictures(Path("photos"), 4)
    sources[0] = sources[0].rename(sources[0].with_name("slow.png"))
    plan = [Job(source, (Path("out") / source.name,)) for source in sources]

    def interrupt(thread: int = threading.get_ident()) -> None:
        while len(list(Path("out").glob("0*"))) < 3:
            time.sleep(0.01)
        time.sleep(0.2)  # for their outcomes to arrive
        signal.pthread_kill(thread, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        follow(run_on_cluster(plan, load_copy, Storage(Outputs("out")), Cluster()), 4, as_json=True)
    done = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["source"]).stem for row in done] == ["01", "02", "03"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["01.png", "02.png", "03.png"]


def test_commands_do_and_say_what_one_machine_does(tmp_path: Path) -> None:
    save_model(tmp_path / "weights" / "irn-x4.safetensors", make_tiny_model(4))
    pictures(tmp_path / "photos" / "a b", 3)
    (tmp_path / "photos" / "a b" / "01.png").write_text("no picture")
    (tmp_path / "set").mkdir()
    for seed in range(2):
        write(tmp_path / "set" / f"{seed}.png", Picture(photo_like(60, 80, seed)))
    (tmp_path / "set" / "2.png").write_text("no picture")
    call = partial(CliRunner().invoke, irn, standalone_mode=False)
    told = {}
    for name, runner in {"local": [], "ray": ["--runner", "ray"]}.items():
        down = call(["downscale", "photos", "-o", name, "--json", *runner])
        assert down.return_value == 1, down.output
        up = call(["upscale", name, "-o", f"{name}-large", "-q", *runner])
        assert (up.return_value, up.output) == (0, ""), up.output
        measured = call(
            ["eval", "--data", "set", "-m", "irn-x4", "--baseline", "bicubic", "-q", "--json", "-", *runner]
        )
        assert measured.return_value == 1, measured.output
        files = [path for place in (name, f"{name}-large") for path in sorted((tmp_path / place).rglob("*.*"))]
        assert len(files) == 4
        text = down.stdout.replace(f"{name}/", "out/") + measured.stdout
        told[name] = (
            re.sub(r'"(seconds|seconds_per_picture|date)": [^,\n]+', "", text) + measured.stderr,
            [path.read_bytes() for path in files],
        )
    assert told["ray"] == told["local"]


def test_what_a_cluster_cannot_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [Job(Path("-"), (tmp_path / "a.png",))]
    with pytest.raises(UsageError, match="standard input and output need --runner local"):
        list(run_on_cluster(plan, load_copy, Storage(Outputs()), Cluster()))
    (tmp_path / "file").touch()
    job = Job(tmp_path / "b.png", (tmp_path / "file" / "b.png",))
    with pytest.raises(OutputError, match=r"^cannot write to \S+file: "):
        list(run_on_cluster([job], load_copy, Storage(Outputs(str(tmp_path / "file"))), Cluster()))
    for options, message in {
        "--runner ray --device cuda:1": "--device cuda:1 names one GPU",
        "--runner ray --threads 2": "--threads is for this machine",
        "--workers 2": "--workers needs --runner ray",
        "--gpus-per-worker 0.5": "--gpus-per-worker needs --runner ray",
    }.items():
        refused = CliRunner().invoke(irn, ["downscale", "a.png", *options.split()], standalone_mode=False)
        assert isinstance(refused.exception, UsageError)
        assert str(refused.exception).startswith(message)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs Ray: pip install 'irn-cli\[ray\]'"):
        list(run_jobs(Cluster(), load_double, [1]))


def test_the_file_by_which_workers_know_the_directory_outlasts_days(tmp_path: Path) -> None:
    with _mark(Outputs(str(tmp_path)), [Job(Path("a.png"), (tmp_path / "small.png",))]) as mark:
        assert mark
        os.utime(mark, (0, 0))
        with atomic_write(tmp_path / "small.png") as stream:  # sweeps what is left of killed runs
            stream.write(b"small")
        assert mark.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["small.png"]
