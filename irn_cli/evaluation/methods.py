"""What can be measured: anything that makes pictures small and large again.

A method is a class with the few members of `Method`; `load_methods` makes those that a command line names.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch

from irn_cli import resize
from irn_cli.errors import InputError, UsageError
from irn_cli.evaluation.codec import CodecName, encode_within
from irn_cli.evaluation.dataset import Original, unambiguous
from irn_cli.evaluation.matching import Folder
from irn_cli.evaluation.upscaler import SuperResolutionNetwork, load_upscaler
from irn_cli.image import read
from irn_cli.paths import byte_count, is_directory, to_path
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.weights import DEFAULT_MODELS, load_model

CODECS: tuple[CodecName, ...] = get_args(CodecName)
BASELINES = {"bicubic": resize.bicubic, "lanczos": resize.lanczos, "area": resize.area}


@dataclass(frozen=True, eq=False)
class Small:
    """What a method keeps of a picture, and restores it from."""

    picture: Picture | None  # the small picture; None where there is none to look at
    source: bytes | Picture | None = None  # what it is restored from, where that is not the picture
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
    refine: int = 0  # iterations
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
            **({"refine": self.refine} if self.refine else {}),
        }

    def downscale(self, original: Original) -> Small:
        return Small(self.rescaler.downscale(original.picture, refine=self.refine))

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


@dataclass(frozen=True)
class Codec:
    """The whole picture, encoded into as many bytes as the first method's small picture takes."""

    name: CodecName
    scale: int
    draws = False
    busy = False

    @property
    def facts(self) -> dict[str, Any]:
        return {"kind": "codec"}

    def downscale(self, original: Original) -> Small:
        data = encode_within(original.picture, self.name, original.budget.result())
        return Small(None, data, len(data))

    def upscale(self, small: Small, *, seed: int, temperature: float, sample: int) -> Picture:
        assert isinstance(small.source, bytes)
        return read(io.BytesIO(small.source))


