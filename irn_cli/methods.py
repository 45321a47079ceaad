"""What can be measured: anything that makes pictures small and large again.

A method is a class with the few members of `Method`; `load_methods` makes those that a command line names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from irn_cli import resize
from irn_cli.dataset import Original, unambiguous
from irn_cli.errors import UsageError
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.weights import DEFAULT_MODELS, load_model

BASELINES = {"bicubic": resize.bicubic, "lanczos": resize.lanczos, "area": resize.area}


@dataclass(frozen=True, eq=False)
class Small:
    """What a method keeps of a picture, and restores it from."""

    picture: Picture | None  # the small picture; None where there is none to look at
    source: bytes | Path | None = None  # what it is restored from, where that is not the picture
    nbytes: int | None = None  # of the file that is kept; where None, that of the picture as PNG


class Method(Protocol):
    """Something that makes pictures small and large again."""

    @property
    def name(self) -> str:
        """What the results call it."""

    @property
    def scale(self) -> int:
        """How many times smaller each side becomes."""

    @property
    def draws(self) -> bool:
        """Whether what it restores depends on a draw of the latent."""

    @property
    def busy(self) -> bool:
        """Whether it keeps the whole device busy with one picture; others work on several pictures at once."""

    @property
    def facts(self) -> dict[str, Any]:
        """What JSON says of it: its `kind`; where it has them, `parameters`, `revision`, `weights_hash` and others."""

    def downscale(self, original: Original) -> Small:
        """Make a picture, whose sides are multiples of the scale, small."""

    def upscale(self, small: Small, *, seed: int, temperature: float, sample: int) -> Picture:
        """Make what `downscale` gave large again."""


@dataclass(frozen=True)
class Network:
    """A model as a method, run as `irn downscale` and `irn upscale` run it."""

    name: str
    rescaler: Rescaler
    draws = True
    busy = True

    @property
    def scale(self) -> int:
        return self.rescaler.scale

    @property
    def facts(self) -> dict[str, Any]:
        model = self.rescaler.model
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return {
            "kind": "model",
            "parameters": parameters,
            "revision": model.revision,
            "weights_hash": self.rescaler.hash,
        }

    def downscale(self, original: Original) -> Small:
        return Small(self.rescaler.downscale(original.picture))

    def upscale(self, small: Small, *, seed: int, temperature: float, sample: int) -> Picture:
        assert small.picture
        return self.rescaler.upscale(small.picture, seed=seed, temperature=temperature, sample=sample)


@dataclass(frozen=True)
class Baseline:
    """Plain interpolation both ways as a method."""

    name: str  # one of BASELINES
    scale: int
    draws = False
    busy = False

    @property
    def facts(self) -> dict[str, Any]:
        return {"kind": "baseline"}

    def downscale(self, original: Original) -> Small:
        height, width = original.picture.size
        return Small(self._resized(original.picture, (height // self.scale, width // self.scale)))

    def upscale(self, small: Small, *, seed: int = 0, temperature: float = 0, sample: int = 0) -> Picture:
        assert small.picture
        height, width = small.picture.size
        return self._resized(small.picture, (height * self.scale, width * self.scale))

    def _resized(self, picture: Picture, size: tuple[int, int]) -> Picture:
        x = torch.from_numpy(picture.pixels).movedim(2, 0).float()
        x = BASELINES[self.name](x, size).clamp_(0, 255).round_().byte()
        return Picture(x.movedim(0, 2).contiguous().numpy(), mode=picture.mode)


def load_methods(
    models: Sequence[str],
    baselines: Sequence[str] = (),
    scale: int | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    memory: str | int | None = None,
) -> list[Method]:
    """Load models and baselines of one scale; models of one name are told apart by their paths.

    Args:
        models: names or paths of weights. Where there are neither models nor baselines, the scale's own model.
        baselines: names out of BASELINES.
        scale: which one; the models' where None, and 4 where there are none.
        device: as `Rescaler`'s.
        precision: as `Rescaler`'s.
        memory: as `Rescaler`'s.

    Raises:
        UsageError: the scales differ, a method is given twice, or a name or option means nothing.
        WeightsError: weights are damaged.
        DeviceError: no such device.
    """
    if not models and not baselines:
        if (scale or 4) not in DEFAULT_MODELS:
            raise UsageError(f"no model is known for {scale}x: name one")
        models = [DEFAULT_MODELS[scale or 4]]
    loaded = [load_model(source) for source in models]
    scales = {model.config.scale for model in loaded} | ({scale} if scale else set())
    if len(scales) > 1:
        found = ", ".join(f"{source} is {model.config.scale}x" for source, model in zip(models, loaded, strict=True))
        raise UsageError(f"expected methods of one scale{f', {scale}x' if scale else ''}: {found}")
    at = max(scales, default=4)
    names = unambiguous([*(model.name for model in loaded), *baselines], [*models, *baselines])
    rescalers = [Rescaler(model, device, precision, memory) for model in loaded]
    networks = [Network(name, rescaler) for name, rescaler in zip(names, rescalers, strict=False)]
    return [*networks, *(Baseline(name, at) for name in baselines)]
