"""The gradient of the decoder, exact and in bounded memory: from a restored picture to its small one and latent.

The network is invertible, so nothing of the way up is kept. From the restored picture it is walked down again, half a
coupling block at a time, and what a half had read is recomputed from what it gave. Next to the engine's map u, channels
x1 | x2, lies one of the gradient, g1 | g2; y1 and y2 are what the decoder had in their places::

    x1 = y1 - F(x2)                  g2 -= F'(x2)^T g1,                               y1 = x1 + F(x2)
    x2 = (y2 - G(y1)) exp(-s(y1))    g1 -= G'(y1)^T g2 exp(-s) + s'(y1)^T (g2 x2),    y2 = x2 exp(s) + G(y1)
                                     g2 *= exp(-s)

A tile reads the gradient of its own positions and adds to that of its neighbours too, REACH pixels around: the adjoint
of reading as far. What a half reads around a tile it never writes, and the sums are made in the tiles' order, so that
neither their order nor threads change anything.
"""

import math
from functools import partial

import torch
import torch.nn.functional as functional
from torch import Tensor

from irn_cli.device import Precision, ieee_float32, multiplied_as
from irn_cli.engine import ALIGNMENT, REACH, Convolution, Progress, Tile, Workers, haar, plan_memory, read_twice
from irn_cli.errors import DeviceError
from irn_cli.model import IRN, SLOPE, DenseBlock, InvBlock

_SIDE, _CUDA_SIDE, _LEAST_SIDE = 128, 512, 32  # of a tile: at 128 its neighbours' pixels are a sixth more work


