"""Muon: PyTorch's for matrices, orthogonal updates, nothing spoilt by a bad step, and learning that it speeds up."""

import pytest
import torch
from torch import Tensor, nn

from irn_cli.train.muon import Muon, orthogonalise
from tests.test_train_step import copies, make_step

GOOD, BAD = torch.zeros(()), torch.ones(())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(*shapes: tuple[int, ...], rate: float = 0.1, decay: float = 0.0) -> tuple[list[nn.Parameter], Muon]:
    weights = [nn.Parameter(random(*shape, seed=k)) for k, shape in enumerate(shapes)]
    return weights, Muon(weights, torch.tensor(rate), momentum=0.95, betas=(0.9, 0.99), weight_decay=decay)


def iterated(matrix: Tensor) -> Tensor:
    """The iteration as it is written in its source: on the matrix itself."""
    x = matrix.double() / matrix.norm()
    for _ in range(5):
        product = x @ x.mT
        x = 3.4445 * x + (-4.7750 * product + 2.0315 * product @ product) @ x
    return x


@pytest.mark.parametrize("shape", [(32, 1233), (32, 27), (3, 1233), (45, 1449), (1, 9)])
def test_the_iteration_on_products_is_that_on_matrices(shape: tuple[int, int]) -> None:
    uneven = random(4, *shape) * torch.logspace(0, -4, shape[1])  # singular values over orders of magnitude
    found = orthogonalise(uneven)
    wide = shape[0] <= shape[1]
    for k in range(4):
        expected = iterated(uneven[k]) if wide else iterated(uneven[k].mT).mT
        torch.testing.assert_close(found[k].double(), expected, rtol=0, atol=1e-5)


def test_singular_values_come_near_1_and_zeros_stay() -> None:
    values = torch.linalg.svdvals(orthogonalise(random(3, 32, 288)))
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert torch.equal(orthogonalise(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_matrices_are_updated_as_pytorchs_muon_does(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.float)  # in which it iterates, to no more than two digits
    rate, shapes = 0.1, ((32, 288), (32, 288), (48, 27), (3, 40))
    weights, ours = make(*shapes, (7,), rate=rate, decay=decay)
    twins = [nn.Parameter(weight.detach().clone()) for weight in weights[:-1]]
    theirs = torch.optim.Muon(twins, lr=rate, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    weights[-1].grad = torch.ones(7)
    for number in range(3):
        for k, (weight, twin) in enumerate(zip(weights, twins, strict=False)):
            weight.grad = random(*weight.shape, seed=10 * number + k)
            twin.grad = weight.grad.clone()
        ours.update(GOOD)
        theirs.step()
        for weight, twin in zip(weights, twins, strict=False):
            torch.testing.assert_close(weight, twin, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(ours.state[weight]["momentum"], theirs.state[twin]["momentum_buffer"])


def test_a_convolution_is_a_matrix_of_its_outputs_and_biases_are_adams() -> None:
    weights, muon = make((8, 5, 3, 3), (8,))
    weights[0].data = weights[0].data.to(memory_format=torch.channels_last)  # as the network's lie in memory
    flat, muon_of_flat = make((8, 45), (8,))
    flat[0].data.copy_(weights[0].flatten(1))
    bias = nn.Parameter(weights[1].detach().clone())
    adam = torch.optim.Adam([bias], 0.1, (0.9, 0.99))
    for number in range(2):
        gradient = random(8, 5, 3, 3, seed=number)
        weights[0].grad = gradient.to(memory_format=torch.channels_last)
        flat[0].grad = gradient.flatten(1)
        weights[1].grad = bias.grad = flat[1].grad = random(8, seed=50 + number)
        muon.update(GOOD)
        muon_of_flat.update(GOOD)
        adam.step()
    torch.testing.assert_close(weights[0].flatten(1), flat[0])
    torch.testing.assert_close(weights[1], bias)


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf")])
def test_a_bad_update_changes_nothing(value: float) -> None:
    weights, muon = make((4, 3, 3, 3), (4, 3, 3, 3), (4,), decay=0.1)
    for weight in weights:
        weight.grad = random(*weight.shape, seed=3)
    muon.update(GOOD)
    tensors = [*weights, *(tensor for weight in weights for tensor in muon.state[weight].values())]
    before = [tensor.detach().clone() for tensor in tensors]
    for weight in weights:
        assert weight.grad is not None
        weight.grad.fill_(value)
    muon.update(BAD)
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))
    for weight in weights:
        assert weight.grad is not None
        weight.grad.fill_(1.0)
    muon.update(GOOD)
    assert not any(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


def test_its_state_is_in_the_steps_and_is_filled_in_place() -> None:
    """A captured graph, and what a checkpoint puts back, reach the momentum by its address alone."""
    step, other = make_step(optimiser="muon"), make_step(optimiser="muon", seed=9)
    for number in range(2):
        step.run(number, 1e-3)
    momenta = {name for name in step.state() if name.endswith("/momentum")}
    assert momenta == {f"weights/{name}/momentum" for name, w in step.master.named_parameters() if w.dim() > 1}
    other.restore(copies(step))
    addresses = [tensor.data_ptr() for tensor in step.state().values()]
    step.run(2, 1e-3)
    assert addresses == [tensor.data_ptr() for tensor in step.state().values()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_lower_the_loss(precision: str) -> None:
    step = make_step(precision, optimiser="muon")
    losses = []
    for number in range(30):
        step.run(number, 5e-3)
        losses.append(step.read()["loss"])
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
