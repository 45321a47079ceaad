"""Several processes together learn what one would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from irn_cli.errors import UsageError
from irn_cli.train.checkpoint import load_checkpoint
from irn_cli.train.step import Step
from tests.test_train_step import make_step

ROOT = Path(__file__).parents[1]
WORKER = """
import sys
from safetensors.torch import save_file
from irn_cli.train.job import processes
from tests.test_train_processes import two_steps
from tests.test_train_step import make_step

with processes("cpu"):
    step = make_step(sys.argv[1], grain=0.5, recompute=sys.argv[2] == "recompute")
    step._prepare(0)
    assert step.processes == 2 and len(step.batch()[0]) == 2
    save_file(two_steps(step), f"{sys.argv[3]}/{step.process}.safetensors")
"""


def two_steps(step: Step) -> dict[str, torch.Tensor]:
    """The gradient of the first step as it is before clipping, and the weights after the second."""
    step.run(0, 1e-3)
    shown = step.read()
    clipped = min(1.0, step.recipe.clip / shown["grad_norm"])
    gradient = torch.cat([weight.grad.flatten() for weight in step.weights if weight.grad is not None]) / clipped
    step.run(1, 1e-3)
    weights = torch.cat([weight.detach().flatten() for weight in step.weights])
    return {"gradient": gradient, "loss": torch.tensor(shown["loss"]), "weights": weights}


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("lean", ["keep", "recompute"])
def test_two_processes_gradient_is_that_of_one_on_the_joint_batch(tmp_path: Path, lean: str) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    done = torchrun("worker.py", "fp32", lean, str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = two_steps(make_step(grain=0.5))
    first, second = (load_file(tmp_path / f"{process}.safetensors") for process in (0, 1))
    assert torch.equal(first["weights"], second["weights"])
    error = (first["gradient"] - alone["gradient"]).norm() / alone["gradient"].norm()
    assert error < 1e-5
    assert first["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-6)


def test_irn_train_runs_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text("blocks = 1\ngrowth = 8\nlog_every = 1\nvalidate_every = 2\nsave_every = 2\n")
    photos = str(ROOT / "examples" / "photos")
    options = ["--data", photos, "--val", photos, "-s", "2", "--config", "tiny.toml", "--patch", "32", "--batch", "4"]
    options += ["--stop-after", "2", "--device", "cpu", "-o", "run"]
    done = torchrun(
        "-m", "irn_cli", "train", *options, "--stop-after", "2", "--device", "cpu", "-o", "run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ended at step 2") == 1
    assert load_checkpoint(tmp_path / "run").counters.step == 2
    assert (tmp_path / "run" / "preview.png").is_file()


def test_what_cannot_be_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    with pytest.raises(UsageError, match="a batch of 4 cannot be split evenly over 3 processes"):
        make_step()
    with pytest.raises(UsageError, match="stage irn-plus runs in one process"):
        make_step(batch=3, stage="irn-plus")
