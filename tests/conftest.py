"""Fixtures that several test modules use."""

import os

# Threads that wait in a loop for each other cost the suite three times its work; they are to sleep, before torch loads.
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # of onnxruntime, which test modules import

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from irn_cli.model import IRN
from tests.helpers import PHOTOS, make_tiny_model


def pytest_configure() -> None:
    """Heed signals even in the background or under nohup: ignoring them would be inherited by what tests interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the user's own weights, caches or settings, or another terminal than one of 100 columns."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith(("IRN_W", "SLURM_", "OMP_W"))]:
        monkeypatch.delenv(name)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home / name))
    monkeypatch.setenv("IRN_DEBUG", "0")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def tiny_model() -> Callable[..., IRN]:
    """`tiny_model(scale=4, seed=0)` makes a small seeded network."""
    return make_tiny_model


@pytest.fixture
def photos() -> Path:
    """The photos that the repository ships."""
    return PHOTOS


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded generator of the test's own."""
    return torch.Generator().manual_seed(1)
