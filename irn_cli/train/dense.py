"""The dense block as training computes it: what `model.DenseBlock` says, in less time and memory, and in bfloat16.

Left to autograd, the block would keep five concatenations of the same features for the backward pass, and there add up
what comes back to each feature from every convolution after it. Here only the features are kept, and backwards the
gradients of the results are concatenated as the features are forwards, so that a single convolution sums all that comes
back to a feature, in its own float32::

    forward     x -> f1 -> f2 -> f3 -> f4 -> result    convolution k reads all on its left
    backward    x <- f1 <- f2 <- f3 <- f4 <- result    feature k's gradient comes from all on its right

Everything lies channels last and in multiples of 8 channels, zeros added, which the fast kernels of GPUs ask for.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from irn_cli.model import IRN, SLOPE, DenseBlock, InvBlock

_MULTIPLE = 8  # of channels


class LeanDenseBlock(DenseBlock):
    """A dense block on the weights of another, cast to a dtype in place; the result returns in the dtype of `x`.

    One bfloat16 holds no more of a picture, the input of G and H, than 8-bit levels, so that there they read it as the
    sum of two, in six channels.
    """

    def __init__(self, block: DenseBlock, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        for name, conv in block.named_children():
            self.add_module(name, conv.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return _DenseFunction.apply(x, *self.parameters())  # type: ignore[no-any-return, no-untyped-call]


class LeanInvBlock(InvBlock):
    """A coupling of lean dense blocks, on the weights of another; on a GPU, G and H run at the same time.

    Most of their kernels are too small to fill a GPU (`benchmarks/README.md`).
    """

    def __init__(self, block: InvBlock, dtype: torch.dtype, side: torch.cuda.Stream | None) -> None:
        nn.Module.__init__(self)
        self.F, self.G, self.H = (LeanDenseBlock(dense, dtype) for dense in (block.F, block.G, block.H))
        self.clamp = block.clamp
        self._side = side

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


def use_lean_blocks(network: IRN, dtype: torch.dtype, side: torch.cuda.Stream | None = None) -> None:
    """Exchange a network's blocks; its parameters keep their names and order, and in float32 their memory.

    Args:
        network: what is changed.
        dtype: the convolutions' arithmetic.
        side: a second stream, for work at the same time as the network's own.
    """
    for k, block in enumerate(network.operations):
        if isinstance(block, InvBlock):
            network.operations[k] = LeanInvBlock(block, dtype, side)


class _DenseFunction(torch.autograd.Function):
    """Of x (B, C, H, W) and each convolution's weight and bias, in order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = list(parameters[0::2]), list(parameters[1::2])
        dtype, channels, out = weights[0].dtype, x.shape[1], len(biases[-1])
        high = x.to(dtype)
        parts = [high, x - high] if channels == 3 and dtype != x.dtype else [high]
        features = [_aligned(parts, dtype)]

        extra = weights[0].new_zeros(1, features[0].shape[1] - len(parts) * channels, 3, 3)
        for k, w in enumerate(weights):
            columns = [w[:, :channels]] * len(parts) + [extra.expand(len(w), -1, -1, -1), w[:, channels:]]
            weights[k] = torch.cat(columns, 1).contiguous(memory_format=torch.channels_last)
        weights[-1] = functional.pad(weights[-1], (0, 0, 0, 0, 0, 0, 0, -out % _MULTIPLE))
        biases[-1] = functional.pad(biases[-1], (0, -out % _MULTIPLE))

        read = features[0]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            features.append(functional.leaky_relu_(functional.conv2d(read, weight, bias, padding=1), SLOPE))
            read = torch.cat([read, features[-1]], 1)
        ctx.save_for_backward(*features, *weights)
        ctx.channels, ctx.parts, ctx.out = channels, len(parts), out
        return functional.conv2d(read, weights[-1], biases[-1], padding=1)[:, :out].to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: checkpoint() gives them out once
        features, weights = saved[:5], saved[5:]
        rows = [len(weight) for weight in weights]
        columns: list[list[Tensor]] = [[] for _ in weights]  # of each weight's gradient, feature by feature
        end = weights[-1].shape[1]
        later = _aligned([grad], features[0].dtype)  # gradients of the results of all convolutions that read a feature
        for k in range(4, -1, -1):
            feature = features[k]
            begin = end - feature.shape[1]
            weight = torch.cat([weight[:, begin:end] for weight in weights[k:]])
            mask = [k > 0 or ctx.needs_input_grad[0], True, k == 0]
            back, of_weights, of_biases = torch.ops.aten.convolution_backward(
                later, feature, weight, [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
            )
            for found, of_weight in zip(columns[k:], of_weights.split(rows[k:]), strict=True):
                found.insert(0, of_weight)
            if k:
                later = torch.cat([torch.ops.aten.leaky_relu_backward(back, feature, SLOPE, True), later], 1)
            end = begin

        channels, parts, out = ctx.channels, ctx.parts, ctx.out
        gradients = []
        for (first, *rest), of_bias in zip(columns, of_biases.split(rows), strict=True):
            of_x = sum(torch.split(first, channels, 1)[1:parts], first[:, :channels])  # each part's own are added up
            gradients += [torch.cat([of_x, *rest], 1), of_bias]
        of_input = back[:, :channels].to(grad.dtype) if ctx.needs_input_grad[0] else None
        return of_input, *gradients[:-2], *(gradient[:out] for gradient in gradients[-2:])


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
