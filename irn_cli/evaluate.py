"""How good a method is on a folder of pictures, by the papers' protocol: a row of scores a picture, and their summary.

The protocol: a picture is cropped to a multiple of the scale; the small one is rounded to 8 bits; the restored one is
clamped and rounded to 8 bits; PSNR and SSIM are taken on luma with a few pixels cropped off each border, and averaged
over the pictures. Grey pictures are measured on their own levels. Transparency is left out.

Training's validation calls `evaluate` as `irn eval` does, so that both give the same numbers.
"""

import io
import math
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from irn_cli import resize
from irn_cli.artifact import find_artifact
from irn_cli.errors import InputError, IrnError, UsageError
from irn_cli.image import read, write
from irn_cli.inputs import walk
from irn_cli.metrics import WINDOW, crop_border, luma, psnr, ssim
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.weights import DEFAULT_MODELS, load_model

# The papers measure a picture of one channel as it is. Copies of this one in a format without grey (WebP) no longer
# tell that it has one; `man` beside it always had three, equal ones, and counts as colour.
_GREY = {("set14", "bridge")}

BASELINES = {"bicubic": resize.bicubic, "lanczos": resize.lanczos, "area": resize.area}


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

    def downscale(self, picture: Picture) -> Picture:
        """Make a picture, whose sides are multiples of the scale, small."""

    def upscale(self, picture: Picture, *, seed: int, temperature: float, sample: int) -> Picture:
        """Make what `downscale` gave large again."""


@dataclass(frozen=True)
class Network:
    """A model as a method, run as `irn downscale` and `irn upscale` run it."""

    name: str
    rescaler: Rescaler
    draws = True

    @property
    def scale(self) -> int:
        return self.rescaler.scale

    def downscale(self, picture: Picture) -> Picture:
        return self.rescaler.downscale(picture)

    def upscale(self, picture: Picture, *, seed: int, temperature: float, sample: int) -> Picture:
        return self.rescaler.upscale(picture, seed=seed, temperature=temperature, sample=sample)


