"""Adam: PyTorch's updates, and none where a step is bad."""

import pytest
import torch
from torch import nn

from irn_cli.train.adam import Adam


def weights() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in [(4, 3), (5,)]]


def set_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=random)


@pytest.mark.parametrize("weight_decay", [0, 1e-2])
def test_updates_are_those_of_pytorch(weight_decay: float) -> None:
    ours, theirs = weights(), weights()
    adam = Adam(ours, torch.tensor(1e-2), (0.9, 0.99), weight_decay)
    reference = torch.optim.Adam(theirs, 1e-2, (0.9, 0.99), weight_decay=weight_decay)
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        adam.update(torch.tensor(0.0))
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_bad_step_changes_neither_weights_nor_state() -> None:
    parameters = weights()
    adam = Adam(parameters, torch.tensor(1e-2), (0.9, 0.99))
    set_gradients(parameters, 0)
    adam.update(torch.tensor(0.0))

    def everything() -> list[torch.Tensor]:
        states = [adam.state[one][name] for one in parameters for name in ("step", "exp_avg", "exp_avg_sq")]
        return [tensor.detach().clone() for tensor in (*parameters, *states)]

    before = everything()
    parameters[0].grad = torch.full_like(parameters[0], torch.nan)
    adam.update(torch.tensor(1.0))
    assert all(map(torch.equal, before, everything()))
    set_gradients(parameters, 1)
    adam.update(torch.tensor(0.0))
    assert not any(map(torch.equal, before, everything()))


def test_the_rate_can_be_changed_between_updates() -> None:
    parameters, rate = weights(), torch.tensor(0.0)
    adam = Adam(parameters, rate, (0.9, 0.99))
    before = parameters[0].detach().clone()
    set_gradients(parameters, 0)
    adam.update(torch.tensor(0.0))
    assert torch.equal(parameters[0], before)
    rate.fill_(0.1)
    adam.update(torch.tensor(0.0))
    assert not torch.equal(parameters[0], before)
