"""The invertible rescaling network (IRN), plain and differentiable: the mathematics, to be read beside the paper.

Source: Xiao et al., "Invertible Image Rescaling", ECCV 2020 (arXiv 2005.05650), sections 3.2 and 3.3, and its appendix
for the sizes. Layer names follow the authors' checkpoints (`operations.N.F.conv1.weight`), so that theirs load here.

There is no clamping, no rounding and no I/O in this module. `engine.py` computes the same function in bounded memory.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from irn_cli.config import IRNConfig

SLOPE = 0.2  # of a dense block's LeakyReLU below 0


class LowHigh(NamedTuple):
    """What downscaling gives: the small picture and the high-frequency latent."""

    y: Tensor  # (B, 3, H/s, W/s)
    z: Tensor  # (B, 3 s^2 - 3, H/s, W/s)


class Haar(nn.Module):
    """The Haar transform, (B, C, H, W) <-> (B, 4C, H/2, W/2), bands in the order LL, HL, LH, HH, each over all C.

    LL is the mean of each 2x2 block (every filter carries 1/4 forward and 1 backward), the others are half the
    differences along a row, along a column, and along both.
    """

    def downscale(self, x: Tensor) -> Tensor:
        a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
        c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
        return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) / 4  # (B, 4C, H/2, W/2)

    def upscale(self, u: Tensor) -> Tensor:
        ll, hl, lh, hh = u.chunk(4, 1)
        a, b = ll + hl + lh + hh, ll - hl + lh - hh
        c, d = ll + hl - lh - hh, ll - hl - lh + hh
        blocks = torch.stack([a, b, c, d], 2).flatten(1, 2)  # (B, C * 4, H/2, W/2), each 2x2 block's samples together
        return functional.pixel_shuffle(blocks, 2)  # (B, C, H, W)


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each seeing the input and all outputs before it; LeakyReLU after the first four."""

    def __init__(self, channels_in: int, channels_out: int, growth: int) -> None:
        super().__init__()
        for k in range(1, 6):
            width = growth if k < 5 else channels_out
            conv = nn.Conv2d(channels_in + (k - 1) * growth, width, 3, padding=1)
            # The network starts as the plain Haar transform: each sub-network's last convolution is zero.
            if k < 5:
                nn.init.xavier_normal_(conv.weight, gain=0.1)
            else:
                nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # Conv2d's bias is optional in general, never here
            self.add_module(f"conv{k}", conv)

    def forward(self, x: Tensor) -> Tensor:
        *convs, last = self.children()
        for conv in convs:
            x = torch.cat([x, functional.leaky_relu(conv(x), SLOPE)], 1)
        return last(x)  # type: ignore[no-any-return]


class InvBlock(nn.Module):
    """One affine coupling of the channels 3 | rest (section 3.2, Eq. 2 to 4)::

        downscale                               upscale
        y1 = x1 + F(x2)                         s  = c tanh(H(y1) / 2)
        s  = c tanh(H(y1) / 2)                  x2 = (y2 - G(y1)) exp(-s)
        y2 = x2 exp(s) + G(y1)                  x1 = y1 - F(x2)

    F, G and H, as the authors' checkpoints call them, are the paper's phi, eta and rho. The authors compute s as
    c (2 sigmoid(H) - 1), which is the same number; tanh loses no digits near zero.
    """

    def __init__(self, channels: int, growth: int, clamp: float) -> None:
        super().__init__()
        self.F = DenseBlock(channels - 3, 3, growth)
        self.G = DenseBlock(3, channels - 3, growth)
        self.H = DenseBlock(3, channels - 3, growth)
        self.clamp = clamp

    def downscale(self, u: Tensor) -> Tensor:
        x1, x2 = torch.split(u, [3, u.shape[1] - 3], 1)
        y1 = x1 + self.F(x2)
        log_scale, shift = self._affine(y1)
        y2 = x2 * torch.exp(log_scale) + shift
        return torch.cat([y1, y2], 1)

    def upscale(self, u: Tensor) -> Tensor:
        y1, y2 = torch.split(u, [3, u.shape[1] - 3], 1)
        log_scale, shift = self._affine(y1)
        x2 = (y2 - shift) * torch.exp(-log_scale)
        x1 = y1 - self.F(x2)
        return torch.cat([x1, x2], 1)

    def _affine(self, y1: Tensor) -> tuple[Tensor, Tensor]:
        return self._log_scale(y1), self.G(y1)

    def _log_scale(self, y1: Tensor) -> Tensor:
        return self.clamp * torch.tanh(self.H(y1) / 2)


