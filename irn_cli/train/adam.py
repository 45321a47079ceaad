"""Adam as the training step needs it: PyTorch's, with its state in place from the start and a way to skip an update."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Adam(torch.optim.Adam):
    """Fused Adam; a captured CUDA graph knows addresses only, hence state that exists before the first update."""

    def __init__(
        self, weights: Sequence[nn.Parameter], rate: float | Tensor, betas: tuple[float, float], weight_decay: float = 0
    ) -> None:
        """Prepare the optimiser.

        Args:
            weights: what it updates.
            rate: the learning rate; a tensor on the weights' device can be changed between updates.
            betas: decay of the first and the second moment.
            weight_decay: L2 penalty, added to the gradient.
        """
        capturable = weights[0].is_cuda
        super().__init__(weights, rate, betas, weight_decay=weight_decay, fused=True, capturable=capturable)
        for weight in weights:
            self.state[weight] = {
                "step": torch.zeros((), device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }

    def update(self, bad: Tensor) -> None:
        """Take one step along the gradients, or leave weights and state as they are where `bad`, 0 or 1, is 1."""
        self.found_inf = bad
        self.step()
