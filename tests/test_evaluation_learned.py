"""Learned metrics against their definitions, on networks of random features: no test downloads weights."""

import importlib
import sys
import urllib.error
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from irn_cli.errors import InputError, UsageError
from irn_cli.evaluation.learned import load_metric
from tests.helpers import need_torchvision, photo_like

A, B = photo_like(70, 60, 1), photo_like(70, 60, 2)


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    need_torchvision()
    pytest.importorskip("torchmetrics")


def seeded(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        fan = parameter[0].numel() if parameter.dim() > 1 else 100
        parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan) ** 0.5
    return network


def alexnet() -> nn.Sequential:
    """The features of torchvision's AlexNet."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride, pooled in (
        (3, 64, 11, 4, True), (64, 192, 5, 1, True), (192, 384, 3, 1, False), (384, 256, 3, 1, False),
        (256, 256, 3, 1, True),
    ):  # fmt: skip
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, 2 if kernel > 3 else 1), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if pooled else []
    return nn.Sequential(*layers)


def vgg16() -> nn.Sequential:
    """The features of torchvision's VGG16."""
    layers: list[nn.Module] = []
    channels = 3
    for stage, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(stage):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def unit(pixels: np.ndarray) -> Tensor:
    """(1, 3, H, W), 0 to 1, float64."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() / 255


def test_lpips_is_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    features = seeded(alexnet())
    torchvision = importlib.import_module("torchvision")
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: SimpleNamespace(features=features))
    metric = load_metric("lpips")

    folder = Path(importlib.import_module("torchmetrics").__file__ or "").parent / "functional/image/lpips_models"
    linear = torch.load(folder / "alex.pth", "cpu", weights_only=True)
    shift, spread = (torch.tensor(v).view(3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    expected = 0.0
    x, y = ((2 * unit(pixels) - 1 - shift) / spread for pixels in (A, B))
    tap = 0
    for layer in [*features.double()][:12]:
        x, y = layer(x), layer(y)
        if isinstance(layer, nn.ReLU):
            p, q = (z / (z.square().sum(1, keepdim=True) + 1e-8).sqrt() for z in (x, y))
            expected += float(((p - q) ** 2 * linear[f"lin{tap}.model.1.weight"].double()).sum(1).mean())
            tap += 1
    features.float()
    assert metric.measure(A, B, False) == pytest.approx(expected, abs=1e-6)
    assert expected > 0.001
    assert metric.measure(A, A, False) == 0
    assert (metric.key, metric.higher_is_better) == ("lpips", False)


def test_dists_is_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    features = seeded(vgg16())
    dists = importlib.import_module("torchmetrics.functional.image.dists")
    monkeypatch.setattr(dists, "vgg16", lambda weights: SimpleNamespace(features=features))
    metric = load_metric("dists")

    folder = Path(importlib.import_module("torchmetrics").__file__ or "").parent / "functional/image/dists_models"
    learned = torch.load(folder / "weights.pt", "cpu", weights_only=True)
    alpha, beta = (learned[name].double().flatten() for name in ("alpha", "beta"))
    total = alpha.sum() + beta.sum()
    hanning = torch.hann_window(5, periodic=False, dtype=torch.float64)[1:-1]
    window = torch.outer(hanning, hanning) / hanning.sum() ** 2
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def taps(pixels: np.ndarray) -> list[Tensor]:
        found = [unit(pixels)]
        z = (found[0] - mean) / deviation
        for layer in [*features.double()][:30]:
            if isinstance(layer, nn.MaxPool2d):
                found.append(z)
                channels = z.shape[1]
                z = functional.conv2d(z**2, window.expand(channels, 1, 3, 3), stride=2, padding=1, groups=channels)
                z = (z + 1e-12).sqrt()
            else:
                z = layer(z)
        return [*found, z]

    similarity, start = 0.0, 0
    for p, q in zip(taps(A), taps(B), strict=True):
        channels = slice(start, start := start + p.shape[1])
        mp, mq = p.mean((2, 3))[0], q.mean((2, 3))[0]
        vp, vq = p.var((2, 3), correction=0)[0], q.var((2, 3), correction=0)[0]
        cov = (p * q).mean((2, 3))[0] - mp * mq
        structure = (2 * mp * mq + 1e-6) / (mp**2 + mq**2 + 1e-6)
        texture = (2 * cov + 1e-6) / (vp + vq + 1e-6)
        similarity += float((alpha[channels] * structure + beta[channels] * texture).sum() / total)
    features.float()
    assert metric.measure(A, B, False) == pytest.approx(1 - similarity, abs=1e-5)
    assert metric.measure(A, A, False) == pytest.approx(0, abs=1e-5)
    assert (metric.key, metric.higher_is_better) == ("dists", False)


def test_arniqa_judges_the_restored_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Regressor(nn.Module):
        def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]
            return {"weights": torch.ones(1, 4096) / 10, "biases": torch.tensor(40.0)}

    torchvision = importlib.import_module("torchvision")
    encoder = {f"model.{k}": v for k, v in nn.Sequential(*list(torchvision.models.resnet50().children())[:-1])
               .state_dict().items()}  # fmt: skip
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url",
                        lambda url, **_: encoder if url.endswith("ARNIQA.pth") else Regressor())  # fmt: skip
    metric = load_metric("arniqa")
    assert metric.higher_is_better
    assert metric.measure(A, B, False) == metric.measure(B, B, False) != metric.measure(A, A, False)


def test_small_pictures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features = seeded(alexnet())
    torchvision = importlib.import_module("torchvision")
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: SimpleNamespace(features=features))
    metric = load_metric("lpips")
    assert metric.measure(A[:32, :32], B[:32, :32], False) > 0
    with pytest.raises(InputError, match="too small for LPIPS: expected at least 32 pixels a side"):
        metric.measure(A[:31], B[:31], False)


def test_missing_weights_and_libraries_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    expected = f"no network): put alexnet-owt-7be5be79.pth into {tmp_path}/hub/checkpoints"
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        load_metric("lpips")
    assert str(caught.value).endswith(expected)
    monkeypatch.setitem(sys.modules, "torchmetrics.image", None)
    with pytest.raises(UsageError, match=r"--metric lpips needs torchmetrics and .* pip install 'irn-cli\[metrics\]'"):
        load_metric("lpips")


@pytest.mark.parametrize("content", [b"junk", "another network's"])
def test_damaged_weights_are_one_line(content: bytes | str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    file.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    with pytest.raises(
        InputError, match=r"--metric lpips: damaged weights \(.*\): put alexnet-owt-7be5be79.pth into "
    ) as caught:
        load_metric("lpips")
    assert "\n" not in str(caught.value)
