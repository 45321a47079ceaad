"""`irn train` as a user meets it: what it leaves, what it refuses, and that killing it ruins nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from irn_cli.cli import irn
from irn_cli.errors import IrnError, UsageError
from irn_cli.image import write
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.train.checkpoint import load_checkpoint
from irn_cli.train.data import hold_out
from irn_cli.train.job import prepare
from irn_cli.train.request import Request
from irn_cli.weights import load_model, read_info, save_model
from tests.helpers import make_tiny_model, photo_like, vgg_tensors

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples" / "photos"
COUNT = sum(path.suffix in (".jpg", ".png") for path in PHOTOS.iterdir())
TINY = "blocks = 1\ngrowth = 8\nlog_every = 1\nsave_every = 2\nvalidate_every = 100\n"
COMMON = ["--data", str(PHOTOS), "-s", "2", "--config", "tiny.toml", "--patch", "32", "--batch", "2", "--device", "cpu"]

Train = Callable[..., Result]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """`train(*arguments)` runs `irn train` in a directory of its own; `status` of the result is its exit status."""
    monkeypatch.chdir(tmp_path)
    for name in ("tune_allocator", "tune_convolutions"):  # settings of a process, and this one has other tests to run
        monkeypatch.setattr(f"irn_cli.device.{name}", lambda *_: None)
    (tmp_path / "tiny.toml").write_text(TINY)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(irn, ["train", *arguments], standalone_mode=False)

    return run


def test_a_run_leaves_what_it_promises_and_resumes(train: Train, tmp_path: Path) -> None:
    result = train(*COMMON, "--val", str(PHOTOS), "-o", "run", "--stop-after", "3")
    assert result.exception is None, result.exception
    assert result.return_value == 0
    assert result.stdout == ""
    assert f"{COUNT} pictures to train on, {COUNT} to validate on" in result.stderr
    assert "irn: validation uses pictures that are trained on" in result.stderr
    assert "step 3 (" in result.stderr
    assert "restored" in result.stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoint.safetensors", "curve.svg", "log.jsonl", "preview.png", "recipe.toml",
                     "request.json", "validation.txt", "weights.safetensors"}  # fmt: skip
    notes = read_info(tmp_path / "run" / "weights.safetensors").notes
    assert notes["steps"] == "3"
    assert notes["data"] == f"{COUNT} pictures of photos"
    assert notes["recipe"].startswith("irn with scale = 2")
    assert load_model(tmp_path / "run" / "weights.safetensors").config.scale == 2

    resumed = train("--resume", "run", "--iterations", "5", "--device", "cpu", "--tensorboard")
    assert f"{COUNT} pictures to train on, {COUNT} to validate on" in resumed.stderr
    assert "bit for bit" not in resumed.stderr
    assert resumed.return_value == 0, resumed.exception
    assert load_checkpoint(tmp_path / "run").counters.step == 5
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5]
    assert {"step", "loss", "reconstruction", "guide", "distribution", "lr", "grad_norm", "ms_per_step"} <= set(rows[0])


def test_a_dry_run_writes_nothing(train: Train, tmp_path: Path) -> None:
    result = train(*COMMON, "-o", "run", "--dry-run", "--lr", "1e-3", "--vgg", "vgg.pth")
    assert result.return_value == 0
    assert (
        "none to validate on (with fewer than ten pictures none is held out; name a folder of others with --val)"
        in result.stderr
    )
    assert "--vgg is not used: stage irn compares no features" in result.stderr
    assert "lr = 0.001\n" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("more", "rank", "told"), [((), "0", 1), (("-q",), "0", 0), ((), "1", 0)])
def test_a_long_search_is_told_once(
    train: Train, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], rank: str, told: int
) -> None:
    def takes_long() -> int:
        time.sleep(0.2)
        return 0

    monkeypatch.setattr("irn_cli.commands.options._MOMENT", 0)
    monkeypatch.setattr("irn_cli.train.job.sweep_cache", takes_long)
    monkeypatch.setenv("RANK", rank)
    result = train(*COMMON, "--dry-run", *more)
    assert result.return_value == 0, result.exception
    assert result.stderr.count("irn: finding and reading pictures ...\n") == told


def test_the_scale_decides_what_differs_by_it(train: Train, tmp_path: Path) -> None:
    save_model(tmp_path / "x2.safetensors", make_tiny_model(2))
    shipped = ["--data", str(PHOTOS), "--recipe", "irn-shipped", "--dry-run"]
    for given, guide in ((["-s", "2"], 4.0), (["--init", "x2.safetensors"], 4.0), ([], 16.0)):
        assert f"guide = {guide}\n" in train(*shipped, *given).stdout, given
    (tmp_path / "mine.toml").write_text("guide = 5.0\n")
    assert "guide = 5.0\n" in train(*shipped, "-s", "2", "--config", "mine.toml").stdout


def test_what_is_validated_on_is_not_trained_on(train: Train, tmp_path: Path) -> None:
    for name in ("data/train/rocket.jpg", "data/valid/coffee.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes((PHOTOS / Path(name).name).read_bytes())
    result = train(*COMMON[2:], "--data", "data", "--val", "data/valid", "--dry-run", "--seed", str(10**30))
    assert result.exception is None, result.exception
    assert "1 pictures to train on, 1 to validate on" in result.stderr
    assert "validated on pictures" not in result.stderr


def test_a_picture_that_is_found_twice_is_one(train: Train, tmp_path: Path) -> None:
    """Else it could be held out under one name and trained on under the other."""
    (tmp_path / "data" / "more").mkdir(parents=True)
    for k in range(10):
        (tmp_path / "data" / "more" / f"{k}.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    result = train(*COMMON[2:], "--data", "data", "--data", str(tmp_path / "data" / "more"), "--dry-run")
    assert result.exception is None, result.exception
    assert "9 pictures to train on, 1 to validate on" in result.stderr


def test_the_notes_name_each_changed_value_once(train: Train, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text("lr = 1e-3\nblocks = 1\ngrowth = 8\n")
    assert train(*COMMON, "-o", "run", "--lr", "5e-4", "--stop-after", "1", "-q").return_value == 0
    notes = read_info(tmp_path / "run" / "weights.safetensors").notes
    assert notes["recipe"] == "irn with scale = 2, batch = 2, patch = 32, lr = 0.0005, blocks = 1, growth = 8"


def test_pictures_that_irn_made_are_no_originals(train: Train, tmp_path: Path) -> None:
    scaler = Rescaler(make_tiny_model(2), "cpu", "fp32")
    (tmp_path / "data").mkdir()
    small = scaler.downscale(Picture(photo_like(64, 80)))
    write(tmp_path / "data" / "a_down2.png", small)
    write(tmp_path / "data" / "a_up2.png", scaler.upscale(small))
    only = train(*COMMON[2:], "--data", "data", "--dry-run")
    assert "no pictures in data but those that irn made; include-own takes them" in str(only.exception)
    (tmp_path / "data" / "rocket.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    result = train(*COMMON[2:], "--data", "data", "--dry-run")
    assert "1 pictures to train on" in result.stderr
    assert "left out as made by irn: 2, the first is data/a_down2.png;" in result.stderr
    every = train(*COMMON[2:], "--data", "data", "--include-own", "--dry-run")
    assert "3 pictures to train on" in every.stderr


def test_names_that_are_no_utf8_are_trained_and_validated_on(train: Train, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for k in range(10):
        (tmp_path / "data" / f"{k}\udce9.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    result = train(*COMMON[2:], "--data", "data", "-o", "run", "--stop-after", "1")
    assert result.exception is None, result.exception
    assert (tmp_path / "run" / "validation.txt").read_bytes().endswith(b"\xe9.jpg\n")


def test_a_broken_picture_is_not_held_out(train: Train, tmp_path: Path) -> None:
    """Of these ten names the broken one's would be chosen."""
    (tmp_path / "data").mkdir()
    for k in range(10):
        (tmp_path / "data" / f"{k}.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    first = hold_out(sorted((tmp_path / "data").iterdir()), 1)[1][0]
    first.write_bytes(b"broken")
    result = train(*COMMON[2:], "--data", "data", "--dry-run")
    assert result.exception is None, result.exception
    assert "8 pictures to train on, 1 to validate on" in result.stderr
    assert f"left out: data/{first.name} is not a picture" in result.stderr


def test_starting_weights_bring_their_network(train: Train, tmp_path: Path) -> None:
    save_model(tmp_path / "mine.safetensors", make_tiny_model(2))
    result = train("--data", str(PHOTOS), "--init", "mine.safetensors", "--patch", "32", "--batch", "2", "-o", "run",
                   "--stop-after", "1", "--device", "cpu", "-q")  # fmt: skip
    assert result.return_value == 0, result.exception
    assert result.stderr == ""
    assert load_checkpoint(tmp_path / "run").config == make_tiny_model(2).config
    again = train("--data", str(PHOTOS), "--init", "mine.safetensors", "--patch", "32", "--dry-run", "--device", "cpu")
    assert "starting weights carry no optimiser state" in again.stderr
    assert read_info(tmp_path / "run" / "weights.safetensors").notes["init"].startswith("mine revision 1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "absent"], "no folder absent"),
        (["--data", "empty"], "no pictures in"),
        (["--data", str(PHOTOS), "--config", "absent.toml"], "cannot read absent.toml"),
        (["--data", str(PHOTOS), "--config", "typo.toml"], "did you mean 'guide'"),
        (["--data", str(PHOTOS), "--patch", "4000"], f"none of {COUNT} pictures can be used"),
        (["--data", str(PHOTOS), "--patch", "33"], "patch must be a multiple of the scale"),
        (["--data", str(PHOTOS), "--init", "x2.safetensors", "-s", "4"], "is for 2x, but the recipe is for 4x"),
        (["--data", str(PHOTOS), "--init", "nothing"], "no model named 'nothing'"),
        (["--data", str(PHOTOS), "--recipe", "irn-plus"], "continues IRN weights: name them with --init"),
        (["--data", str(PHOTOS), "--recipe", "irn-plus", "--init", "x2.safetensors"], "VGG19 features"),
        (["--resume"], "--resume needs a run: name its directory"),
        (["-s", "2"], "nothing to train on: name a folder"),
        (["--data", str(PHOTOS), "--anneal", "9m"], "--anneal takes the rate of a run to zero: name the run"),
        (["--resume", "run", "-o", "new", "--anneal", "9m", "--time-limit", "9m"], "leave out --time-limit"),
        (["--resume", "run", "-o", "new", "--anneal", "soon"], "'soon' is not a time limit"),
        (["--data", str(PHOTOS), "--resume", "-o", "nowhere"], "nothing to resume"),
        (["--data", str(PHOTOS), "--resume", "-o", "nowhere", "--init", "x"], "leave out --recipe and --init"),
        (["--data", str(PHOTOS), "--time-limit", "soon"], "'soon' is not a time limit"),
        (["--data", str(PHOTOS), "--device", "gpu"], "unknown device 'gpu'"),
        (["--data", str(PHOTOS), "-o", "typo.toml/run", "--dry-run"], "typo.toml is not a directory"),
        (["--data", str(PHOTOS), "--val", "bad"], "no validation picture can be measured; the first: cannot"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(train: Train, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "typo.toml").write_text("gide = 1\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "cut.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes()[:2000])
    save_model(tmp_path / "x2.safetensors", make_tiny_model(2))
    result = train(*arguments)
    assert isinstance(result.exception, IrnError), result.exception
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "runs").exists()


def test_a_second_stage_resumes_with_the_features_it_had(train: Train, tmp_path: Path) -> None:
    save_model(tmp_path / "x2.safetensors", make_tiny_model(2))
    save_file(vgg_tensors(), tmp_path / "vgg.safetensors")
    (tmp_path / "tiny.toml").write_text(
        "discriminator_alone = 1\niterations = 2\nlog_every = 1\nvalidate_every = 100\n"
    )
    common = [*COMMON, "-o", "run", "--vgg", "vgg.safetensors"]
    start = ["--recipe", "irn-plus", "--init", "x2.safetensors", "--vgg-input", "oxford", "--stop-after", "2"]
    result = train(*common, *start)
    assert result.exception is None, result.exception
    assert "discriminator" in result.stderr
    assert read_info(tmp_path / "run" / "weights.safetensors").notes["vgg_input"] == "oxford"
    wrong = train(*common, "--resume", "--vgg-input", "torchvision")
    assert "expect oxford input: leave out --vgg-input" in str(wrong.exception)
    result = train("--resume", "run", "--device", "cpu")
    assert result.exception is None, result.exception
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "grad_norm" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert ["perceptual" in row for row in rows] == ["loss" in row for row in rows] == [False, True, True]


CONSTANT = TINY + 'schedule = "trapezoid"\nanneal = 0.5\noptimiser = "muon"\niterations = 8\n'


def test_a_branch_takes_the_rate_to_zero_and_leaves_its_run_alone(train: Train, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(CONSTANT)
    assert train(*COMMON, "-o", "run", "--stop-after", "3", "-q").return_value == 0
    files = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}

    result = train("--resume", "run", "--anneal", "3s", "-o", "branch", "-q", "--device", "cpu")
    assert result.return_value == 0, result.exception
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    rows = [json.loads(line) for line in (tmp_path / "branch" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["ended"] == "time"
    rates = [row["lr"] for row in rows if "loss" in row]
    assert rates[:4] == [2e-4] * 4, "three steps of the run's, and the first of its own"
    assert sorted(rates[3:], reverse=True) == rates[3:]
    assert rates[-1] < 1e-4
    checkpoint = load_checkpoint(tmp_path / "branch")
    assert checkpoint.counters.progress == 1.0
    assert checkpoint.counters.step == len(rates) > 4
    assert checkpoint.notes["recipe"].endswith("; its rate taken to zero in 3 s")
    load_model(tmp_path / "branch" / "weights.safetensors")
    assert train("--resume", "run", "--device", "cpu", "-q").return_value == 0  # to its own end
    assert load_checkpoint(tmp_path / "run").counters.step == 8


def test_an_interrupted_branch_resumes_with_the_time_that_is_left(train: Train, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(CONSTANT)
    assert train(*COMMON, "-o", "run", "--stop-after", "1", "-q").return_value == 0
    begin = ["--resume", "run", "--anneal", "100h", "-o", "branch", "--stop-after", "2", "-q", "--device", "cpu"]
    assert train(*begin).return_value == 0
    left = 1 - load_checkpoint(tmp_path / "branch").counters.progress
    assert 0.99 < left < 1
    request = tmp_path / "branch" / "request.json"
    remembered = json.loads(request.read_text())
    assert remembered["time_limit"] == 360_000
    request.write_text(json.dumps({**remembered, "time_limit": 1.0}))  # a second in all, most of which is left
    assert train("--resume", "branch", "-q", "--device", "cpu").return_value == 0
    assert load_checkpoint(tmp_path / "branch").counters.progress == 1.0
    assert json.loads(request.read_text())["time_limit"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        ("iterations = 2\n", ["-o", "new"], 'run has no constant rate to come down from: its schedule is "steps"'),
        (CONSTANT.replace("= 8", "= 2"), ["-o", "new"], "run is past its constant stage, after 50% of its schedule"),
        (CONSTANT, [], "--anneal leaves the run as it is: name the directory of the new one with -o"),
        (CONSTANT, ["-o", "./run"], "--anneal leaves the run as it is: name the directory of the new one with -o"),
        (CONSTANT, ["-o", "other"], "other already holds a run"),
    ],
)
def test_runs_that_cannot_be_branched(
    train: Train, tmp_path: Path, recipe: str, arguments: list[str], message: str
) -> None:
    (tmp_path / "tiny.toml").write_text(recipe)
    assert train(*COMMON, "-o", "run", "--stop-after", "1", "-q").return_value == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoint.safetensors").write_bytes(b"of another run")
    result = train("--resume", "run", "--anneal", "9m", *arguments)
    assert isinstance(result.exception, UsageError), result.exception
    assert message in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_what_a_continued_run_does_otherwise_is_told(train: Train, tmp_path: Path) -> None:
    assert train(*COMMON, "-o", "run", "--stop-after", "1", "-q").return_value == 0
    smaller = train("--resume", "run", "--patch", "16", "--dry-run", "--device", "cpu")
    assert "crops of 16x16 where the run had 32x32" in smaller.stderr
    assert "not the pictures" not in smaller.stderr
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rocket.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    assert "not the pictures" in train("--resume", "run", "--data", "data", "--dry-run", "--device", "cpu").stderr
    (tmp_path / "run" / "request.json").write_text("{")
    assert "request.json is damaged" in str(train("--resume", "run").exception)
    (tmp_path / "run" / "request.json").unlink()  # as an earlier version left it
    assert "nothing to train on" in str(train("--resume", "run").exception)


def test_a_run_is_not_overwritten_by_mistake(train: Train, tmp_path: Path) -> None:
    assert train(*COMMON, "-o", "run", "--stop-after", "1", "-q").return_value == 0
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    result = train(*COMMON, "-o", "run", "--stop-after", "1")
    assert "run already holds a run: --resume continues it, --force starts over" in str(result.exception)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    assert train(*COMMON, "-o", "run", "--stop-after", "2", "--force", "-q").return_value == 0
    assert load_checkpoint(tmp_path / "run").counters.step == 2
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2]


def test_a_checkpoint_of_another_shape_is_refused(train: Train, tmp_path: Path) -> None:
    assert train(*COMMON, "-o", "run", "--stop-after", "1", "-q").return_value == 0
    result = train("--data", str(PHOTOS), "-o", "run", "--resume", "-s", "4", "--device", "cpu")
    assert isinstance(result.exception, UsageError)
    assert "run is for 2x, but the recipe is for 4x" in str(result.exception)


def test_an_unwritable_run_directory_is_told(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = train(*COMMON, "-o", "file/run", "--stop-after", "1")
    assert isinstance(result.exception, IrnError)
    assert "file/run" in str(result.exception)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*arguments)` runs `irn train` in a process that ends with the test."""
    (tmp_path / "tiny.toml").write_text(TINY.replace("save_every = 2", "save_every = 1"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running: list[subprocess.Popen[str]] = []

    def run(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "irn_cli", "train", *COMMON, "-o", "run", *more]
        running.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield run
    for process in running:
        with process:  # waits, and closes its pipe
            process.kill()


def wait_for_step(tmp_path: Path, step: int) -> None:
    log = tmp_path / "run" / "log.jsonl"
    until = time.monotonic() + 100
    while time.monotonic() < until:
        if log.is_file() and log.read_text().count("loss") >= step:
            return
        time.sleep(0.05)
    raise TimeoutError("the run does not start")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # SIGTERM: below
def test_a_signal_saves_and_leaves(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    process = start()
    wait_for_step(tmp_path, 3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; --resume continues" in errors
    assert "Traceback" not in errors
    done = load_checkpoint(tmp_path / "run").counters.step
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1] == {"step": done, "ended": "interrupted"}
    assert {"curve.svg", "preview.png"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_two_processes_never_write_into_one_run(train: Train, start: Start, tmp_path: Path) -> None:
    process = start()
    wait_for_step(tmp_path, 2)
    for second in (["--resume", "run", "--device", "cpu"], [*COMMON, "-o", "run", "--force"]):
        refused = train(*second)
        assert isinstance(refused.exception, UsageError), refused.exception
        assert str(refused.exception).startswith("another process trains in run: stop it, or name another directory")
    assert process.poll() is None
    process.kill()
    process.communicate()
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()[:-1]]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows
    resumed = train("--resume", "run", "--device", "cpu", "--stop-after", "1", "-q")  # the killed one's lock is gone
    assert resumed.return_value == 0, resumed.exception


def test_a_run_that_went_on_since_it_was_read_is_not_taken_back(train: Train, tmp_path: Path) -> None:
    assert train(*COMMON, "-o", "run", "--stop-after", "1", "-q").return_value == 0
    job = prepare(Request(resume=tmp_path / "run", device="cpu"))
    assert train("--resume", "run", "--device", "cpu", "--stop-after", "1", "-q").return_value == 0
    with pytest.raises(UsageError, match=r"another process has trained in .*run meanwhile: try again"):
        job.open()
    assert load_checkpoint(tmp_path / "run").counters.step == 2


def test_a_run_in_the_background_says_how_it_is_stopped(tmp_path: Path) -> None:
    """A shell without job control has what it starts with & ignore Ctrl-C."""
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-m", "irn_cli", "train", *COMMON, "-o", "run"]
    script = f"{shlex.join(command)} 2> errors & echo $!; wait $!; echo $?"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        number = int(shell.stdout.readline())
        try:
            wait_for_step(tmp_path, 2)
            os.kill(number, signal.SIGINT)  # nothing
            wait_for_step(tmp_path, 4)
            os.kill(number, signal.SIGTERM)
            assert shell.stdout.readline() == "130\n"
        finally:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    told = (tmp_path / "errors").read_text()
    assert f"irn: Ctrl-C does not reach a run in the background: kill {number} saves and ends it\n" in told
    assert "interrupted; --resume continues" in told


def test_a_run_that_is_killed_before_it_is_due_to_save_leaves_all_its_files(start: Start, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace("save_every = 2", "save_every = 1_000_000"))
    process = start()
    wait_for_step(tmp_path, 2)
    process.kill()
    process.communicate()
    assert load_checkpoint(tmp_path / "run").counters.step == 1
    load_model(tmp_path / "run" / "weights.safetensors")
    assert {"curve.svg", "preview.png"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_a_kill_at_any_moment_leaves_the_last_checkpoint_whole(start: Start, tmp_path: Path) -> None:
    for k in range(2):
        process = start(*(["--force"] if k else []))
        wait_for_step(tmp_path, 3 + k)
        process.kill()
        process.communicate()
        checkpoint = load_checkpoint(tmp_path / "run")
        assert checkpoint.counters.step >= 2 + k
        load_model(tmp_path / "run" / "weights.safetensors")


def test_more_crops_than_memory_holds_are_told_in_one_line(start: Start) -> None:
    process = start("--batch", str(10**11))
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "irn: not enough memory: " in errors
    assert "Traceback" not in errors


def test_a_disk_that_fills_up_ends_the_run_and_keeps_the_checkpoint(start: Start, tmp_path: Path) -> None:
    """A limit on file sizes stands in for the disk: the first run fits, the larger second one does not."""
    process = start("--stop-after", "2")
    process.communicate(timeout=100)
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    blocks = len(before) // 1024 // 2
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = (
        f"trap '' XFSZ; ulimit -f {blocks}; exec {sys.executable} -m irn_cli train --data {PHOTOS} -o run --resume"
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "cannot write run/checkpoint.safetensors: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
