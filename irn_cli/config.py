"""The shape of a network, which is known without torch: weights can be listed before it has loaded."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class IRNConfig:
    """The shape of a network: everything that is needed to rebuild it before its weights are loaded."""

    blocks: tuple[int, ...] = (8, 8)  # InvBlocks in each downscaling module; each module halves the size
    growth: int = 32  # channels that each convolution of a dense block adds
    clamp: float = 1.0  # c: the coupling's log-scale s lies in (-c, c)

    def __post_init__(self) -> None:
        if not all(type(count) is int for count in (*self.blocks, self.growth)):
            raise ValueError(f"blocks and growth must be whole numbers, not {self.blocks} and {self.growth}")
        if not 1 <= len(self.blocks) <= 3 or min(self.blocks) < 1:
            raise ValueError(f"blocks must be 1 to 3 counts of at least 1 (scales 2, 4, 8), not {self.blocks}")
        if self.growth < 1 or not math.isfinite(self.clamp) or self.clamp <= 0:
            raise ValueError(f"growth and clamp must be positive, not {self.growth} and {self.clamp}")

    @property
    def scale(self) -> int:
        """How many times smaller each side becomes: 2, 4 or 8."""
        return int(2 ** len(self.blocks))

    @property
    def parameters(self) -> int:
        """How many numbers the network learns: three dense blocks of five convolutions in each coupling."""
        total, channels = 0, 3
        for count in self.blocks:
            channels *= 4
            for inputs, outputs in [(channels - 3, 3), (3, channels - 3), (3, channels - 3)]:  # F, G and H
                for k, width in enumerate([self.growth] * 4 + [outputs]):
                    total += count * width * (9 * (inputs + k * self.growth) + 1)
        return total

    @property
    def latent_channels(self) -> int:
        """Channels of z at the small size: 9 at 2x, 45 at 4x, 189 at 8x."""
        return 3 * self.scale**2 - 3
