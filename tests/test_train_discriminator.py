"""The discriminator of the paper's appendix, and how it learns."""

from dataclasses import replace

import pytest
import torch

from irn_cli.train.discriminator import Adversary, Discriminator
from irn_cli.train.recipe import load_recipe


@pytest.mark.parametrize(("patch", "side"), [(144, 9), (96, 6), (32, 2), (40, 3)])
def test_its_shape_is_the_appendixs(patch: int, side: int) -> None:
    with torch.device("meta"):
        network = Discriminator(patch)
    assert [layer.out_channels for layer in network.convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [layer.stride[0] for layer in network.convolutions] == [1, 2] * 4
    assert network.hidden.weight.shape == (100, 512 * side * side)
    assert network(torch.empty(2, 3, patch, patch, device="meta")).shape == (2, 1)


def test_it_learns_to_tell_and_a_bad_step_leaves_it_alone() -> None:
    recipe = replace(load_recipe("irn-plus"), patch=16, discriminator_lr=1e-3)
    adversary = Adversary(recipe, torch.device("cpu"), None)
    for weight in adversary.weights:
        adversary.optimiser.state[weight] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
    random = torch.Generator().manual_seed(0)
    real = torch.rand(4, 3, 16, 16, generator=random)
    fake = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    good = torch.zeros(())
    first, _ = adversary.learn(real, fake, good)
    for _ in range(15):
        last, _ = adversary.learn(real, fake, good)
    assert last < 0.5 * first
    before = [weight.detach().clone() for weight in adversary.weights]
    adversary.learn(real, fake, torch.ones(()))
    adversary.learn(real, fake * float("nan"), good)
    assert all(torch.equal(a, b) for a, b in zip(before, adversary.weights, strict=True))
    adversary.learn(real, fake, good)
    assert not all(torch.equal(a, b) for a, b in zip(before, adversary.weights, strict=True))


def test_the_generators_terms_leave_no_gradient_here() -> None:
    recipe = replace(load_recipe("irn-plus"), patch=16)
    adversary = Adversary(recipe, torch.device("cpu"), None)
    restored = torch.rand(2, 3, 16, 16).requires_grad_(True)
    terms = adversary.terms(torch.rand(2, 3, 16, 16), restored)
    terms["distribution"].backward()
    assert set(terms) == {"distribution"}
    assert restored.grad is not None
    assert restored.grad.abs().sum() > 0
    assert not any(weight.grad.any() for weight in adversary.weights if weight.grad is not None)