class Gradient:
    """Walks down from a restored picture to the gradient of its small picture and latent.

    float32 agrees with automatic differentiation of `IRN.upscale` to rounding. bfloat16 is the convolutions' only, and
    where the engine has it: rounded elsewhere, the way down leaves the decoder's way up, the more so the less the
    decoder heeds its latent.

    Args:
        model: the network; its weights are copied.
        device: where the convolutions run.
        precision: `fp32` or `bf16`, of the convolutions.
        memory: the most bytes that both maps and the tiles may take together on the device; None is what there is.
    """

    def __init__(self, model: IRN, device: torch.device, precision: Precision, memory: int | None = None) -> None:
        self._device = device
        self._memory = memory
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        blocks = [step for step in model.operations if isinstance(step, InvBlock)]
        self._halves = [half for block in blocks for half in (_F(block, device, dtype), _GH(block, device, dtype))]

    def pull_back(self, x: Tensor, gradient: Tensor, progress: Progress | None = None) -> tuple[Tensor, Tensor]:
        """Take a loss's gradient from the restored picture down to what it was restored from.

        Args:
            x: (H, W, 3) float32, contiguous: what `Engine.upscale` gave, in this precision. It is consumed.
            gradient: (H, W, 3), alike: of the loss with respect to `x`. It is consumed.
            progress: called from this thread now and then with the part done, 0 to 1.

        Returns:
            u: (H/s, W/s, 3 s^2) float32: y and z, which gave `x`, to rounding;
            gradient: alike, of the loss with respect to them.

        Raises:
            DeviceError: the memory allowed, or the device's, is not enough even for the smallest tile.
        """
        each = max(half.bytes_per_position for half in self._halves)
        nbytes = x.nbytes + gradient.nbytes
        margin = 2 * REACH + ALIGNMENT
        fits, most = plan_memory(self._device, self._memory, nbytes, each, (_LEAST_SIDE + margin) ** 2)
        side = min(_CUDA_SIDE if self._device.type == "cuda" else _SIDE, math.isqrt(most) - margin)
        u, g = (given.to(self._device) if fits else given for given in (x.detach(), gradient.detach()))
        threads = torch.get_num_threads() if self._device.type == "cpu" else 0
        done, total = 0, sum(half.cost * (u.numel() // half.channels) for half in self._halves)
        with Workers(threads) as workers, ieee_float32():
            for half in self._halves:
                if u.shape[2] != half.channels:
                    u = haar(u, False, workers)
                    g = haar(g, False, workers).mul_(4)  # the inverse's adjoint: the transform without its 1/4
                tiles = _tiles(u.shape[0], u.shape[1], side, threads)
                for tile, parts in zip(tiles, workers.run(partial(self._apply, half, u, g), tiles), strict=True):
                    for area, part in parts:
                        g[area][..., half.reads] += part.to(g.device)
                    done += half.cost * (tile.bottom - tile.top) * (tile.right - tile.left)
                    if progress:
                        progress(done / total)
        return u, g

    @torch.inference_mode()
    def _apply(self, half: "_Half", u: Tensor, g: Tensor, tile: Tile) -> list[tuple[tuple[slice, slice], Tensor]]:
        """Walk half a coupling block down over a tile, in parts where the device's memory gives out.

        Returns:
            Rectangles of the map, and what to add there to the gradient of what the half reads.
        """
        try:
            return [half.walk(u, g, tile, self._device)]
        except torch.OutOfMemoryError as error:
            if tile.bottom - tile.top <= _LEAST_SIDE:
                raise DeviceError("not enough device memory even for the smallest tile") from error
        torch.cuda.empty_cache()
        return [part for upper_lower in tile.grid(2, 1) for part in self._apply(half, u, g, upper_lower)]


def _tiles(height: int, width: int, side: int, threads: int) -> list[Tile]:
    """Cut the map into tiles of at most `side` x `side`, and no fewer than there are threads where that pays."""
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    rows = max(rows, min(math.ceil(threads / columns), height // _LEAST_SIDE))
    return Tile(0, height, 0, width).grid(rows, columns)


class _Half:
    """Half a coupling block, walked down: the dense blocks that read some channels, and what they do to the others."""

    reads: slice
    writes: slice

    def __init__(self, blocks: list[DenseBlock], device: torch.device, dtype: torch.dtype, last: torch.dtype) -> None:
        self._dense = [_DenseGradient(block, device, dtype, last) for block in blocks]
        weights = [weight for block in blocks for weight in block.parameters()]  # from conv1's to conv5's bias
        growth, self.channels = len(weights[0]), weights[0].shape[1] + len(weights[-1])
        self.cost = sum(weight.numel() for weight in weights)  # multiplications per position
        # Every block's features; a window, its result and the convolution's own copies; the couplings' float32.
        widest = self._dense[0].widest
        features = 4 * growth * (len(blocks) + 1) * dtype.itemsize
        window = widest * (4 * multiplied_as(dtype, device).itemsize + last.itemsize - dtype.itemsize)
        self.bytes_per_position = features + window + 24 * self.channels

    def walk(self, u: Tensor, g: Tensor, tile: Tile, device: torch.device) -> tuple[tuple[slice, slice], Tensor]:
        """Rewrite a tile of both maps; returns what is to be added, also around it, to the gradient of what is read.

        Raises:
            torch.OutOfMemoryError: on the device; nothing is rewritten then.
        """
        height, width, _ = u.shape
        top, bottom = max(tile.top - REACH, 0), min(tile.bottom + REACH, height)
        left, right = tile.columns_read(width)
        around = slice(top, bottom), slice(left, right)
        inside = slice(tile.top, tile.bottom), slice(tile.left, tile.right)
        within = slice(tile.top - top, tile.bottom - top), slice(tile.left - left, tile.right - left)
        source = u[around][..., self.reads].to(device)
        given = [dense(source) for dense in self._dense]
        values, gradient = u[inside][..., self.writes], g[inside][..., self.writes]
        # Copies, so that both maps are as they were where the device's memory gives out on the way.
        moved, moved_gradient = values.to(device, copy=True), gradient.to(device, copy=True)
        results = self._couple(moved, moved_gradient, [result[within] for result, _ in given])
        margins = 0, 0, tile.left - left, right - tile.right, tile.top - top, bottom - tile.bottom
        part = sum(
            dense.pull_back(functional.pad(result, margins), features)
            for dense, result, (_, features) in zip(self._dense, results, given, strict=True)
        )
        values.copy_(moved)
        gradient.copy_(moved_gradient)
        assert isinstance(part, Tensor)
        return around, part

    def _couple(self, target: Tensor, gradient: Tensor, outputs: list[Tensor]) -> list[Tensor]:
        """Rewrite what is written, and its gradient; returns the gradients of the dense blocks' results."""
        raise NotImplementedError


class _F(_Half):
    """x1 = y1 - F(x2)."""

    reads, writes = slice(3, None), slice(0, 3)

    def __init__(self, block: InvBlock, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__([block.F], device, dtype, last=torch.float32)

    def _couple(self, target: Tensor, gradient: Tensor, outputs: list[Tensor]) -> list[Tensor]:
        target.add_(outputs[0])
        return [-gradient]


class _GH(_Half):
    """x2 = (y2 - G(y1)) exp(-s(y1)), s = c tanh(H(y1) / 2)."""

    reads, writes = slice(0, 3), slice(3, None)

    def __init__(self, block: InvBlock, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__([block.G, block.H], device, dtype, last=dtype)
        self._clamp = block.clamp

    def _couple(self, target: Tensor, gradient: Tensor, outputs: list[Tensor]) -> list[Tensor]:
        G, H = outputs
        tanh = H.div_(2).tanh_()
        of_H = (1 - tanh * tanh).mul_(-self._clamp / 2).mul_(target).mul_(gradient)
        scale = tanh.mul_(self._clamp).exp_()
        gradient.div_(scale)
        target.mul_(scale).add_(G)
        return [-gradient, of_H]


class _DenseGradient:
    """A dense block and the product with its transposed Jacobian, which is a dense block again, read backwards.

    What is in front of a layer gets its gradient from all layers behind: its window is theirs, last one first. A 3x3
    convolution's transpose is the convolution with its weights turned by half and inputs and outputs exchanged::

        forward      x, f1, f2, f3, f4 -> result
        pull back    g(result), g4, g3, g2, g1 -> g(x)
    """

    def __init__(self, block: DenseBlock, device: torch.device, dtype: torch.dtype, last: torch.dtype) -> None:
        convs = list(block.children())
        weights = [weight.detach() for weight in block.parameters() if weight.dim() == 4]
        growth, inputs = weights[0].shape[:2]
        self._twice = read_twice(inputs, dtype, last)
        self._convs = [
            Convolution.of([conv], self._twice, device, last if conv is convs[-1] else dtype) for conv in convs
        ]
        self.widest = inputs + self._twice + 4 * growth  # channels of a window
        behind = [torch.split(weight, [inputs] + [growth] * k, 1) for k, weight in enumerate(weights)]
        self._transposed = []
        for layer in reversed(range(len(convs))):  # g4, g3, g2, g1, g(x)
            weight = torch.cat([behind[k][layer].transpose(0, 1) for k in reversed(range(layer, len(convs)))], 1)
            weight = weight.flip(2, 3).to(device, dtype)
            self._transposed.append(Convolution(weight, weight.new_zeros(len(weight))))

    def __call__(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The block's result of (h, w, C), (h, w, C') float32, and the features that its gradient depends on."""
        x = x[None].permute(0, 3, 1, 2)  # (1, C, h, w), channels last in memory, as all that follows
        *convs, last = self._convs
        high = x.to(convs[0].weight.dtype)
        window = [high, (x - high).to(high.dtype)] if self._twice else [high]
        features: list[Tensor] = []
        for conv in convs:
            features.append(functional.leaky_relu_(conv(torch.cat([*window, *features], 1), 1), SLOPE))
        return last(torch.cat([*window, *features], 1), 1)[0].permute(1, 2, 0).float(), features

    def pull_back(self, gradient: Tensor, features: list[Tensor]) -> Tensor:
        """The gradient (h, w, C) float32 of the input, from that of the result, (h, w, C')."""
        *convs, last = self._transposed
        window = [gradient[None].permute(0, 3, 1, 2).to(last.weight.dtype)]
        for conv, feature in zip(convs, reversed(features), strict=True):
            g = conv(torch.cat(window, 1), 1)
            window.append(torch.where(feature > 0, g, SLOPE * g))
        return last(torch.cat(window, 1), 1)[0].permute(1, 2, 0).float()
