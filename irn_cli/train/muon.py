"""Muon: momentum made orthogonal, which trains this network many times faster than Adam does.

Sources: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024,
https://kellerjordan.github.io/posts/muon), for the method and the polynomial's coefficients; J. Liu et al., "Muon is
Scalable for LLM Training" (2025, arXiv 2502.16982), for the update's scale, which makes its elements about as large as
Adam's, so that one rate serves both. `torch.optim.Muon` is the same for matrices; it knows no convolutions, and it
decides on the CPU, which a captured CUDA graph cannot hold.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from irn_cli.train.adam import Adam

_QUINTIC = (3.4445, -4.7750, 2.0315)  # its first coefficient, the slope at 0, is as large as convergence allows
_ITERATIONS = 5
_SCALE = 0.2  # root mean square of an Adam update's elements, by experience


class Muon:
    """Muon for convolutions, each a matrix (out, in * kh * kw), and Adam at the same rate for their biases::

    gradients --stacked by shape--> momentum --> Nesterov --> orthogonalise --> times rate and scale --> weights
    """

    def __init__(
        self,
        weights: Sequence[nn.Parameter],
        rate: Tensor,
        *,
        momentum: float,
        betas: tuple[float, float],
        weight_decay: float = 0,
    ) -> None:
        """Prepare the optimiser.

        Args:
            weights: what it updates; those of one dimension are the biases.
            rate: (), the learning rate, on the weights' device; may be changed between updates.
            momentum: decay of the averaged gradient.
            betas: Adam's, for the biases.
            weight_decay: share of a convolution's weights, times the rate, that each update takes away.
        """
        self._rate, self._momentum, self._decay = rate, momentum, weight_decay
        self._biases = Adam([weight for weight in weights if weight.dim() == 1], rate, betas)
        self.state: dict[Tensor, dict[str, Tensor]] = dict(self._biases.state)
        shapes: dict[torch.Size, list[Tensor]] = {}
        for matrix in weights:
            if matrix.dim() > 1:
                shapes.setdefault(matrix.shape, []).append(matrix)
        self._stacks = []
        for alike in shapes.values():
            momenta = alike[0].new_zeros(len(alike), *alike[0].flatten(1).shape)  # (N, out, in * kh * kw)
            self._stacks.append((alike, momenta))
            for weight, own in zip(alike, momenta, strict=True):
                self.state[weight] = {"momentum": own.view_as(weight)}

    @torch.no_grad()
    def update(self, bad: Tensor) -> None:
        """Take one step along the gradients, or leave weights and state as they are where `bad`, 0 or 1, is 1."""
        good = bad == 0
        for weights, momenta in self._stacks:
            gradients = torch.stack([weight.grad.flatten(1) for weight in weights if weight.grad is not None])
            averaged = momenta.lerp(gradients, 1 - self._momentum)
            update = orthogonalise(gradients.lerp(averaged, self._momentum))  # Nesterov: once more towards the average
            update *= self._rate * _SCALE * math.sqrt(max(update.shape[1:]))
            momenta.copy_(torch.where(good, averaged, momenta))
            if self._decay:
                torch._foreach_mul_(weights, 1 - self._rate * self._decay * good)
            changes = torch.where(good, update, 0).view(-1, *weights[0].shape)
            torch._foreach_sub_(weights, list(changes))
        self._biases.update(bad)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring all singular values to about 1 (0.7 to 1.2), and leave the singular vectors: the Newton-Schulz iteration.

    X becomes (a + b XX' + c (XX')^2) X, five times. Each factor is a polynomial of the first XX', so that the iteration
    runs on these products alone, as small as the matrices' shorter side, and the matrices are multiplied only twice.

    Args:
        matrices: (N, R, C) float; singular values below some 1 / 500 of a matrix's norm stay below 1.

    Returns:
        The same shape; zeros where a matrix is zero.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalise(matrices.mT).mT
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _QUINTIC
    one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    product, whole = x @ x.mT, one
    for _ in range(_ITERATIONS):
        factor = a * one + b * product + c * product @ product
        product, whole = factor @ product @ factor, factor @ whole
    orthogonal: Tensor = whole @ x
    return orthogonal