@dataclass(frozen=True)
class Baseline:
    """Plain interpolation both ways as a method."""

    name: str  # one of BASELINES
    scale: int
    draws = False

    def downscale(self, picture: Picture) -> Picture:
        height, width = picture.size
        return self._resized(picture, (height // self.scale, width // self.scale))

    def upscale(self, picture: Picture, *, seed: int, temperature: float, sample: int) -> Picture:
        height, width = picture.size
        return self._resized(picture, (height * self.scale, width * self.scale))

    def _resized(self, picture: Picture, size: tuple[int, int]) -> Picture:
        x = torch.from_numpy(picture.pixels).movedim(2, 0).float()
        x = BASELINES[self.name](x, size).clamp_(0, 255).round_().byte()
        return Picture(x.movedim(0, 2).contiguous().numpy(), mode=picture.mode)


@dataclass(frozen=True)
class DataSet:
    """Pictures to measure on."""

    name: str
    directory: Path
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class Score:
    """How well a method did on one picture. PSNR is in dB, infinite where nothing differs; means over the draws."""

    method: str
    scale: int
    dataset: str
    name: str  # the picture's path within its data set
    width: int  # as measured: a multiple of the scale
    height: int
    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    psnr_y_samples: tuple[float, ...]  # draw by draw
    lr_psnr_y: float  # the small picture against bicubic: how ordinary it looks
    lr_ssim_y: float
    lr_worst_patch: float  # largest mean deviation of one of its 8x8 patches from bicubic in any channel, levels
    lr_bits_per_pixel: float  # of its PNG file, by its own pixels
    seconds: float  # to make it small and large again, once; reading and measuring left out


@dataclass(frozen=True)
class Failure:
    """A picture that could not be measured, and why."""

    dataset: str
    name: str
    method: str | None  # the one that failed on it; None where the picture is at fault
    error: str


@dataclass(frozen=True)
class Summary:
    """How well a method did on a data set: means over its pictures."""

    method: str
    scale: int
    dataset: str
    pictures: int
    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    lr_psnr_y: float
    lr_ssim_y: float
    lr_worst_patch: float  # the worst of all
    lr_bits_per_pixel: float
    psnr_y_std_over_samples: float | None  # standard deviation of the set's mean from draw to draw; None for one draw
    seconds_per_picture: float


@dataclass(frozen=True, eq=False)
class Original:
    """A picture as it is measured, and the small picture that an ordinary program would make of it."""

    picture: Picture  # cropped to a multiple of the scale; pixels and mode only
    guide: NDArray[np.uint8]  # (H/s, W/s, 3), bicubic, rounded


def find_data_set(directory: Path, name: str | None = None) -> DataSet:
    """Find the pictures in a folder and its sub-folders, in the order of their names.

    Args:
        directory: the folder.
        name: what the results call the set; the folder's name where None.

    Raises:
        UsageError: there is no such folder, or no picture in it.
    """
    if not directory.is_dir():
        raise UsageError(f"no folder {directory}")
    found = tuple(walk(directory))
    if not found:
        raise UsageError(f"no pictures in {directory}")
    return DataSet(name or directory.resolve().name, directory, found)


def find_data_sets(directories: Sequence[Path]) -> list[DataSet]:
    """Find several data sets; folders of one name are told apart by their paths.

    Raises:
        UsageError: one is no folder, has no picture in it, or is given twice.
    """
    names = _unambiguous([path.resolve().name for path in directories], [str(path) for path in directories])
    return [find_data_set(path, name) for path, name in zip(directories, names, strict=True)]


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
    names = _unambiguous([*(model.name for model in loaded), *baselines], [*models, *baselines])
    rescalers = [Rescaler(model, device, precision, memory) for model in loaded]
    networks = [Network(name, rescaler) for name, rescaler in zip(names, rescalers, strict=False)]
    return [*networks, *(Baseline(name, at) for name in baselines)]


def _unambiguous(names: Sequence[str], longer: Sequence[str]) -> list[str]:
    """Each name, or its longer form where several things bear it."""
    chosen = [long if names.count(name) > 1 else name for name, long in zip(names, longer, strict=True)]
    for name in chosen:
        if chosen.count(name) > 1:
            raise UsageError(f"{name} is given twice")
    return chosen


def evaluate(
    methods: Sequence[Method],
    datasets: Iterable[DataSet],
    *,
    crop: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    samples: int = 1,
) -> Iterator[Score | Failure]:
    """Measure every method on every picture; rows come data set by data set, picture by picture, method by method.

    While a method works, the next picture is read and the last one's results are measured, in two threads.

    Args:
        methods: at least one; all of one scale, each with a name of its own.
        datasets: what to measure on.
        crop: pixels taken off each border before the restored picture is measured; None is the scale, as in the papers.
        seed: which latents to draw.
        temperature: their standard deviation; 0 measures the latent's mean.
        samples: draws a picture; the scores are means over them.

    Yields:
        A `Score` for each picture and method; a `Failure`, as soon as it is known, for a picture that cannot be read or
        is too small, and for a method that fails on one.
    """
    scale = methods[0].scale
    assert all(method.scale == scale for method in methods)
    crop = scale if crop is None else crop
    jobs = [(dataset, path) for dataset in datasets for path in dataset.pictures]
    pool = ThreadPoolExecutor(2, thread_name_prefix="irn-evaluate")
    try:
        ahead = deque(pool.submit(load, *job, scale, crop) for job in jobs[:1])
        behind: deque[tuple[str, str, _Trial]] = deque()
        for number, (dataset, path) in enumerate(jobs, 1):
            ahead.extend(pool.submit(load, *job, scale, crop) for job in jobs[number : number + 1])
            name = path.relative_to(dataset.directory).as_posix()
            try:
                original = ahead.popleft().result()
            except IrnError as error:
                yield Failure(dataset.name, name, None, str(error))
                continue
            for method in methods:
                try:
                    trial = _try(method, original, pool, crop, seed, temperature, samples if method.draws else 1)
                except IrnError as error:
                    yield Failure(dataset.name, name, method.name, str(error))
                    continue
                behind.append((dataset.name, name, trial))
                if len(behind) > 1:
                    yield _score(*behind.popleft())
        yield from (_score(*last) for last in behind)
    finally:
        pool.shutdown(cancel_futures=True)


def load(dataset: DataSet, path: Path, scale: int, crop: int) -> Original:
    """Read a picture and make of it what is measured.

    Args:
        dataset: the set that it belongs to.
        path: the picture.
        scale: how many times smaller the small picture is to be.
        crop: pixels that will be taken off each border of the restored picture.

    Raises:
        InputError: it cannot be read, or is too small.
    """
    picture = read(path)
    height, width = (side - side % scale for side in picture.size)
    need = max(WINDOW, -(-(WINDOW + 2 * crop) // scale)) * scale
    if min(height, width) < need:
        found = " x ".join(map(str, picture.size[::-1]))
        raise InputError(f"{path} is too small to be measured: expected at least {need} pixels a side, found {found}")
    mode = "L" if (dataset.name.lower(), path.stem.lower()) in _GREY else picture.mode
    cropped = Picture(np.ascontiguousarray(picture.pixels[:height, :width]), mode=mode)
    return Original(cropped, resize.bicubic_small(cropped.pixels, scale).round().astype(np.uint8))


def summarise(scores: Iterable[Score]) -> list[Summary]:
    """Average the scores of each method over each data set, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.dataset, score.method), []).append(score)
    return [_summary(group) for group in groups.values()]


def _summary(scores: list[Score]) -> Summary:
    def mean(name: str) -> float:
        return statistics.fmean(getattr(score, name) for score in scores)

    draws = [statistics.fmean(draw) for draw in zip(*(score.psnr_y_samples for score in scores), strict=True)]
    return Summary(
        method=scores[0].method,
        scale=scores[0].scale,
        dataset=scores[0].dataset,
        pictures=len(scores),
        psnr_y=mean("psnr_y"),
        ssim_y=mean("ssim_y"),
        psnr_rgb=mean("psnr_rgb"),
        lr_psnr_y=mean("lr_psnr_y"),
        lr_ssim_y=mean("lr_ssim_y"),
        lr_worst_patch=max(score.lr_worst_patch for score in scores),
        lr_bits_per_pixel=mean("lr_bits_per_pixel"),
        psnr_y_std_over_samples=_spread(draws),
        seconds_per_picture=mean("seconds"),
    )


def _spread(draws: Sequence[float]) -> float | None:
    """The standard deviation between draws, which `statistics.stdev` refuses to take of infinities."""
    if len(draws) < 2:
        return None
    if min(draws) == max(draws):
        return 0.0
    return statistics.stdev(draws) if max(draws) < math.inf else math.inf


class _Restored(NamedTuple):
    """Measured on one draw."""

    psnr_y: float
    ssim_y: float
    psnr_rgb: float


class _Small(NamedTuple):
    """Measured on a small picture; named as in `Score`."""

    lr_psnr_y: float
    lr_ssim_y: float
    lr_worst_patch: float
    lr_bits_per_pixel: float


@dataclass(frozen=True, eq=False)
class _Trial:
    """One method on one picture: the network's work is done, the measuring goes on in a pool."""

    method: Method
    original: Original
    seconds: float
    small: Future[_Small]
    draws: tuple[Future[_Restored], ...]


def _try(
    method: Method, original: Original, pool: Executor, crop: int, seed: int, temperature: float, samples: int
) -> _Trial:
    start = time.perf_counter()
    small = method.downscale(original.picture)
    seconds = time.perf_counter() - start
    measured_small = pool.submit(_measure_small, original, small)
    draws = []
    for sample in range(samples):
        start = time.perf_counter()
        restored = method.upscale(small, seed=seed, temperature=temperature, sample=sample)
        seconds += (time.perf_counter() - start) / samples
        draws.append(pool.submit(_measure_restored, original, restored, crop))
    return _Trial(method, original, seconds, measured_small, tuple(draws))


def _score(dataset: str, name: str, trial: _Trial) -> Score:
    """Wait for the measurements and put them together."""
    draws = [draw.result() for draw in trial.draws]
    height, width = trial.original.picture.size
    return Score(
        method=trial.method.name,
        scale=trial.method.scale,
        dataset=dataset,
        name=name,
        width=width,
        height=height,
        psnr_y=statistics.fmean(draw.psnr_y for draw in draws),
        ssim_y=statistics.fmean(draw.ssim_y for draw in draws),
        psnr_rgb=statistics.fmean(draw.psnr_rgb for draw in draws),
        psnr_y_samples=tuple(draw.psnr_y for draw in draws),
        seconds=trial.seconds,
        **trial.small.result()._asdict(),
    )


def _measure_restored(original: Original, restored: Picture, crop: int) -> _Restored:
    a, b = crop_border(original.picture.pixels, crop), crop_border(restored.pixels, crop)
    y = partial(luma, full_range=original.picture.mode == "L")
    return _Restored(psnr(a, b, of=y), ssim(a, b, of=y), psnr(a, b))


def _measure_small(original: Original, small: Picture) -> _Small:
    y = partial(luma, full_range=original.picture.mode == "L")
    file = io.BytesIO()
    write(file, small)
    height, width = small.size
    return _Small(
        lr_psnr_y=psnr(original.guide, small.pixels, of=y),
        lr_ssim_y=ssim(original.guide, small.pixels, of=y),
        lr_worst_patch=find_artifact(small.pixels, original.guide.astype(np.float32)).deviation,
        lr_bits_per_pixel=8 * len(file.getvalue()) / (height * width),
    )
