"""What several test modules build on: small networks, pictures, and material that the repository does not carry."""

import ctypes
import importlib
import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from irn_cli.config import IRNConfig
from irn_cli.model import IRN

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples" / "photos"

# Golden vectors and test sets.
SHARED = Path(os.environ.get("IRN_SHARED", Path(__file__).parents[2] / "shared"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared test material at {SHARED}")

WIDTHS = [64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512]
LAYERS = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]  # torchvision's numbers of the convolutions


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


def photo_like(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes with some grain."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (9 + 5 * c) + y / (13 - 2 * c) + c) for c in range(3)]
    return np.clip(np.stack(waves, 2) + generator.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def vgg_tensors() -> dict[str, torch.Tensor]:
    """VGG19's convolutions with random values, by torchvision's names."""
    random = torch.Generator().manual_seed(0)
    tensors, channels = {}, 3
    for layer, width in zip(LAYERS, WIDTHS, strict=True):
        deviation = math.sqrt(2 / (9 * channels))
        tensors[f"features.{layer}.weight"] = deviation * torch.randn(width, channels, 3, 3, generator=random)
        tensors[f"features.{layer}.bias"] = 0.1 * torch.randn(width, generator=random)
        channels = width
    return tensors


_declared: list[torch.library.Library] = []  # what a Library declares lasts as long as it does


def without_privileges() -> None:
    """In a child that is about to start: what root may do beyond its files' modes, it may no longer."""
    drop_capability, dac_override, dac_read_search = 24, 1, 2
    for capability in (dac_override, dac_read_search):
        ctypes.CDLL(None).prctl(drop_capability, capability, 0, 0, 0)


def need_torchvision() -> None:
    """Make sure that torchvision can be imported, or skip the test where it is not installed.

    PyPI's builds for Linux belong to torch with CUDA. Beside a CPU torch their compiled operators do not load, and the
    import fails at the first that is missing. No test uses one: declared, without a body, they are not missed.
    """
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        importlib.import_module("torchvision")
