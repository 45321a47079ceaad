"""Fixtures that several test modules use."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from irn_cli.model import IRN, IRNConfig


def pytest_configure() -> None:
    """Heed Ctrl-C even where the tests run in the background: ignoring it would be inherited by what they interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the user's own weights, caches or settings, or another terminal than one of 100 columns."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith(("IRN_W", "SLURM_", "OMP_W"))]:
        monkeypatch.delenv(name)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home / name))
    monkeypatch.setenv("COLUMNS", "100")


def make_tiny_model(scale: int = 4, seed: int = 0, growth: int = 8) -> IRN:
    """A small network whose couplings do something: the last convolutions, zero by construction, get values."""
    blocks = {2: (2,), 4: (2, 1), 8: (1, 1, 1)}[scale]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = IRN(IRNConfig(blocks=blocks, growth=growth), name=f"tiny-x{scale}", revision="1")
        for name, parameter in model.named_parameters():
            if "conv5.weight" in name:
                torch.nn.init.normal_(parameter, std=0.05)
            elif "bias" in name:
                torch.nn.init.normal_(parameter, std=0.01)
    return model.eval()


@pytest.fixture
def tiny_model() -> Callable[..., IRN]:
    """`tiny_model(scale=4, seed=0)` makes a small seeded network."""
    return make_tiny_model


@pytest.fixture
def photos() -> Path:
    """The photos that the repository ships."""
    return Path(__file__).parents[1] / "examples" / "photos"


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded generator of the test's own."""
    return torch.Generator().manual_seed(1)
