"""The network against the authors' (golden vectors), against itself (round trips) and against its definitions."""

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from irn_cli.config import IRNConfig
from irn_cli.model import IRN, DenseBlock, Haar, InvBlock, quantise
from irn_cli.weights import load_model
from tests.helpers import SHARED, needs_shared

Map = Callable[[Tensor], Tensor]


def assert_round_trip(downscale: Map, upscale: Map, x: Tensor, tolerance: float) -> None:
    """The one assertion for everything invertible: there and back again gives `x`, and `there` is not just `x`."""
    u = downscale(x)
    assert u.shape != x.shape or not torch.equal(u, x)
    assert_close(upscale(u), x, atol=tolerance, rtol=0)


def assert_near(name: str, found: Tensor, golden: Tensor) -> None:
    error = (found - golden).abs().flatten()
    quantiles = torch.quantile(error[:1_000_000], torch.tensor([0.5, 0.9, 0.99, 1.0]))
    assert error.max() <= 1e-5, f"{name}: error at 50, 90, 99, 100 %: {quantiles.tolist()}"


@needs_shared
@pytest.mark.parametrize("case", ["x2_two_blocks", "x4_two_plus_two", "x2_full"])
def test_network_gives_what_the_authors_network_gives(case: str) -> None:
    model = load_model(SHARED / "golden" / f"{case}_official.pth")
    golden = load_file(SHARED / "golden" / f"{case}.safetensors")
    quantised, sample = golden["lr_quantized"], golden["z_sample"]
    with torch.no_grad():
        y, z = model.downscale(golden["hr_uint8"].float() / 255)
        assert_near("y", y, golden["lr"])
        assert_near("z", z, golden["z"])
        assert_near("quantised", quantise(y), quantised)
        assert_near("exact inverse", model.upscale(golden["lr"], golden["z"]), golden["hr_from_lr_and_z"])
        assert_near("from a sample", model.upscale(quantised, sample), golden["hr_from_quantized_and_z_sample"])
        zero = torch.zeros_like(sample)
        assert_near("from zero", model.upscale(quantised, zero), golden["hr_from_quantized_and_zero"])


@pytest.mark.parametrize(("scale", "parameters"), [(2, 1_667_952), (4, 4_355_136)])
def test_parameters_at_the_papers_size(scale: int, parameters: int) -> None:
    model = IRN(IRNConfig(blocks=(8,) * (scale // 2)))
    assert model.config.scale == scale
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_whole_network_round_trip(scale: int, tiny_model: Callable[..., IRN], rng: torch.Generator) -> None:
    model = tiny_model(scale)
    x = torch.rand(2, 3, 5 * scale, 3 * scale, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        y, z = model.double().downscale(x)
        assert y.shape == (2, 3, 5, 3)
        assert z.shape == (2, model.config.latent_channels, 5, 3)
        assert_close(model.upscale(y, z), x, atol=1e-10, rtol=0)
        model, x = model.float(), x.float()
        assert_close(model.upscale(*model.downscale(x)), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_parts_round_trip(dtype: torch.dtype, tolerance: float, tiny_model: Callable[..., IRN]) -> None:
    x = torch.rand(2, 12, 6, 10, generator=torch.Generator().manual_seed(1), dtype=dtype)
    block = tiny_model(2).to(dtype).operations[1]
    assert isinstance(block, InvBlock)
    with torch.no_grad():
        assert_round_trip(Haar().downscale, Haar().upscale, x, tolerance)
        assert_round_trip(block.downscale, block.upscale, x, tolerance)


def test_haar_bands_come_in_the_papers_order() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).expand(1, 2, 2, 2) * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    ll, hl, lh, hh = 3.0, -1.0, -1.5, 0.5  # mean; left minus right; top minus bottom; along the diagonals
    assert Haar().downscale(x).flatten().tolist() == [ll, 10 * ll, hl, 10 * hl, lh, 10 * lh, hh, 10 * hh]


def test_coupling_follows_the_equations(tiny_model: Callable[..., IRN], rng: torch.Generator) -> None:
    block = tiny_model(2).double().operations[1]
    assert isinstance(block, InvBlock)
    u = torch.randn(1, 12, 4, 4, generator=rng, dtype=torch.float64)
    x1, x2 = u[:, :3], u[:, 3:]
    with torch.no_grad():
        y1 = x1 + block.F(x2)
        s = block.clamp * (2 * torch.sigmoid(block.H(y1)) - 1)
        y2 = x2 * torch.exp(s) + block.G(y1)
        assert_close(block.downscale(u), torch.cat([y1, y2], 1), atol=1e-12, rtol=0)
    assert s.abs().max() > 1e-3, "H does nothing here, so this would prove nothing"


def test_a_fresh_network_is_the_plain_haar_transform(rng: torch.Generator) -> None:
    x = torch.rand(1, 3, 8, 8, generator=rng)
    y, _ = IRN(IRNConfig(blocks=(1, 1))).downscale(x)
    assert_close(y, torch.nn.functional.avg_pool2d(x, 4))


def test_quantise_value_and_gradient() -> None:
    y = torch.tensor([-0.2, 0.0, 0.5, 0.501, 127.4 / 255, 127.6 / 255, 1.0, 1.3], requires_grad=True)
    quantised = quantise(y)
    assert (quantised * 255).tolist() == [0, 0, 128, 128, 127, 128, 255, 255]
    (quantised * torch.arange(8.0)).sum().backward()
    assert y.grad is not None
    assert y.grad.tolist() == list(range(8))


@pytest.mark.parametrize("shape", [(1, 3, 7, 8), (1, 3, 8, 6), (1, 1, 8, 8), (3, 8, 8)])
def test_downscale_refuses_what_it_cannot_halve(shape: tuple[int, ...], tiny_model: Callable[..., IRN]) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        tiny_model(4).downscale(torch.zeros(shape))


def test_without_a_latent_its_mean_is_taken_or_one_is_drawn(tiny_model: Callable[..., IRN]) -> None:
    model = tiny_model(2)
    y, z = model.downscale(torch.rand(2, 3, 8, 12))
    assert_close(model.upscale(y), model.upscale(y, torch.zeros_like(z)))
    drawn = torch.randn(z.shape, generator=torch.Generator().manual_seed(7))
    assert_close(model.upscale(y, generator=torch.Generator().manual_seed(7)), model.upscale(y, drawn))
    with pytest.raises(ValueError, match="not both"):
        model.upscale(y, z, generator=torch.Generator())


def test_upscale_refuses_a_latent_of_another_size(tiny_model: Callable[..., IRN]) -> None:
    with pytest.raises(ValueError, match="45"):
        tiny_model(4).upscale(torch.zeros(1, 3, 4, 4), torch.zeros(1, 9, 4, 4))


@pytest.mark.parametrize(
    "settings",
    [
        {"blocks": ()},
        {"blocks": (1, 0)},
        {"blocks": (1, 1.0)},
        {"blocks": (1,) * 4},
        {"growth": 0},
        {"growth": 8.5},
        {"growth": True},
        {"clamp": 0.0},
    ],
)
def test_configurations_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        IRNConfig(**settings)  # type: ignore[arg-type]


def test_dense_block_sees_all_that_came_before() -> None:
    assert [conv.in_channels for conv in DenseBlock(2, 3, 4).children()] == [2, 6, 10, 14, 18]  # type: ignore[misc]
