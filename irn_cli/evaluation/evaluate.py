"""How good methods are on folders of pictures, by the papers' protocol: a row of scores for each picture and method.

The protocol: a picture is cropped to a multiple of the scale; the small one is rounded to 8 bits; the restored one is
clamped and rounded to 8 bits; it is measured with a few pixels cropped off each border, PSNR and SSIM on luma; figures
are averaged over the pictures. Grey pictures are measured on their own levels. Transparency is left out.

Training's validation calls `evaluate` as `irn eval` does, so that both give the same numbers.
"""

import io
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from irn_cli.artifact import find_artifact
from irn_cli.colour import colour_difference
from irn_cli.errors import InputError, IrnError
from irn_cli.evaluation.dataset import DataSet, Original, find_data_set, load
from irn_cli.evaluation.methods import Method, Network, Small
from irn_cli.evaluation.scores import Failure, Score
from irn_cli.image import write
from irn_cli.metrics import METRICS, Metric, crop_border, luma, psnr, ssim
from irn_cli.paths import below
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.threads import TorchPool

_MOST_WORKERS = 16  # each holds a picture or two in memory


def evaluate(
    methods: Sequence[Method | Rescaler],
    datasets: Iterable[DataSet | str | os.PathLike[str]],
    *,
    metrics: Sequence[Metric] = (),
    crop: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    samples: int = 1,
    workers: int | None = None,
) -> Iterator[Score | Failure]:
    """Measure every method on every picture; rows come data set by data set, picture by picture, method by method.

    Methods that keep the device busy run one at a time in the calling thread. Meanwhile pictures are read ahead, other
    methods run and results are measured in threads of a pool. The figures do not depend on how many those are.

    Args:
        methods: at least one; all of one scale, each with a name of its own. A `Rescaler` has that of its model.
        datasets: what to measure on: data sets, or folders of pictures.
        metrics: what to measure besides `METRICS`.
        crop: pixels taken off each border before the restored picture is measured; None is the scale, as in the papers.
        seed: which latents to draw.
        temperature: their standard deviation; 0 measures the latent's mean.
        samples: draws per picture; the scores are means over them.
        workers: threads of the pool; as many as torch may use where None.

    Yields:
        A `Score` for each picture and method; a `Failure` for a picture that cannot be read or is too small, and for a
        method that fails on one.

    Raises:
        UsageError: there is no such folder, or no picture in it.
    """
    measurable = [Network(one.model.name, one) if isinstance(one, Rescaler) else one for one in methods]
    scale = measurable[0].scale
    assert all(method.scale == scale for method in measurable)
    crop = scale if crop is None else crop
    draw = _Draw(seed, temperature, samples)
    measured = (*METRICS, *metrics)
    sets = [one if isinstance(one, DataSet) else find_data_set(Path(one)) for one in datasets]
    jobs = [(dataset, path) for dataset in sets for path in dataset.pictures]
    workers = workers or max(2, min(torch.get_num_threads(), _MOST_WORKERS))
    with TorchPool(workers, "irn-evaluate") as pool:
        ahead = deque(pool.submit(load, *job, scale, crop) for job in jobs[:workers])
        behind: deque[Callable[[], Score | Failure]] = deque()  # each waits for a row and gives it
        for number, (dataset, path) in enumerate(jobs, workers):
            reading = ahead.popleft()
            ahead.extend(pool.submit(load, *job, scale, crop) for job in jobs[number : number + 1])
            try:
                original = reading.result()
            except IrnError as error:
                name = below(path, dataset.directory).as_posix()
                behind.append(partial(Failure, dataset.name, name, None, str(error)))
                continue
            for method in measurable:
                trial = _Trial(method, original, crop, draw, measured, sets_budget=method is measurable[0])
                behind.append(trial.start(pool))
                while len(behind) > 2 * workers:
                    yield behind.popleft()()
        while behind:
            yield behind.popleft()()


class _Draw(NamedTuple):
    """Which latents are drawn."""

    seed: int
    temperature: float
    samples: int


class _SmallFigures(NamedTuple):
    """Measured on a small picture; named as in `Score`."""

    lr_psnr_y: float | None
    lr_ssim_y: float | None
    lr_worst_patch: float | None
    lr_delta_e: float | None
    lr_delta_e_95: float | None
    lr_bits_per_pixel: float | None
    bytes: int | None
    bits_per_pixel: float | None


