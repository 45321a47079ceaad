"""The gradient walked down is autograd's of the plain network, whatever the size, the tiles and the threads."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from irn_cli import gradient
from irn_cli.engine import Convolution, Engine
from irn_cli.errors import DeviceError
from irn_cli.gradient import Gradient
from irn_cli.model import IRN
from irn_cli.weights import load_model
from tests.helpers import photo_like

CPU = torch.device("cpu")


def received(model: IRN, height: int, width: int, temperature: float) -> tuple[Tensor, Tensor]:
    """A small picture beside a latent, (h, w, 3 s^2), and what a loss might say of each pixel restored of it."""
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(height, width, 3 * model.config.scale**2, generator=generator) * temperature
    u[..., :3] = torch.rand(height, width, 3, generator=generator)
    weight = torch.randn(height * model.config.scale, width * model.config.scale, 3, generator=generator)
    return u, weight


def by_autograd(model: IRN, u: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The picture (H, W, 3) and the gradient of sum(weight * picture), in float64."""
    model = model.double()
    leaf = u.double().permute(2, 0, 1)[None].requires_grad_()
    x = model.upscale(leaf[:, :3], leaf[:, 3:])[0].permute(1, 2, 0)
    (found,) = torch.autograd.grad((weight.double() * x).sum(), leaf)
    model.float()
    return x.detach().float().contiguous(), found[0].permute(1, 2, 0).float()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize(("height", "width", "side"), [(1, 1, 128), (3, 20, 128), (25, 17, 128), (25, 17, 11)])
def test_equals_autograd_at_odd_sizes_with_and_without_tiles(
    tiny_model: Callable[..., IRN], scale: int, height: int, width: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient, "_SIDE", side)
    model = tiny_model(scale)
    u, weight = received(model, height, width, temperature=0.05)
    x, expected = by_autograd(model, u, weight)
    back, found = Gradient(model, CPU, "fp32").pull_back(x, weight)
    assert relative(back, u) < 1e-5
    assert relative(found, expected) < 1e-5


def cosine(found: Tensor, expected: Tensor) -> float:
    return float((found * expected).sum() / (found.norm() * expected.norm()))


def known(name: str, height: int, width: int) -> tuple[IRN, Tensor, Tensor]:
    """Shipped weights and, as in `received`, a small picture as they know it; off it, going back up loses digits."""
    model = load_model(name)
    u, weight = received(model, height, width, temperature=1)
    original = torch.from_numpy(photo_like(height * model.config.scale, width * model.config.scale)) / 255
    with torch.no_grad():
        y, _ = model.downscale(original.permute(2, 0, 1)[None])
    u[..., :3] = (y.clamp(0, 1) * 255).round()[0].permute(1, 2, 0) / 255
    return model, u, weight


def assert_gradients_agree(found: Tensor, expected: Tensor) -> None:
    """To three digits: of a latent that they pay no heed to, float32 brings two back from the picture.

    Where a leaky ReLU's argument is as good as zero, it may also take the other slope: so does autograd in it.
    """
    each = (found - expected).norm(dim=-1) / expected.norm(dim=-1).median()
    assert each.median() < 1e-3
    assert relative(found, expected) < 5e-3


@pytest.mark.parametrize(("name", "height", "width"), [("irn-x4", 9, 13), ("irn-x2", 17, 21)])
def test_equals_autograd_with_shipped_weights(name: str, height: int, width: int) -> None:
    model, u, weight = known(name, height, width)
    x, expected = by_autograd(model, u, weight)
    _, found = Gradient(model, CPU, "fp32").pull_back(x.clone(), weight.clone())
    assert_gradients_agree(found, expected)
    given = Engine(model, CPU, "bf16").upscale(u)
    _, rough = Gradient(model, CPU, "bf16").pull_back(given, weight)
    assert relative(rough, expected) > 1e-4
    assert cosine(rough, expected) > 0.99, "bfloat16 convolutions: rougher, and yet the same direction"


def test_threads_change_no_digit(tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "_SIDE", 16)
    model = tiny_model(4)
    u, weight = received(model, 40, 30, temperature=0.05)
    x, _ = by_autograd(model, u, weight)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(Gradient(model, CPU, "fp32").pull_back(x.clone(), weight.clone()))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_progress_rises_to_one(tiny_model: Callable[..., IRN]) -> None:
    shares: list[float] = []
    Gradient(tiny_model(4), CPU, "fp32").pull_back(torch.rand(64, 64, 3), torch.rand(64, 64, 3), shares.append)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == pytest.approx(1)


def test_memory_limit_makes_tiles_small_and_then_is_an_error(
    tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    model = tiny_model(2, growth=32)
    random = torch.Generator().manual_seed(1)  # a feature near zero may have either sign, by rounding: not these
    x, weight = (torch.rand(160, 120, 3, generator=random) for _ in range(2))
    expected = Gradient(model, CPU, "fp32").pull_back(x.clone(), weight.clone())[1]
    with pytest.raises(DeviceError, match=r"needs at least (\d+) MB, but only 1 MB are allowed") as caught:
        Gradient(model, CPU, "fp32", memory=10**6).pull_back(x.clone(), weight.clone())
    least = int(re.findall(r"at least (\d+)", str(caught.value))[0])
    tallest = 0
    convolve = Convolution.__call__

    def watched(self: Convolution, rows: Tensor, padding: int) -> Tensor:
        nonlocal tallest
        tallest = max(tallest, rows.shape[2])
        return convolve(self, rows, padding)

    monkeypatch.setattr(Convolution, "__call__", watched)
    found = Gradient(model, CPU, "fp32", memory=(least + 1) * 10**6).pull_back(x, weight)[1]
    assert tallest < 60
    assert relative(found, expected) < 1e-5


def test_out_of_memory_on_the_device_retries_with_less(
    tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is played by the CPU: its convolutions fail above a number of rows, from some number of calls on."""
    model = tiny_model(2)
    u, weight = received(model, 100, 30, temperature=0.05)
    x, expected = by_autograd(model, u, weight)
    convolve, left = Convolution.__call__, 0

    def meagre(self: Convolution, rows: Tensor, padding: int) -> Tensor:
        nonlocal left
        left -= 1
        if rows.shape[2] > most and left < 0:
            raise torch.OutOfMemoryError("played")
        return convolve(self, rows, padding)

    monkeypatch.setattr(Convolution, "__call__", meagre)
    most = 60
    for spared in range(15):  # of the first half's convolutions, then of its pull back, then of the second half's
        left = spared
        back, found = Gradient(model, CPU, "fp32").pull_back(x.clone(), weight.clone())
        assert relative(back, u) < 1e-5
        assert relative(found, expected) < 1e-5
    most, left = 20, 0
    with pytest.raises(DeviceError, match="not enough device memory even for the smallest tile"):
        Gradient(model, CPU, "fp32").pull_back(x, weight)
