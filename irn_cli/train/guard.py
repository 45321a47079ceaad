"""The guard: no step with a bad loss or gradient reaches the weights."""

import torch
from torch import Tensor

from irn_cli.train.recipe import Recipe

_LEVEL_DECAY = 0.99  # of the running level that losses are compared with


class Guard:
    """Judges each step, and counts; in tensors without a branch, so that a captured CUDA graph can hold it.

    Attributes:
        level: running level of the loss.
        seen: good steps so far.
        in_row: bad steps up to now without a good one between.
        skipped: bad steps in all.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._jump, self._jump_after = recipe.jump, recipe.jump_after
        self.level, self.seen, self.in_row, self.skipped = torch.zeros(4, device=device).unbind()

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """1 where a step must not reach the weights, else 0: loss or gradient are not finite, or the loss jumped."""
        jumped = (self.seen >= self._jump_after) & (self.seen > 0) & (loss > self._jump * self.level)
        bad = ~torch.isfinite(loss) | ~torch.isfinite(norm) | jumped
        decay = torch.where(self.seen == 0, 0.0, _LEVEL_DECAY)
        self.level.copy_(torch.where(bad, self.level, decay * self.level + (1 - decay) * loss))
        self.seen.add_(~bad)
        self.count(bad)
        return bad.float()

    def count(self, bad: Tensor) -> None:
        """Count a step that is bad or not, True or False."""
        self.in_row.add_(1).mul_(bad)
        self.skipped.add_(bad)

    def state(self) -> dict[str, Tensor]:
        """All that is counted, by name; the tensors themselves, not copies."""
        return {"level": self.level, "seen": self.seen, "in_row": self.in_row, "skipped": self.skipped}
