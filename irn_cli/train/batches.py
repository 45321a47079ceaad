"""Batches: which crops a step learns from, cut out of the training pictures, with their guides and drawn latents.

Cropping, mirroring, turning, panels, stripes and grain are tensor arithmetic on whichever device holds the pictures,
without a branch that depends on data: the same code runs eagerly on a CPU and inside a captured CUDA graph.
"""

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irn_cli.errors import UsageError
from irn_cli.resize import bicubic
from irn_cli.train.data import Pictures
from irn_cli.train.recipe import Recipe


class Batch(NamedTuple):
    """What a step learns from, or a part of it."""

    x: Tensor  # (B, 3, P, P), crops in [0, 1]
    guide: Tensor  # (B, 3, P/s, P/s), their bicubic small pictures
    drawn: Tensor  # (B, 3 s^2 - 3, P/s, P/s), the latents that they are restored with

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch in parts of equal size."""
        return map(Batch._make, zip(*(tensor.chunk(count) for tensor in self), strict=True))


class Batches:
    """The batch of each step: `prepare` brings what it depends on to the device, `draw` makes it there.

    Under torchrun each process gets its share. All of them draw the whole batch's random numbers, so that the shares
    together are one process's batch.
    """

    def __init__(
        self,
        pictures: Pictures,
        recipe: Recipe,
        latent_channels: int,
        device: torch.device,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """Move the pictures to the device, if they fit there.

        Raises:
            UsageError: a batch cannot be shared out evenly.
        """
        if recipe.batch % (processes * recipe.accumulate):
            among = [f"{processes} processes"] * (processes > 1) + [f"{recipe.accumulate} parts"] * (
                recipe.accumulate > 1
            )
            raise UsageError(f"a batch of {recipe.batch} cannot be split evenly over {' of '.join(among)}")
        share = recipe.batch // processes
        self._mine = slice(process * share, (process + 1) * share)
        self._recipe, self._device = recipe, device
        self._sampler = Sampler(pictures.places, recipe)
        self._margin = 2 * recipe.scale  # what bicubic reaches beyond a crop, rounded up to whole small pixels
        small, side = recipe.patch // recipe.scale, recipe.patch + 2 * self._margin
        self._latent_shape = (recipe.batch, latent_channels, small, small)
        # What outlives a step is made once and filled in place: a captured graph knows addresses only.
        self.shrink = shrinking_matrix(side, recipe.scale).to(device)
        self.generator = torch.Generator(device)
        self.resident = fits(pictures.pixels, device)
        self._pixels = pictures.pixels.to(device) if self.resident else pictures.pixels
        self._picks = torch.zeros(recipe.batch, 6, dtype=torch.int64, device=device)
        self._crops = torch.zeros(0 if self.resident else recipe.batch, side, side, 3, dtype=torch.uint8, device=device)

    def prepare(self, step: int) -> None:
        """Bring a step's picks and seed to the device; pictures that do not fit there send their crops."""
        picks = self._sampler.draw(step)
        if self.resident:
            self._picks.copy_(self._staged(picks), non_blocking=True)
        else:
            crops = gather(self._pixels, picks, self._recipe.patch, self._margin)
            self._crops.copy_(self._staged(crops), non_blocking=True)
        self.generator.manual_seed(mixed_seed(self._recipe.seed, "noise", step))

    def draw(self) -> Batch:
        """This process's share of the prepared step's batch."""
        recipe, margin = self._recipe, self._margin
        crops = gather(self._pixels, self._picks, recipe.patch, margin) if self.resident else self._crops
        x = crops.permute(0, 3, 1, 2).float() / 255
        if recipe.panels:
            x = add_panels(x, recipe.panels, self.generator)
        if recipe.stripes:
            x = add_stripes(x, recipe.stripes, recipe.stripes_levels, self.generator)
        if recipe.grain:
            x = add_grain(x, recipe.grain, recipe.grain_levels, self.generator)
        drawn = torch.randn(self._latent_shape, generator=self.generator, device=self._device)
        low, high = recipe.temperature
        if low < high:  # half of the crops gets the lowest: weights that only came near it restore worse there
            share = 2 * torch.rand(len(x), 1, 1, 1, generator=self.generator, device=self._device) - 1
            drawn *= low + (high - low) * share.clamp(min=0)
        elif high != 1:
            drawn *= high
        x, drawn = x[self._mine], drawn[self._mine].contiguous(memory_format=torch.channels_last)
        guide = (self.shrink @ x @ self.shrink.T)[..., 2:-2, 2:-2]  # less the margin, which is 2 small pixels
        x = x[..., margin:-margin, margin:-margin].contiguous(memory_format=torch.channels_last)
        return Batch(x, guide, drawn)

    def first_picture(self) -> NDArray[np.uint8]:
        """The first training picture, (H, W, 3)."""
        start, height, width = self._sampler.places[0].tolist()
        return self._pixels[start : start + height * width].view(height, width, 3).cpu().numpy()

    def _staged(self, tensor: Tensor) -> Tensor:
        """In pinned memory, from which the GPU copies while it works."""
        return tensor.pin_memory() if self._device.type == "cuda" else tensor


def fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether training pictures can live on the device: on a GPU they may take half of what is free."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * pixels.numel() <= free


class Sampler:
    """Which crops make up each step's batch: a function of (seed, step) alone, so that resuming needs no state.

    Every picture comes once an epoch, in a fresh order each time; place, mirroring and turn are uniform.
    """

    def __init__(self, places: Tensor, recipe: Recipe) -> None:
        self.places, self.recipe = places, recipe
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def draw(self, step: int) -> Tensor:
        """The batch of step `step`: (B, 6) int64, each crop's first row, height, width, top, left and orientation.

        An orientation's bits mirror left to right (1), upside down (2), and exchange rows and columns (4).
        """
        recipe, count = self.recipe, len(self.places)
        positions = range(step * recipe.batch, (step + 1) * recipe.batch)
        chosen = self.places[torch.tensor([self._order(p // count)[p % count] for p in positions])]  # (B, 3)
        generator = torch.Generator().manual_seed(mixed_seed(recipe.seed, "crops", step))
        free = (chosen[:, 1:] - recipe.patch) // recipe.scale + 1
        place = torch.rand(recipe.batch, 2, generator=generator, dtype=torch.float64)
        orientation = torch.randint(8, (recipe.batch, 1), generator=generator)
        orientation &= 3 * recipe.flips | 4 * recipe.turns
        return torch.cat([chosen, (place * free).long() * recipe.scale, orientation], 1)

    def _shuffled(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mixed_seed(self.recipe.seed, "epoch", epoch))
        return torch.randperm(len(self.places), generator=generator).tolist()


def mixed_seed(*parts: object) -> int:
    """A 32-bit seed that depends on every part: neighbouring steps get unrelated random numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "little")


def gather(pixels: Tensor, picks: Tensor, patch: int, margin: int) -> Tensor:
    """Cut crops with a margin of their surroundings, mirrored half-sample where the picture ends.

    Args:
        pixels: (N, 3) uint8, as in `Pictures`.
        picks: (B, 6) int64, as from `Sampler.draw`, on the same device.
        patch: a crop's side.
        margin: pixels added on each side, at most the smallest picture's side.

    Returns:
        (B, patch + 2 margin, patch + 2 margin, 3) uint8.
    """
    start, height, width, top, left, orientation = picks.view(-1, 6, 1, 1).unbind(1)  # (B, 1, 1) each
    line = torch.arange(-margin, patch + margin, device=pixels.device)
    row, column = line.view(1, -1, 1), line.view(1, 1, -1)
    column = torch.where(orientation & 1 != 0, patch - 1 - column, column)
    row = torch.where(orientation & 2 != 0, patch - 1 - row, row)
    swap = orientation & 4 != 0
    row, column = torch.where(swap, column, row), torch.where(swap, row, column)
    row, column = _mirror(top + row, height), _mirror(left + column, width)
    index = start + row * width + column  # (B, S, S)
    return pixels.index_select(0, index.flatten()).view(*index.shape, 3)


def _mirror(position: Tensor, size: Tensor) -> Tensor:
    position = torch.where(position < 0, -1 - position, position)
    return torch.where(position >= size, 2 * size - 1 - position, position)


def add_grain(x: Tensor, share: float, levels: float, generator: torch.Generator) -> Tensor:
    """Give some crops noise, as a camera would, and round them to 8 bits again.

    Each crop, with probability `share`, gets normal noise of a standard deviation uniform in [0, levels]; of its
    variance a uniform part is common to the channels, the rest is each channel's own.

    Args:
        x: (B, 3, H, W) float, in [0, 1].
        share: how many of the crops, 0 to 1.
        levels: the largest standard deviation, in levels of 255.
        generator: where the randomness comes from, on x's device.

    Returns:
        The same shape, in [0, 1].
    """

    def uniform() -> Tensor:
        return torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)

    deviation = levels / 255 * uniform() * (uniform() < share)
    common = uniform()
    whole = torch.randn(x[:, :1].shape, generator=generator, device=x.device)
    own = torch.randn(x.shape, generator=generator, device=x.device)
    noisy = x + deviation * (common.sqrt() * whole + (1 - common).sqrt() * own)
    return torch.round(noisy.clamp(0, 1) * 255) / 255


def add_panels(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Cover parts of some crops with flat colours, as of slides, screens and drawings.

    Each crop, with probability `share`, gets two rectangles of any size and place, one over the other where they meet.
    Their colours are of any saturation; black and white are frequent.

    Args:
        x: (B, 3, H, W) float, in [0, 1].
        share: how many of the crops, 0 to 1.
        generator: where the randomness comes from, on x's device.

    Returns:
        The same shape, in [0, 1]; the flat colours are of 8 bits.
    """

    def uniform(channels: int = 1) -> Tensor:
        return torch.rand(len(x), channels, 1, 1, generator=generator, device=x.device)

    row, column = (torch.arange(size, device=x.device) / size for size in x.shape[2:])
    chosen = uniform() < share
    for _ in range(2):
        rows, columns = ((line - uniform()).abs() < uniform() / 2 for line in (row.view(1, 1, -1, 1), column))
        colour = 2 * uniform() - 0.5 + uniform() * (uniform(3) - 0.5)
        colour = torch.round(colour.clamp(0, 1) * 255) / 255
        x = torch.where(rows & columns & chosen, colour, x)
    return x


def add_stripes(x: Tensor, share: float, levels: float, generator: torch.Generator) -> Tensor:
    """Lay fine stripes over some crops, as of cloth, blinds or roofs, and round them to 8 bits again.

    They are grey, between a sine and a square wave, of any direction and any period from 2 pixels on, and bend
    slightly, so that their pattern against the pixels changes within a crop.

    Args:
        x: (B, 3, H, W) float, in [0, 1].
        share: how many of the crops, 0 to 1.
        levels: the largest amplitude, in levels of 255.
        generator: where the randomness comes from, on x's device.

    Returns:
        The same shape, in [0, 1].
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)

    amplitude = levels / 255 * uniform(0, 1) * (uniform(0, 1) < share)
    direction, start = uniform(0, math.pi), uniform(0, 2 * math.pi)
    frequency, bend = uniform(0, 0.5), uniform(-1, 1)  # cycles a pixel; cycles that the bend adds at the crop's corners
    height, width = x.shape[2:]
    row = torch.arange(height, device=x.device).view(1, 1, -1, 1) - height / 2
    column = torch.arange(width, device=x.device).view(1, 1, 1, -1) - width / 2
    along = row * direction.cos() - column * direction.sin()
    across = row * direction.sin() + column * direction.cos()
    cycles = frequency * across + 2 * bend * along.square() / (height * width)
    wave = (2 * torch.sin(2 * math.pi * cycles + start)).clamp(-1, 1)
    return torch.round((x + amplitude * wave).clamp(0, 1) * 255) / 255


def shrinking_matrix(size: int, scale: int) -> Tensor:
    """`bicubic` along one side as a matrix, (size / scale, size) float32: the guide is two products with it."""
    return bicubic(torch.eye(size, dtype=torch.float64), (size // scale, size)).float()