@dataclass(frozen=True, eq=False)
class _Trial:
    """One method on one picture."""

    method: Method
    original: Original
    crop: int
    draw: _Draw
    metrics: Sequence[Metric]
    sets_budget: bool  # whether its file is what codecs are held against

    def start(self, pool: Executor) -> Callable[[], Score | Failure]:
        """Do what needs this thread and leave the rest to the pool; returns a function that waits for the row."""
        if not self.method.busy:
            return pool.submit(self._alone).result
        try:
            return self._run(pool)
        except IrnError as error:
            return partial(self._failure, error)

    def _alone(self) -> Score | Failure:
        """All of it in this thread."""
        try:
            return self._run(_Here())()
        except IrnError as error:
            return self._failure(error)
        finally:
            self._close_budget()

    def _run(self, pool: Executor) -> Callable[[], Score | Failure]:
        """Let the method work, and the pool measure what it gives."""
        start = time.perf_counter()
        small = self.method.downscale(self.original)
        seconds = time.perf_counter() - start
        small_figures = pool.submit(self._measure_small, small)
        samples = self.draw.samples if self.method.draws else 1
        figures = []
        for sample in range(samples):
            start = time.perf_counter()
            restored = self.method.upscale(small, seed=self.draw.seed, temperature=self.draw.temperature, sample=sample)
            seconds += (time.perf_counter() - start) / samples
            figures.append(pool.submit(self._measure, restored.pixels))
        given = isinstance(small.source, Picture)  # it was restored before: what took time here is reading
        return partial(self._row, small_figures, figures, None if given else seconds)

    def _row(
        self, small: Future[_SmallFigures], figures: Sequence[Future[dict[str, float]]], seconds: float | None
    ) -> Score | Failure:
        """Wait for the measurements and put them together."""
        try:
            draws = [future.result() for future in figures]
            found = small.result()
        except IrnError as error:
            return self._failure(error)
        height, width = self.original.picture.size
        return Score(
            method=self.method.name,
            scale=self.method.scale,
            dataset=self.original.dataset,
            name=self.original.name,
            width=width,
            height=height,
            quality={metric.key: statistics.fmean(draw[metric.key] for draw in draws) for metric in self.metrics},
            psnr_y_samples=tuple(draw["psnr_y"] for draw in draws),
            seconds=seconds,
            **found._asdict(),
        )

    def _failure(self, error: IrnError) -> Failure:
        self._close_budget()
        return Failure(self.original.dataset, self.original.name, self.method.name, str(error))

    def _close_budget(self) -> None:
        """Where this method was to say how much a codec may spend, and cannot, keep codecs from waiting for it."""
        if self.sets_budget and not self.original.budget.done():
            error = InputError(f"{self.method.name} gave no small picture to compare with")
            self.original.budget.set_exception(error)

    def _measure(self, restored: NDArray[np.uint8]) -> dict[str, float]:
        a, b = (crop_border(pixels, self.crop) for pixels in (self.original.picture.pixels, restored))
        grey = self.original.picture.mode == "L"
        return {metric.key: metric.measure(a, b, grey) for metric in self.metrics}

    def _measure_small(self, small: Small) -> _SmallFigures:
        picture = small.picture
        try:
            nbytes = small.nbytes or (_size_as_png(picture) if picture else None)
            if self.sets_budget and nbytes:
                self.original.budget.set_result(nbytes)
        finally:
            self._close_budget()
        height, width = self.original.picture.size
        density = None if nbytes is None else 8 * nbytes / (height * width)
        if not picture:
            return _SmallFigures(None, None, None, None, None, None, nbytes, density)
        y = partial(luma, full_range=self.original.picture.mode == "L")
        guide = self.original.guide
        colours = colour_difference(guide, picture.pixels)
        return _SmallFigures(
            lr_psnr_y=psnr(guide, picture.pixels, of=y),
            lr_ssim_y=ssim(guide, picture.pixels, of=y),
            lr_worst_patch=find_artifact(picture.pixels, guide.astype(np.float32)).deviation,
            lr_delta_e=colours.mean,
            lr_delta_e_95=colours.percentile_95,
            lr_bits_per_pixel=None if density is None else density * self.method.scale**2,
            bytes=nbytes,
            bits_per_pixel=density,
        )


def _size_as_png(picture: Picture) -> int:
    file = io.BytesIO()
    write(file, picture)
    return len(file.getvalue())


class _Here(Executor):
    """Runs what it is given at once, in the calling thread."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **options))
        except IrnError as error:
            future.set_exception(error)
        return future