@dataclass(frozen=True)
class Given:
    """What another program made of the pictures: the restored ones, and the small ones where they are there too."""

    name: str
    scale: int
    restored: Folder
    small: Folder | None
    draws = False
    busy = False

    @property
    def facts(self) -> dict[str, Any]:
        small = str(self.small.directory) if self.small else None
        return {"kind": "results", "directory": str(self.restored.directory), "small_directory": small}

    def downscale(self, original: Original) -> Small:
        height, width = original.picture.size
        restored = self._read(self.restored, original, [(height, width), original.size])
        restored = Picture(np.ascontiguousarray(restored.pixels[:height, :width]))
        if not self.small:
            return Small(None, restored)
        small = self._read(self.small, original, [(height // self.scale, width // self.scale)])
        path = self.small.find(original.name, original.dataset)
        return Small(Picture(small.pixels), restored, byte_count(path))

    def upscale(self, small: Small, *, seed: int, temperature: float, sample: int) -> Picture:
        assert isinstance(small.source, Picture)
        return small.source

    def _read(self, folder: Folder, original: Original, sizes: Sequence[tuple[int, int]]) -> Picture:
        path = folder.find(original.name, original.dataset)
        picture = read(path)
        if picture.size not in sizes:
            expected = " or ".join(f"{width} x {height}" for height, width in dict.fromkeys(sizes))
            height, width = picture.size
            raise InputError(f"{path}: expected {expected} pixels, found {width} x {height}")
        return picture


@dataclass(frozen=True)
class SuperResolution:
    """Bicubic small pictures, made large by a network."""

    name: str
    network: SuperResolutionNetwork
    draws = False
    busy = True

    @property
    def scale(self) -> int:
        return self.network.scale

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "kind": "upscaler",
            "parameters": self.network.parameters,
            "weights_hash": self.network.hash,
            "architecture": self.network.architecture,
            "tile": self.network.tile,
        }

    def downscale(self, original: Original) -> Small:
        return Small(Picture(original.guide, mode=original.picture.mode))

    def upscale(self, small: Small, *, seed: int, temperature: float, sample: int) -> Picture:
        assert small.picture
        return Picture(self.network(small.picture.pixels), mode=small.picture.mode)


class Remembered:
    """A method that does not make the same pictures twice: the small ones, and the first draw of the restored ones."""

    def __init__(self, method: Method, room: int) -> None:
        """Wrap a method.

        Args:
            method: what makes the pictures.
            room: most bytes of pixels to keep; what is made once these are full is made again when it is asked for.
        """
        self.name, self.scale, self.draws, self.busy = method.name, method.scale, method.draws, method.busy
        self._method = method
        self._room = room
        self._small: dict[tuple[str, str], Small] = {}  # by data set and picture
        self._restored: dict[tuple[Small, int, float], Picture] = {}  # by seed and temperature too

    @property
    def facts(self) -> dict[str, Any]:
        return self._method.facts

    def downscale(self, original: Original) -> Small:
        key = original.dataset, original.name
        if key in self._small:
            return self._small[key]
        small = self._method.downscale(original)
        if all(self._fits(part) for part in (small.picture, small.source)):
            self._small[key] = small
        return small

    def upscale(self, small: Small, *, seed: int, temperature: float, sample: int) -> Picture:
        key = small, seed, temperature
        if sample == 0 and key in self._restored:
            return self._restored[key]
        restored = self._method.upscale(small, seed=seed, temperature=temperature, sample=sample)
        if sample == 0 and self._fits(restored):
            self._restored[key] = restored
        return restored

    def _fits(self, part: Picture | bytes | None) -> bool:
        """Take room for something; threads that ask at the same time may take a picture too many."""
        size = part.pixels.nbytes if isinstance(part, Picture) else len(part or b"")
        fits = size <= self._room
        self._room -= size if fits else 0
        return fits


def find_results(text: str, scale: int) -> Given:
    """Turn `NAME=DIR` or `NAME=DIR,LRDIR` into a method.

    Raises:
        UsageError: the text is something else, or a folder is not there or has no picture in it.
    """
    name, equals, directories = text.partition("=")
    restored, comma, small = directories.rpartition(",")
    if not comma or is_directory(to_path(directories)):
        restored, small = directories, ""
    if not (name and equals and restored):
        raise UsageError(f"--results {text}: expected NAME=DIR or NAME=DIR,LRDIR")
    lows = Folder(to_path(small), scale, name, ["small"]) if small else None
    return Given(name, scale, Folder(to_path(restored), scale, name, ["restored"]), lows)


def load_methods(
    models: Sequence[str],
    baselines: Sequence[str] = (),
    scale: int | None = None,
    *,
    upscalers: Sequence[Path] = (),
    results: Sequence[str] = (),
    refine: int = 0,
    device: str = "auto",
    precision: str = "auto",
    memory: str | int | None = None,
) -> list[Method]:
    """Load methods of one scale; models of one name are told apart by their paths.

    Args:
        models: names or paths of weights. The scale's own model where nothing is named that makes small pictures.
        baselines: names out of BASELINES and CODECS; codecs come last, since they are compared with the first method.
        scale: which one; that of models and upscalers where None, and 4 where there are none.
        upscalers: files of super-resolution networks.
        results: other programs' pictures, as `find_results` takes them.
        refine: where not 0, each model is measured a second time, with small pictures refined in so many iterations.
        device: as `Rescaler`'s.
        precision: as `Rescaler`'s.
        memory: as `Rescaler`'s.

    Raises:
        UsageError: the scales differ, a method is given twice, nothing can be refined, or a name or option means
            nothing.
        WeightsError: weights are damaged.
        DeviceError: no such device.
    """
    codecs = [name for name in CODECS if name in baselines]
    plain = [name for name in baselines if name not in CODECS]
    if not models and not plain and not upscalers and (codecs or not results):
        if (scale or 4) not in DEFAULT_MODELS:
            raise UsageError(f"no model is known for {scale}x: name one")
        models = [DEFAULT_MODELS[scale or 4]]
    if refine and not models:
        raise UsageError("--refine needs a model: name one with -m")
    loaded = [load_model(source) for source in models]
    enlargers = [load_upscaler(path, device, memory) for path in upscalers]
    found = {source: model.config.scale for source, model in zip(models, loaded, strict=True)}
    found |= {str(path): upscaler.scale for path, upscaler in zip(upscalers, enlargers, strict=True)}
    scales = {*found.values()} | ({scale} if scale else set())
    if len(scales) > 1:
        told = ", ".join(f"{source} is {factor}x" for source, factor in found.items())
        raise UsageError(f"expected methods of one scale{f', {scale}x' if scale else ''}: {told}")
    at = max(scales, default=4)
    given = [find_results(text, at) for text in results]
    others = [*baselines, *(method.name for method in given)]
    names = unambiguous(
        [*(model.name for model in loaded), *(path.stem for path in upscalers), *others],
        [*models, *map(str, upscalers), *others],
    )
    rescalers = [Rescaler(model, device, precision, memory) for model in loaded]
    networks = [Network(name, rescaler) for name, rescaler in zip(names, rescalers, strict=False)]
    refined = [Network(f"{one.name} + {refine}", one.rescaler, refine) for one in networks if refine]
    enlarged = [SuperResolution(name, one) for name, one in zip(names[len(networks) :], enlargers, strict=False)]
    interpolated = [Baseline(name, at) for name in plain]
    return [*networks, *refined, *enlarged, *interpolated, *given, *(Codec(name, at) for name in codecs)]