class IRN(nn.Module):
    """The whole network: for each factor of two, one Haar transform and then InvBlocks::

        x (3, H, W) -> Haar -> (12, H/2, W/2) -> InvBlocks -> Haar -> (48, H/4, W/4) -> InvBlocks -> y (3) | z (45)

    Attributes:
        config: the shape of the network.
        name, revision: what its weights are called (`irn-x4`, `1`); small pictures remember it.
        temperatures: the range of standard deviations of the drawn latents that it was trained with.
    """

    def __init__(self, config: IRNConfig, name: str = "unnamed", revision: str = "0") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.revision = revision
        self.temperatures = (1.0, 1.0)
        self.operations = nn.ModuleList()
        channels = 3
        for count in config.blocks:
            channels *= 4
            self.operations.append(Haar())
            self.operations.extend(InvBlock(channels, config.growth, config.clamp) for _ in range(count))

    def downscale(self, x: Tensor) -> LowHigh:
        """Make a picture small.

        Args:
            x: (B, 3, H, W) float, RGB, nominally in [0, 1]; H and W multiples of the scale s.

        Returns:
            y: (B, 3, H/s, W/s), the small picture, near [0, 1] but neither clamped nor rounded;
            z: (B, 3 s^2 - 3, H/s, W/s), the latent, near N(0, 1) once trained.

        Raises:
            ValueError: `x` is of another shape.
        """
        scale = self.config.scale
        if x.dim() != 4 or x.shape[1] != 3 or x.shape[2] % scale or x.shape[3] % scale:
            raise ValueError(f"expected (B, 3, H, W) with H and W multiples of {scale}, not {tuple(x.shape)}")
        for operation in self.operations:
            x = operation.downscale(x)  # type: ignore[operator]
        return LowHigh(x[:, :3], x[:, 3:])

    def upscale(self, y: Tensor, z: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Make it large again: the exact inverse of `downscale`.

        Args:
            y: (B, 3, h, w) float, RGB, nominally in [0, 1].
            z: (B, 3 s^2 - 3, h, w) float; the latent kept from `downscale`, or drawn. Where None, its mean, 0.
            generator: draws z from N(0, 1) instead; of the device that `y` is on.

        Returns:
            x: (B, 3, s h, s w), RGB, near [0, 1] but not clamped.

        Raises:
            ValueError: the shapes do not fit each other, or there are both `z` and `generator`.
        """
        if z is not None and generator is not None:
            raise ValueError("expected z, or a generator to draw it, not both")
        expected = (y.shape[0], self.config.latent_channels, *y.shape[2:])
        if generator is not None:
            z = torch.randn(expected, generator=generator, dtype=y.dtype, device=y.device)
        elif z is None:
            z = y.new_zeros(expected)
        if y.dim() != 4 or y.shape[1] != 3 or tuple(z.shape) != expected:
            raise ValueError(f"expected y (B, 3, h, w) and z {expected}, not {tuple(y.shape)} and {tuple(z.shape)}")
        u = torch.cat([y, z], 1)
        for operation in reversed(self.operations):
            u = operation.upscale(u)  # type: ignore[operator]
        return u


class _StraightThrough(torch.autograd.Function):
    """Clamping and rounding whose gradient is taken to be 1 everywhere, outside [0, 1] too, as the authors' is."""

    @staticmethod
    def forward(ctx: object, y: Tensor) -> Tensor:
        return torch.round(y.clamp(0, 1) * 255) / 255

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


def quantise(y: Tensor) -> Tensor:
    """Clamp a picture to [0, 1] and round it to the 256 levels of an 8-bit file; the gradient passes straight through.

    Section 3.3, "Quantization".

    Args:
        y: float tensor of any shape.

    Returns:
        The nearest of 0/255, 1/255 ... 255/255, same shape and dtype.
    """
    return _StraightThrough.apply(y)  # type: ignore[no-any-return, no-untyped-call]
