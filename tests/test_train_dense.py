"""The dense block of training against the plain one: values, gradients, bfloat16."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from irn_cli.model import DenseBlock, InvBlock
from irn_cli.train.dense import LeanDenseBlock, LeanInvBlock, use_lean_blocks
from tests.helpers import make_tiny_model


def random_block(channels: int, out: int, growth: int = 8) -> DenseBlock:
    torch.manual_seed(3)
    block = DenseBlock(channels, out, growth)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.2)
    return block


def gradients(block: DenseBlock, x: Tensor, *, of_x: bool = True) -> list[Tensor]:
    """The result, and the gradients of all that it is made of."""
    x = x.clone().requires_grad_(of_x)
    result = block(x)
    weight = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)
    of = ([x] if of_x else []) + list(block.parameters())
    return [result, *torch.autograd.grad((weight * result).sum(), of)]


@pytest.mark.parametrize(("channels", "out"), [(3, 9), (9, 3), (45, 3), (8, 8)])
@pytest.mark.parametrize("of_x", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_it_is_the_plain_block(channels: int, out: int, of_x: bool, channels_last: bool) -> None:
    plain = random_block(channels, out).double()
    lean = LeanDenseBlock(deepcopy(plain), torch.float64)
    x = torch.rand(2, channels, 7, 5, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for mine, wanted in zip(gradients(lean, x, of_x=of_x), gradients(plain, x, of_x=of_x), strict=True):
        assert mine.dtype == torch.float64
        assert_close(mine, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("channels", "out"), [(3, 9), (9, 3)])
def test_in_bfloat16_it_is_no_farther_from_float32_than_the_plain_block_is(channels: int, out: int) -> None:
    plain = random_block(channels, out)
    x = torch.rand(2, channels, 32, 32)
    exact = gradients(plain, x)
    rounded = gradients(deepcopy(plain).bfloat16(), x.bfloat16())
    lean = gradients(LeanDenseBlock(deepcopy(plain), torch.bfloat16), x)

    def errors(found: list[Tensor]) -> Tensor:
        return torch.stack([(f.float() - e).norm() / e.norm() for f, e in zip(found, exact, strict=True)]).detach()

    assert errors(lean).max() < 0.06
    assert errors(lean).mean() < 1.1 * errors(rounded).mean(), (errors(lean), errors(rounded))


@pytest.mark.parametrize(("channels", "out"), [(3, 9), (9, 3)])
def test_bfloat16_is_as_exact_where_the_processor_has_no_products_of_it(
    channels: int, out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = random_block(channels, out)
    x = torch.rand(2, channels, 32, 32)
    exact = gradients(plain, x)
    error = {}
    for native in (True, False):
        monkeypatch.setattr("irn_cli.device.multiplies_bfloat16", lambda native=native: native)
        lean = LeanDenseBlock(deepcopy(plain), torch.bfloat16)
        assert lean.kind == (torch.bfloat16 if native else torch.float32)
        found = gradients(lean, x)
        assert [each.dtype for each in found] == 2 * [torch.float32] + 10 * [torch.bfloat16]
        error[native] = max(
            float((f - e).detach().norm() / e.detach().norm()) for f, e in zip(found, exact, strict=True)
        )
    assert 0.5 * error[True] < error[False] < 1.2 * error[True]


def test_in_bfloat16_a_picture_is_read_more_finely_than_bfloat16_is() -> None:
    """A block that gives 16 (x - 0.75), of a picture a fraction of bfloat16's step (1/256) above 0.75."""
    plain = DenseBlock(3, 1, 4)
    with torch.no_grad():
        plain.conv5.weight[0, 0, 1, 1] = 16  # type: ignore[index, union-attr]
        plain.conv5.bias[0] = -12  # type: ignore[index, operator]
    block = LeanDenseBlock(plain, torch.bfloat16)
    x = torch.full((1, 3, 4, 4), 0.75 + 1 / 800).requires_grad_(True)
    result = block(x)
    assert result.dtype == torch.float32
    assert_close(result, torch.full((1, 1, 4, 4), 16 / 800), rtol=0.01, atol=0)
    result.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[0, 0], torch.full((4, 4), 16.0))
    gradient = block.conv5.weight.grad[0, 0, 1, 1]  # type: ignore[index, union-attr]
    assert gradient.item() == pytest.approx(16 * (0.75 + 1 / 800), rel=0.004)


def test_a_network_keeps_its_parameters() -> None:
    network = make_tiny_model(4)
    before = list(network.named_parameters())
    use_lean_blocks(network, torch.float32)
    blocks = [module for module in network.modules() if isinstance(module, DenseBlock)]
    assert blocks
    assert all(isinstance(block, LeanDenseBlock) for block in blocks)
    couplings = [module for module in network.modules() if isinstance(module, InvBlock)]
    assert len(blocks) == 3 * len(couplings)
    assert all(isinstance(block, LeanInvBlock) for block in couplings)
    for (name, parameter), (known, same) in zip(network.named_parameters(), before, strict=True):
        assert name == known
        assert parameter is same
