"""The dense block as training computes it: what `model.DenseBlock` says, in less time and memory, and in bfloat16.

Left to autograd, the block would keep five concatenations of the same features for the backward pass, and there add up
what comes back to each feature from every convolution after it. Here only the features are kept, and backwards the
gradients of the results are concatenated as the features are forwards, so that a single convolution sums all that comes
back to a feature, in its own float32::

    forward     x -> f1 -> f2 -> f3 -> f4 -> result    convolution k reads all on its left
    backward    x <- f1 <- f2 <- f3 <- f4 <- result    feature k's gradient comes from all on its right

Everything lies channels last and in multiples of 8 channels, zeros added, which the fast kernels of GPUs ask for. The
weights are laid out so once a step, for both passes and all blocks of a shape together (`lay_out`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from irn_cli.device import multiplied_as
from irn_cli.model import IRN, SLOPE, DenseBlock, InvBlock

_MULTIPLE = 8  # of channels


class Streams(NamedTuple):
    """For what a GPU does beside the network's own stream: most kernels are too small to fill it (`benchmarks/`)."""

    h: torch.cuda.Stream  # H, beside G
    gradients: torch.cuda.Stream  # of F's and G's weights: nothing in the backward pass waits for them
    gradients_h: torch.cuda.Stream  # of H's

    @classmethod
    def on(cls, device: torch.device) -> "Streams":
        """New ones on a GPU."""
        return cls(*(torch.cuda.Stream(device) for _ in cls._fields))  # type: ignore[no-untyped-call]


class _Layout(NamedTuple):
    """A dense block's weights as its passes read them."""

    forwards: Sequence[Tensor]  # of each convolution
    biases: Sequence[Tensor]
    backwards: Sequence[Tensor]  # of each feature: the columns that read it, of all convolutions after it


class LeanDenseBlock(DenseBlock):
    """A dense block on the weights of another, cast to a dtype in place; the result returns in the dtype of `x`.

    After its weights have changed it needs `lay_out`. One bfloat16 holds no more of a picture, the input of G and H,
    than 8-bit levels, so that there they read it as the sum of two, in six channels.
    """

    def __init__(self, block: DenseBlock, dtype: torch.dtype, beside: torch.cuda.Stream | None = None) -> None:
        nn.Module.__init__(self)
        for name, conv in block.named_children():
            self.add_module(name, conv.to(dtype))
        first, *_, last = (conv for conv in block.children() if isinstance(conv, nn.Conv2d))
        self.channels, self.out = first.in_channels, last.out_channels
        self.dtype, self.kind = dtype, multiplied_as(dtype, first.weight.device)
        self.parts = 2 if self.channels == 3 and dtype == torch.bfloat16 else 1
        self.beside = beside
        self.layout: _Layout
        lay_out([self])

    def forward(self, x: Tensor) -> Tensor:
        return _DenseFunction.apply(x, self, *self.parameters())  # type: ignore[no-any-return, no-untyped-call]


class LeanInvBlock(InvBlock):
    """A coupling of lean dense blocks, on the weights of another."""

    def __init__(self, block: InvBlock, dtype: torch.dtype, streams: Streams | None) -> None:
        nn.Module.__init__(self)
        self.F = LeanDenseBlock(block.F, dtype, streams and streams.gradients)
        self.G = LeanDenseBlock(block.G, dtype, streams and streams.gradients)
        self.H = LeanDenseBlock(block.H, dtype, streams and streams.gradients_h)
        self.clamp = block.clamp
        self._side = streams and streams.h

    def _affine(self, y1: Tensor) -> tuple[Tensor, Tensor]:
        if self._side is None:
            return super()._affine(y1)
        here = torch.cuda.current_stream()
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            log_scale = self._log_scale(y1)
        shift = self.G(y1)
        here.wait_stream(self._side)
        return log_scale, shift


def use_lean_blocks(network: IRN, dtype: torch.dtype, streams: Streams | None = None) -> list[LeanDenseBlock]:
    """Exchange a network's blocks; its parameters keep their names and order, and in float32 their memory.

    Args:
        network: what is changed.
        dtype: the convolutions' arithmetic.
        streams: for work at the same time as the network's own.

    Returns:
        The dense blocks, for `lay_out`.
    """
    for k, block in enumerate(network.operations):
        if isinstance(block, InvBlock):
            network.operations[k] = LeanInvBlock(block, dtype, streams)
    return [module for module in network.modules() if isinstance(module, LeanDenseBlock)]


