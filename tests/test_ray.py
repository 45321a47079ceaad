"""Batches on a real Ray cluster of two nodes: nothing is lost, nothing is done twice, whatever dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from irn_cli.batch.cluster import run_on_cluster
from irn_cli.batch.jobs import Job, Outcome
from irn_cli.batch.outputs import Outputs
from irn_cli.batch.storage import Storage
from irn_cli.cluster import Cluster, Lost, WorkersChanged, run_jobs
from irn_cli.errors import Code, IrnError
from irn_cli.weights import save_model
from tests.helpers import ROOT, make_tiny_model, photo_like
from tests.ray_work import load_copy, load_double, load_nothing

pytest.importorskip("ray", reason="Ray is not installed: pip install 'irn-cli[ray]'")

NODES = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(cluster.head_node if line == "head\\n" else second, allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""


@dataclass(frozen=True)
class Nodes:
    """A cluster of two nodes, of one CPU each."""

    address: str
    process: "subprocess.Popen[str]"

    @property
    def cluster(self) -> Cluster:
        return Cluster(address=self.address)

    def remove(self, which: str) -> None:
        """Kill the processes of the `head` or the `second` node."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{which}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()


@contextmanager
def running(**variables: str) -> Iterator[Nodes]:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), **variables}
    process = subprocess.Popen(
        [sys.executable, "-c", NODES],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    yield Nodes(process.stdout.readline().strip(), process)
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running() as nodes:
        yield nodes


def pictures(place: Path, count: int) -> list[Path]:
    place.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(photo_like(20 + number % 7, 24, number)).save(place / f"{number:02}.png")
    return sorted(place.iterdir())


def irn(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "irn_cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def parts(place: Path) -> list[Path]:
    return list(place.rglob(".irn-*"))


def test_a_ray_of_this_machine_loses_one_job_to_a_death() -> None:
    try:
        events = list(run_jobs(Cluster(workers=1, cpus_per_worker=1), load_double, [3, 7, 4]))
    except IrnError as error:
        if "timed out during startup" not in str(error):  # Ray gives itself 30 s
            raise
        pytest.skip("this machine is too busy for Ray to start")
    results = dict(event for event in events if not isinstance(event, WorkersChanged))
    assert (results[0], results[2]) == (6, 8)
    assert isinstance(results[1], Lost)
    assert [event for event in events if isinstance(event, WorkersChanged)] == [*map(WorkersChanged, [1, 0, 1])]


# The other tests are slow: each worker imports torch. Their order matters: two take the shared cluster apart.


@pytest.mark.slow
def test_a_death_costs_one_job(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = list(run_jobs(nodes.cluster, load_double, range(40)))
    results = dict(one for one in told if not isinstance(one, WorkersChanged))
    assert set(results) == set(range(40))
    for job, result in results.items():
        if job == 7:
            assert isinstance(result, Lost)
            assert "died: it crashed, was killed, or was out of memory" in result.reason
        elif job == 9:
            assert result == Lost("unexpected ValueError in a worker: nine")
        else:
            assert result == 2 * job
    live = [one.live for one in told if isinstance(one, WorkersChanged)]
    assert max(live) == 2
    assert live[live.index(2) + 1] == 1  # one died


@pytest.mark.slow
def test_workers_that_cannot_be_used_end_the_batch_in_one_line(nodes: Nodes) -> None:
    crews = []
    with pytest.raises(IrnError, match=r"^no worker is left: no weights on this node$"):
        crews.extend(run_jobs(nodes.cluster, load_nothing, range(4)))
    with pytest.raises(IrnError, match=r"^Ray at 127.0.0.1:9 cannot be reached: \S"):
        list(run_jobs(Cluster(address="127.0.0.1:9"), load_double, range(4)))
    with pytest.raises(IrnError, match=r"^no node of the Ray cluster has room for a worker of 64 CPUs and 0 GPUs$"):
        list(run_jobs(Cluster(address=nodes.address, cpus_per_worker=64), load_double, range(4)))


@pytest.mark.slow
def test_a_head_that_wants_a_token_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with running(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64) as nodes:
        assert nodes.address
        with pytest.raises(IrnError, match=r"cannot be reached: it wants its token: RAY_AUTH_MODE=token "):
            list(run_jobs(nodes.cluster, load_double, [3]))
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
        assert (0, 6) in list(run_jobs(nodes.cluster, load_double, [3]))


@pytest.mark.slow
@pytest.mark.timeout(900)  # six commands, each with two workers that import torch
def test_a_cluster_does_and_says_what_one_machine_does(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "weights" / "irn-x4.safetensors", make_tiny_model(4))
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path / "weights"))
    pictures(tmp_path / "photos" / "a b", 6)
    (tmp_path / "photos" / "a b" / "02.png").write_text("no picture")
    (tmp_path / "photos" / "raw.dng").write_text("raw")
    (tmp_path / "set").mkdir()
    for seed in range(2):
        Image.fromarray(photo_like(60, 80, seed)).save(tmp_path / "set" / f"{seed}.png")
    (tmp_path / "set" / "2.png").write_text("no picture")
    told = {}
    for name, runner in {"local": [], "ray": ["--runner", "ray", "--ray-address", nodes.address]}.items():
        done = irn("downscale", "photos", "-o", name, "--json", *runner, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        large = irn("upscale", name, "-o", f"{name}-large", "-q", *runner, cwd=tmp_path)
        assert (large.returncode, large.stderr) == (0, ""), large.stderr
        assert parts(tmp_path / name) == []
        rows = [{**json.loads(line), "seconds": 0} for line in done.stdout.splitlines()]
        text = json.dumps(rows) + done.stderr
        files = [path for place in (name, f"{name}-large") for path in sorted((tmp_path / place).rglob("*.png"))]
        told[name] = text.replace(f"{name}/", "out/"), [path.read_bytes() for path in files]
        measured = irn(
            "eval", "--data", "set", "-m", "irn-x4", "--baseline", "bicubic", "-q", "--json", "-", *runner, cwd=tmp_path
        )
        assert (measured.returncode, measured.stderr.count("\n")) == (1, 1), measured.stderr
        rows = [{**row, "seconds": 0} for row in json.loads(measured.stdout)["pictures"]]
        assert len(rows) == 4
        told[name] = *told[name], rows
    assert told["ray"] == told["local"]
    assert len(told["ray"][1]) == 10


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_done_twice_when_a_node_goes(nodes: Nodes, tmp_path: Path) -> None:
    sources = pictures(tmp_path / "photos", 60)
    for number in (3, 17, 18, 40, 59):
        sources[number].write_bytes(sources[number].read_bytes()[:99])
    killer = sources[25].rename(sources[25].with_name("killer.png"))
    sources[25] = killer
    out = tmp_path / "out"
    plan: list[Job | Outcome] = [Job(source, (out / source.name,)) for source in sources]
    gone = Job(tmp_path / "gone.png", (out / "gone.png",))
    outcomes, removed = [], False
    for event in run_on_cluster([*plan, gone], load_copy, Storage(Outputs(str(out))), nodes.cluster):
        if isinstance(event, Outcome):
            outcomes.append(event)
        if len(outcomes) == 30 and not removed:
            nodes.remove("second")
            removed = True
    assert removed
    assert [outcome.source for outcome in outcomes] == [*sources, gone.source]
    *outcomes, unseen = outcomes
    assert unseen.code == Code.MISSING
    assert "does not see" in unseen.reason
    assert "must lie where all nodes see them" in unseen.reason
    failed = {outcome.source.stem: outcome.code for outcome in outcomes if outcome.status == "failed"}
    died = [stem for stem, code in failed.items() if code == Code.WORKER]
    assert {stem for stem, code in failed.items() if code == Code.UNUSABLE} == {"03", "17", "18", "40", "59"}
    assert "killer" in died
    assert len(died) <= 2  # the removed node had one at hand, or none
    assert len(failed) == 5 + len(died)
    # What was in flight as its worker died may have been written just before.
    written = {path.stem for path in out.iterdir() if not path.name.startswith(".")}
    assert {outcome.source.stem for outcome in outcomes if outcome.status == "done"} <= written
    assert written <= {source.stem for source in sources} - set(failed) | set(died)

    again = list(run_on_cluster(plan, load_copy, Storage(Outputs(str(out), "skip")), nodes.cluster))
    counts = [event.status for event in again if isinstance(event, Outcome)]
    assert counts.count("skipped") == len(written)
    assert counts.count("failed") == 6  # five that are broken, and the one that kills its worker again


@pytest.mark.slow
def test_a_lost_head_node_ends_the_batch_in_one_line(nodes: Nodes) -> None:
    told = run_jobs(nodes.cluster, load_double, [3] * 100_000)
    for _ in range(5):
        next(told)
    nodes.remove("head")
    begin = time.monotonic()
    with pytest.raises(IrnError, match=r"^(the Ray cluster was lost: |no worker is left: )\S.*$"):
        list(told)
    assert time.monotonic() - begin < 60


COPY = """
import sys
from pathlib import Path
from irn_cli.batch.cluster import run_on_cluster
from irn_cli.batch.outputs import Outputs
from irn_cli.batch.jobs import Job
from irn_cli.cluster import Cluster
from irn_cli.cli import irn, main
from tests.ray_work import load_copy

def copy(plan, load_work, *arguments, **options):
    return run_on_cluster(plan, load_copy, *arguments, **options)

import irn_cli.batch.cluster
irn_cli.batch.cluster.run_on_cluster = copy
main()
"""


def started_by(process: "subprocess.Popen[str]") -> dict[int, str]:
    """The processes below one, however they are related to it."""
    parents = {}
    names = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it has ended meanwhile
    below = {process.pid}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: names[pid] for pid in below - {process.pid}}


def in_sessions_of(leaders: set[int]) -> dict[int, str]:
    """The processes whose session one of these leads, whoever their parents are by now."""
    names = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if os.getsid(int(path.name)) in leaders and (name := (path / "cmdline").read_text()):  # zombies have none
                names[int(path.name)] = name.replace("\0", " ")
    return names


def slow_batch(place: Path) -> "tuple[subprocess.Popen[str], dict[int, str]]":
    """A batch whose worker has begun with a picture that takes ten minutes, and the processes below it."""
    save_model(place / "weights" / "irn-x4.safetensors", make_tiny_model(4))
    for path in pictures(place / "photos", 3):
        path.rename(path.with_name(f"slow{path.name}"))
    process = subprocess.Popen(
        [sys.executable, "-c", COPY, "downscale", "photos", "-o", "small", "--runner", "ray", "--workers", "1"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "IRN_WEIGHTS": str(place / "weights"), "RAY_ADDRESS": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 200
    while not (place / "begun").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "the batch does not start"
        time.sleep(0.05)
    return process, started_by(process)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are found through /proc")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_workers_and_ray_and_leaves_no_half_file(times: int, tmp_path: Path) -> None:
    process, below = slow_batch(tmp_path)
    driver = next(pid for pid, name in below.items() if "irn_cli.ray_driver" in name)
    raylet = next(pid for pid, name in below.items() if "raylet/raylet" in name)
    assert "RAY_USAGE_STATS_ENABLED=0" in Path(f"/proc/{raylet}/environ").read_text().split("\0")
    begin = time.monotonic()
    for _ in range(times):  # the second while Ray ends
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begin < 5
    assert process.returncode == 130
    assert re.fullmatch(r"nothing done of 3 in [\d.]+ s\n+irn: interrupted\n", errors)
    assert list((tmp_path / "small").iterdir()) == []
    time.sleep(0.5)
    left = in_sessions_of({driver})
    assert not left, left


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are found through /proc")
def test_workers_and_ray_do_not_outlive_a_killed_irn(tmp_path: Path) -> None:
    process, below = slow_batch(tmp_path)
    leaders = {process.pid, *below}
    process.kill()
    process.communicate()
    until = time.monotonic() + 10
    while (left := in_sessions_of(leaders)) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, left


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are found through /proc")
@pytest.mark.parametrize(
    ("number", "begun"),
    [
        (signal.SIGINT, "gcs_server"),
        (signal.SIGINT, "ray::DashboardAgent"),
        (signal.SIGINT, "default_worker"),
        (signal.SIGKILL, "ray::DashboardAgent"),
    ],
)
def test_an_end_while_ray_starts_leaves_nothing(number: signal.Signals, begun: str, tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 3)
    process = subprocess.Popen(
        [sys.executable, "-m", "irn_cli", "downscale", "photos", "-o", "small", "--runner", "ray"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    leaders, until = {process.pid}, time.monotonic() + 100
    while not any(begun in name for name in in_sessions_of(leaders).values()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, f"{begun} does not start"
        leaders |= started_by(process).keys()
        time.sleep(0.01)
    at = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does with Ctrl-C
    _, errors = process.communicate(timeout=30)
    while (left := in_sessions_of(leaders)) and time.monotonic() - at < 5:
        time.sleep(0.05)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, left
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert re.fullmatch(r"nothing done of 3 in [\d.]+ s\n+irn: interrupted\n", errors)
        assert not list((tmp_path / "small").rglob("*"))
