"""Pictures made small and large again: padding, the latent, the network and rounding between two `Picture`s."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irn_cli.device import Precision, parse_memory, resolve_device, resolve_precision
from irn_cli.errors import InputError
from irn_cli.image import Picture
from irn_cli.model import IRN
from irn_cli.record import Record, Restored, hash_pixels
from irn_cli.weights import weights_hash

_BAND = 256  # rows converted at a time between 8 bits and float32


class Engine:
    """Stand-in until `engine.py` lands: the plain network on the whole picture."""

    def __init__(self, model: IRN, device: torch.device, precision: Precision, memory: int | None = None) -> None:
        self.model = model

    @torch.inference_mode()
    def downscale(self, x: Tensor, progress: Callable[[float], None] | None = None) -> Tensor:
        return torch.cat(self.model.downscale(x.permute(2, 0, 1)[None]), 1)[0].permute(1, 2, 0).contiguous()

    @torch.inference_mode()
    def upscale(self, u: Tensor, progress: Callable[[float], None] | None = None) -> Tensor:
        v = u.permute(2, 0, 1)[None]
        return self.model.upscale(v[:, :3], v[:, 3:])[0].permute(1, 2, 0).contiguous()


class Rescaler:
    """Makes pictures small and large again with one network::

        picture -> replicate-pad to a multiple of s -> downscale -> round y  -> small picture + record
                                                                 -> z (discarded)

        small picture + z drawn from N(0, T^2) -> upscale -> crop to the recorded size -> round -> picture

    Attributes:
        model: the network.
        hash: its weights' hash, which small pictures remember.
    """

    def __init__(
        self,
        model: IRN,
        device: str = "auto",
        precision: str = "auto",
        memory: str | int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Prepare a network for use.

        Args:
            model: the network; not changed.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            precision: of the convolutions: `auto`, `fp32` or `bf16`.
            memory: most bytes to use on the device, or a text such as `2GB`; None is what there is.
            progress: called with the share done, 0 to 1, of the picture at hand.

        Raises:
            UsageError: an option means nothing.
            DeviceError: no such device.
        """
        self.model = model
        self.hash = weights_hash(model.state_dict())
        self.progress = progress
        where = resolve_device(device)
        limit = parse_memory(memory) if isinstance(memory, str) else memory
        self._engine = Engine(model, where, resolve_precision(precision, where), limit)

    @property
    def scale(self) -> int:
        """How many times smaller or larger each side becomes."""
        return self.model.config.scale

    def downscale(self, picture: Picture) -> Picture:
        """Make a picture small.

        Args:
            picture: of any size; its right and bottom edges are repeated up to a multiple of the scale.

        Returns:
            The small picture, of ceil(size / scale), with the record that `upscale` needs.
        """
        u = self._engine.downscale(_to_map(picture.pixels, self.scale), self.progress)  # (h, w, 3 s^2)
        pixels = _to_pixels(u[..., :3], (u.shape[0], u.shape[1]))
        height, width = picture.size
        record = Record(
            scale=self.scale,
            width=width,
            height=height,
            mode=picture.mode,
            model=self.model.name,
            revision=self.model.revision,
            weights=self.hash,
            pixels=hash_pixels(pixels),
        )
        return dataclasses.replace(picture, pixels=pixels, mode="RGB", record=record)

    def upscale(self, picture: Picture, *, seed: int = 0, temperature: float = 1.0, sample: int = 0) -> Picture:
        """Make a small picture large again.

        Args:
            picture: the small picture. One without a record is only enlarged, `scale` times.
            seed: which latents to draw; equal seeds draw equal latents for equal small pictures.
            temperature: the latent's standard deviation; networks are trained for 1.
            sample: which of the draws of this seed, from 0.

        Returns:
            The large picture, of the recorded size and mode.

        Raises:
            InputError: the picture was made small by another factor than the network's.
        """
        record = picture.record if isinstance(picture.record, Record) else None
        warnings = list(picture.warnings)
        scale = self.scale
        if record and record.scale != scale:
            raise InputError(f"the picture was made {record.scale} times smaller; {self.model.name} restores {scale}x")
        size = picture.size[0] * scale, picture.size[1] * scale
        digest = hash_pixels(picture.pixels)
        if not record:
            warnings.append("has no record of irn: restoring a foreign picture is no better than interpolation")
        else:
            if record.weights != self.hash:
                warnings.append(
                    f"was made with other weights, {record.model} revision {record.revision} ({record.weights[:12]}): "
                    f"{self.model.name} ({self.hash[:12]}) will restore it badly"
                )
            if record.small_size != picture.size:
                warnings.append("has changed its size since it was made: what was hidden in it is lost")
            elif record.pixels != digest:
                warnings.append("has changed since it was made: what was hidden in its pixels is harmed")
            if record.small_size == picture.size:
                size = record.height, record.width
        u = self._draw(picture.pixels, digest, seed, temperature, sample)  # (h, w, 3 s^2)
        x = self._engine.upscale(u, self.progress)  # (s h, s w, 3)
        return dataclasses.replace(
            picture,
            pixels=_to_pixels(x, size),
            mode=record.mode if record else picture.mode,
            record=Restored(scale, self.model.name, self.model.revision, self.hash, seed, temperature, sample),
            warnings=tuple(warnings),
        )

    def _draw(self, pixels: NDArray[np.uint8], digest: str, seed: int, temperature: float, sample: int) -> Tensor:
        """The small picture beside its latent, drawn row after row: nothing but the seed and the pixels matters."""
        height, width = pixels.shape[:2]
        key = hashlib.sha256(f"{seed} {digest} {sample}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=True))
        channels = self.model.config.latent_channels
        u = torch.empty(height, width, 3 + channels)
        for row in range(height):
            u[row, :, :3] = torch.from_numpy(pixels[row]).float() / 255
            u[row, :, 3:] = torch.randn(width, channels, generator=generator) * temperature
        return u


def _to_map(pixels: NDArray[np.uint8], scale: int) -> Tensor:
    """8-bit pixels as float32 in [0, 1], the last row and column repeated up to multiples of the scale."""
    height, width = pixels.shape[:2]
    x = torch.empty(height + -height % scale, width + -width % scale, 3)
    for top in range(0, height, _BAND):
        band = slice(top, min(top + _BAND, height))
        x[band, :width] = torch.from_numpy(pixels[band])
        x[band].div_(255)
    x[:height, width:] = x[:height, width - 1 : width]
    x[height:] = x[height - 1]
    return x


def _to_pixels(x: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The upper left (H, W) of a float map, clamped to [0, 1] and rounded to 8 bits."""
    height, width = size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BAND):
        band = x[top : min(top + _BAND, height), :width]
        pixels[top : top + _BAND] = (band * 255).round_().clamp_(0, 255).to(torch.uint8).numpy()
    return pixels