@torch.no_grad()
def lay_out(blocks: Iterable[LeanDenseBlock]) -> None:
    """Have blocks read their weights as they are now; those of one shape all at once."""
    shapes: dict[tuple[int, int], list[LeanDenseBlock]] = {}
    for block in blocks:
        shapes.setdefault((block.channels, block.out), []).append(block)
    for (channels, out), alike in shapes.items():
        parameters = zip(*(block.parameters() for block in alike), strict=True)
        stacks = [torch.stack(same).to(alike[0].kind) for same in parameters]
        weights, biases = stacks[0::2], stacks[1::2]  # (N, rows, columns, 3, 3) and (N, rows) of each convolution
        parts = [channels] * alike[0].parts
        zeros = weights[0].new_zeros(1, 1, -sum(parts) % _MULTIPLE, 3, 3)
        for k, w in enumerate(weights):
            extra = zeros.expand(*w.shape[:2], -1, -1, -1)
            weights[k] = torch.cat([w[:, :, :width] for width in parts] + [extra, w[:, :, channels:]], 2)
        weights[-1] = functional.pad(weights[-1], (0, 0, 0, 0, 0, 0, 0, -out % _MULTIPLE))
        biases[-1] = functional.pad(biases[-1], (0, -out % _MULTIPLE))

        backwards, begin = [], 0
        for k, w in enumerate(weights):
            end = w.shape[2]
            backwards.append(torch.cat([later[:, :, begin:end] for later in weights[k:]], 1))
            begin = end
        layouts = [_channels_last(weights), biases, _channels_last(backwards)]
        for k, block in enumerate(alike):
            block.layout = _Layout(*([stack[k] for stack in layout] for layout in layouts))


class _DenseFunction(torch.autograd.Function):
    """Of x (B, C, H, W) and each convolution's weight and bias, in order; the block has them laid out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: LeanDenseBlock, *_: Tensor) -> Tensor:
        weights, biases = block.layout.forwards, block.layout.biases
        high = x.to(block.dtype)
        features = [_aligned([high, x - high] if block.parts == 2 else [high], block.dtype)]
        read = features[0].to(block.kind)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            result = functional.conv2d(read, weight, bias, padding=1).to(block.dtype)
            features.append(functional.leaky_relu_(result, SLOPE))
            read = torch.cat([read, features[-1].to(block.kind)], 1)
        ctx.save_for_backward(*features)
        ctx.block, ctx.layout = block, block.layout
        result = functional.conv2d(read, weights[-1], biases[-1], padding=1).to(block.dtype)
        return result[:, : block.out].to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, block = ctx.saved_tensors, ctx.block  # asked for once: checkpoint() gives them out once
        wanted = ctx.needs_input_grad[0]
        rows = [len(weight) for weight in ctx.layout.forwards]
        columns: list[list[Tensor]] = [[] for _ in rows]  # of each weight's gradient, feature by feature
        laters = [_aligned([grad], features[0].dtype)]  # gradients of the results of all that read a feature
        for k in range(4, -1, -1):
            operands = laters[-1], features[k], ctx.layout.backwards[k]
            mask = k > 0 or wanted, k == 0
            back, of_weights, of_biases = _pull_back(*operands, mask, block.beside)
            for found, of_weight in zip(columns[k:], torch.split(of_weights, rows[k:]), strict=True):
                found.insert(0, of_weight)
            if k:
                back = torch.ops.aten.leaky_relu_backward(back, features[k], SLOPE, True)
                laters.append(torch.cat([back, laters[-1]], 1))
        if block.beside is not None:
            torch.cuda.current_stream().wait_stream(block.beside)  # which reads `laters` until then

        gradients = []
        for (first, *rest), of_bias in zip(columns, torch.split(of_biases, rows), strict=True):
            of_parts = torch.split(first, block.channels, 1)[: block.parts]  # each part's own are added up
            gradients += [torch.cat([sum(of_parts[1:], of_parts[0]), *rest], 1), of_bias]
        of_input = back[:, : block.channels].to(grad.dtype) if wanted else None
        return of_input, None, *gradients[:-2], *(gradient[: block.out] for gradient in gradients[-2:])


def _pull_back(
    later: Tensor, feature: Tensor, weight: Tensor, mask: tuple[bool, bool], beside: torch.cuda.Stream | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a convolution's input, its weight and its bias; the latter two on the stream beside.

    The mask says whether the input's and the bias's are wanted.
    """

    def found(*wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
        shape = [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        operands = later.to(weight.dtype), feature.to(weight.dtype), weight
        results = torch.ops.aten.convolution_backward(*operands, *shape, wanted)
        return tuple(result if result is None else result.to(later.dtype) for result in results)  # type: ignore[return-value]

    of_x, of_bias = mask
    if beside is None:
        return found(of_x, True, of_bias)
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        _, of_weight, of_biases = found(False, True, of_bias)
    return found(of_x, False, False)[0], of_weight, of_biases


def _channels_last(stacks: list[Tensor]) -> list[Tensor]:
    """Each of some (N, rows, columns, 3, 3), its N parts channels last."""
    return [stack.movedim(2, -1).contiguous().movedim(-1, 2) for stack in stacks]


def _aligned(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """(B, C, H, W) tensors one after another, channels last, padded with zeros to a multiple of 8 channels."""
    batch, channels, height, width = parts[0].shape
    count = len(parts) * channels
    shape = batch, count + -count % _MULTIPLE, height, width
    result = torch.empty(shape, dtype=dtype, device=parts[0].device, memory_format=torch.channels_last)
    for k, part in enumerate(parts):
        result[:, k * channels : (k + 1) * channels] = part
    result[:, count:].zero_()
    return result
