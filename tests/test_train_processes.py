"""Several processes together learn what one would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from irn_cli.errors import UsageError
from irn_cli.train.checkpoint import load_checkpoint
from irn_cli.train.step import Step
from tests.test_train_step import make_second_stage, make_step

ROOT = Path(__file__).parents[1]
KINDS: dict[str, dict[str, Any]] = {
    "keep": {},
    "recompute": {"recompute": True},
    "muon": {"optimiser": "muon", "temperature": (0.0, 1.0)},
}
WORKER = """
import sys
from datetime import timedelta
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from irn_cli.train.job import processes
from tests.test_train_processes import KINDS, discriminator_gradient, two_steps
from tests.test_train_step import make_second_stage, make_step

with processes("cpu"):
    waits = dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout
    assert waits > timedelta(hours=12), "validation on the first may take longer than torch waits by default"
    for kind, changes in KINDS.items():
        step = make_step(grain=0.5, **changes)
        step.batches.prepare(0)
        assert step.processes == 2 and len(step.batches.draw().x) == 2
        save_file(two_steps(step), f"{kind}{step.process}.safetensors")
    step = make_second_stage(discriminator_alone=1)
    step.run(0, 1e-3)
    gradient = discriminator_gradient(step)
    step.run(1, 1e-3)
    tensors = {name: value.contiguous() for name, value in step.state().items()}
    save_file({**tensors, "gradient": gradient}, f"plus{step.process}.safetensors")
"""

COMMAND = """
import sys
from pathlib import Path
from irn_cli import cli

try:
    cli.main()
finally:
    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], "left to Python's end, they may abort it"
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


def discriminator_gradient(step: Step) -> torch.Tensor:
    assert step.adversary is not None
    return torch.cat([weight.grad.flatten() for weight in step.adversary.weights if weight.grad is not None])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave of a few steps of either stage."""
    directory = tmp_path_factory.mktemp("processes")
    (directory / "worker.py").write_text(WORKER)
    done = torchrun("worker.py", cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_gradient_is_that_of_one_on_the_joint_batch(results: Path, kind: str) -> None:
    alone = two_steps(make_step(grain=0.5, **KINDS[kind]))
    first, second = (load_file(results / f"{kind}{process}.safetensors") for process in (0, 1))
    assert torch.equal(first["weights"], second["weights"])
    error = (first["gradient"] - alone["gradient"]).norm() / alone["gradient"].norm()
    assert error < 1e-5
    assert first["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-6)


def test_the_second_stages_discriminator_learns_from_both_shares(results: Path) -> None:
    first, second = (load_file(results / f"plus{process}.safetensors") for process in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    step = make_second_stage()
    step.batches.prepare(0)
    x, _, drawn = step.batches.draw()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each process has: normalised over two crops, the gradient amplifies rounding
    with torch.no_grad():
        _, _, restored = step.passes(x, drawn)
    halves = []
    for share in (slice(0, 2), slice(2, 4)):
        assert step.adversary is not None
        step.adversary.learn(x[share], restored[share], torch.ones(()))  # 1: nothing is learnt yet
        halves.append(discriminator_gradient(step))
    torch.set_num_threads(threads)
    torch.testing.assert_close(first["gradient"], sum(halves) / 2, rtol=1e-4, atol=1e-6)
    name = "weights/operations.1.F.conv1.weight"
    assert not torch.equal(first[name], step.state()[name])  # and then the generator learnt too


def test_irn_train_runs_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text("blocks = 1\ngrowth = 8\nlog_every = 1\nvalidate_every = 2\nsave_every = 2\n")
    photos = str(ROOT / "examples" / "photos")
    options = ["--data", photos, "--val", photos, "-s", "2", "--config", "tiny.toml", "--patch", "32", "--batch", "4"]
    options += ["--stop-after", "2", "--device", "cpu", "-o", "run"]
    (tmp_path / "command.py").write_text(COMMAND)
    done = torchrun("command.py", "train", *options, cwd=tmp_path)
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
