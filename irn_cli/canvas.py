"""A picture with what surrounds it, on its way through the network: 8-bit pixels in, 8-bit pixels out.

The latent is drawn for the whole picture, one row of the small one after another, so that neither device nor memory
limit nor tiles change a draw.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from irn_cli.border import Border
from irn_cli.device import trim_memory
from irn_cli.engine import Engine, Progress
from irn_cli.errors import InputError
from irn_cli.latent import Latent
from irn_cli.orientation import as_stored, as_upright
from irn_cli.picture import Pixels
from irn_cli.record import hash_pixels

HUGE = 24_000_000  # pixels: such a picture gets all the memory there is, and gives back what it no longer needs
_BAND = 64  # rows converted at a time between 8 bits and float32


@dataclass(frozen=True, eq=False)
class Canvas:
    """An original of some size, made small and large by an engine with a border around it, in some orientation."""

    engine: Engine
    border: Border  # of the picture as it lies in the network
    size: tuple[int, int]  # the original's (H, W), upright
    grey: bool = False  # whether what is restored has three equal channels
    orientation: int = 1  # in which it lies in the network: all pixels that come and go are upright

    @property
    def scale(self) -> int:
        return self.engine.scale

    def downscale(self, pixels: Pixels, progress: Progress | None = None) -> Pixels:
        """Make the original small."""
        pixels = as_stored(pixels, self.orientation)
        size = pixels.shape[0], pixels.shape[1]
        rows, columns = self.border.sources(size, self.scale)
        x = self.engine.new_map(len(rows), len(columns), 3)
        for top in range(0, len(rows), _BAND):
            band = pixels[rows[top : top + _BAND]].take(columns, 1)
            x[top : top + _BAND] = _sent(torch.from_numpy(band), x.device)  # to a GPU as bytes
            x[top : top + _BAND] /= 255
        u = self.engine.downscale(x, progress)  # (h, w, 3 s^2), border included
        small = -(-size[0] // self.scale), -(-size[1] // self.scale)
        return as_upright(to_pixels(u[self.border.rows :, self.border.columns :, :3], small), self.orientation)

    def upscale(self, small: Pixels, progress: Progress | None = None) -> Pixels:
        """Make a small picture large with the latent that is drawn by default."""
        return self.restore(self.draw(small), progress)

    def draw(self, small: Pixels, *, seed: int = 0, temperature: float = 1.0, sample: int = 0) -> Tensor:
        """A map of the small picture and a drawn latent, which depends on the seed, the sample and the pixels alone."""
        extended = self._extended(small)
        (height, width), channels = extended.shape[:2], 3 * self.scale**2
        key = hashlib.sha256(f"{seed} {hash_pixels(small)} {sample}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=True))
        u = self.engine.new_map(height, width, channels)
        for row, pixels in enumerate(extended):
            drawn = torch.randn(width, channels - 3, generator=generator) * temperature
            u[row] = _sent(torch.cat([torch.from_numpy(pixels) / 255, drawn], 1), u.device)
        return u

    def restore(self, u: Tensor, progress: Progress | None = None) -> Pixels:
        """What the network makes of a map, which is consumed."""
        x = self.engine.upscale(u, progress)
        if x.numel() > 3 * HUGE:
            trim_memory()
        return self.cut(x)

    def cut(self, x: Tensor) -> Pixels:
        """The network's large picture (s h, s w, 3), rounded, without the border, upright."""
        top, left = self.border.rows * self.scale, self.border.columns * self.scale
        size = self.size if self.orientation <= 4 else self.size[::-1]
        return as_upright(to_pixels(x[top:, left:], size, grey=self.grey), self.orientation)

    def with_latent(self, small: Pixels, latent: Latent) -> Tensor:
        """A map of the small picture and the latent that an earlier version kept, rounding undone.

        Raises:
            InputError: the latent is of another size.
        """
        extended = self._extended(small)
        (height, width), channels = extended.shape[:2], 3 * self.scale**2
        expected = (height, width, channels - 3)
        if latent.z.shape != expected or latent.rounding.shape != extended.shape:
            raise InputError(f"the latent does not fit: expected {expected}, found {latent.z.shape}")
        u = torch.empty(height, width, channels)
        u[..., :3] = torch.from_numpy(extended) / 255 + torch.from_numpy(latent.rounding)
        u[..., 3:] = torch.from_numpy(latent.z)
        return u

    def _extended(self, small: Pixels) -> Pixels:
        small = as_stored(small, self.orientation)
        rows, columns = self.border.sources((small.shape[0], small.shape[1]))
        extended: Pixels = small[rows][:, columns]
        return extended


def to_pixels(x: Tensor, size: tuple[int, int], *, grey: bool = False) -> Pixels:
    """The upper left (H, W) of a float map as 8-bit pixels; if grey, of the mean of its channels."""
    height, width = size
    on_gpu = x.device.type == "cuda"
    pixels = torch.empty(height, width, 3, dtype=torch.uint8, pin_memory=on_gpu)
    for top in range(0, height, _BAND):
        band = x[top : min(top + _BAND, height), :width] * 255
        if grey:
            band = band.mean(2, keepdim=True)
        pixels[top : top + _BAND].copy_(band.round_().clamp_(0, 255).to(torch.uint8), non_blocking=on_gpu)
    if on_gpu:
        torch.cuda.synchronize(x.device)
    return pixels.numpy()


def _sent(part: Tensor, device: torch.device) -> Tensor:
    """Part of a picture on the device; to a GPU it travels from page-locked memory, while the next part is made."""
    return part.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else part.to(device)
