"""Training on several processes that are killed midway goes on, resumed, as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from irn_cli.train.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]
STEPS = 60
RECIPE = f"iterations = {STEPS}\nblocks = 1\ngrowth = 8\nlog_every = 1\nsave_every = 4\nvalidate_every = 1000\n"


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """Train with two processes under torchrun, as `examples/train-slurm.sh` does, but with gloo."""
    (directory / "tiny.toml").write_text(RECIPE + "validation = 0\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "irn_cli", "train", "--data", str(ROOT / "examples" / "photos"), "--device", "cpu", "-o", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *arguments], cwd=directory, env=environment, stderr=subprocess.PIPE, text=True, process_group=0
    )


FRESH = ("-s", "2", "--config", "tiny.toml", "--patch", "32", "--batch", "4")


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors


def rows(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_text().count('"loss"') if log.is_file() else 0


def ranks(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, in the order of their ranks."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow  # it starts torchrun three times
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the processes are found through /proc")
def test_two_processes_killed_midway_resume_to_the_same_weights(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    finish(start(whole, *FRESH))
    process = start(broken, *FRESH)
    until = time.monotonic() + 100
    while rows(broken / "run") < 10:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "the run does not start"
        time.sleep(0.005)
    for rank in ranks(process)[:2]:
        os.kill(rank, signal.SIGKILL)
    process.communicate(timeout=100)  # torchrun sees them gone, and ends
    assert process.returncode != 0
    saved = load_checkpoint(broken / "run").counters.step
    assert 8 <= saved < STEPS, "it was not killed midway"

    finish(start(broken, "--resume"))
    expected, resumed = load_checkpoint(whole / "run"), load_checkpoint(broken / "run")
    assert resumed.counters.step == expected.counters.step == STEPS
    assert resumed.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in expected.tensors.items())
