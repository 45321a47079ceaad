"""The training loop, from top to bottom; it yields what happens as events and leaves showing them to the monitor."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from irn_cli.device import untuned_convolutions
from irn_cli.errors import DeviceError, InputError, IrnError
from irn_cli.evaluation.dataset import DataSet
from irn_cli.evaluation.evaluate import evaluate
from irn_cli.evaluation.methods import Network
from irn_cli.evaluation.scores import Failure, Score, Summary, summarise
from irn_cli.image import read
from irn_cli.picture import Picture, Pixels
from irn_cli.rescale import Rescaler
from irn_cli.train.checkpoint import Checkpoint, Counters, save_checkpoint
from irn_cli.train.job import Limits
from irn_cli.train.step import Step
from irn_cli.weights import save_model

WEIGHTS = "weights.safetensors"
_PREVIEW = 256  # side of the preview's pictures at most
_NONE = Limits()
_SETBACKS = 10  # returns to a good state without a save between until the run is given up


@dataclass(frozen=True)
class Logged:
    """A row of the log."""

    step: int
    row: Mapping[str, float]  # loss, its terms, discriminator, grad_norm, skipped, lr, ms_per_step, elapsed
    progress: float  # of the run, 0 to 1
    left: float  # seconds of work until it ends, as far as is known


@dataclass(frozen=True, eq=False)
class Preview:
    """A picture's middle, as it went in, as it is small, and as it came back; (H, W, 3)."""

    original: Pixels
    small: Pixels
    restored: Pixels


@dataclass(frozen=True)
class Validated:
    """What the averaged weights are worth."""

    step: int
    summary: Summary
    failures: tuple[str, ...]  # pictures that could not be measured, and why


@dataclass(frozen=True)
class Saved:
    """A checkpoint and the exported weights are on the disk."""

    step: int
    preview: Preview  # by these weights


@dataclass(frozen=True)
class SetBack:
    """Too many steps in a row were skipped: the run is back in its last good state, at a lower rate."""

    step: int
    factor: float  # what the schedule's rate is multiplied by from here on


@dataclass(frozen=True)
class Ended:
    """The last event."""

    step: int
    reason: str  # finished, time, steps or interrupted


Event = Logged | Validated | Saved | SetBack | Ended


class Clock:
    """Seconds of work. A machine's sleep or a stopped process does not count; a slow step does, within reason."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._usual: deque[float] = deque(maxlen=51)  # seconds a step, lately

    def tick(self, steps: int) -> float:
        """The seconds that the last `steps` steps took, but at most four times what is usual."""
        now = time.monotonic()
        each, self._last = (now - self._last) / steps, now
        self._usual.append(each)
        return steps * min(each, 4 * statistics.median(self._usual))

    def lap(self) -> float:
        """The seconds since the last tick or lap, all of them: for work that is no step."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return seconds


class _GoodState:
    """What a run goes back to after too many bad steps in a row."""

    def __init__(self, step: Step) -> None:
        self._tensors = {name: value.clone() for name, value in step.state().items()}
        self._returns = 0

    def bring_back(self, step: Step, k: int) -> None:
        """Put the run back, the count of skipped steps apart.

        Raises:
            IrnError: it has been brought back here often enough.
        """
        if self._returns == _SETBACKS:
            raise IrnError(
                f"gave up at step {k}: loss or gradient still bad after {_SETBACKS} returns to a good state; "
                "try a lower --lr"
            )
        self._returns += 1
        skipped = step.state()["guard/skipped"]
        step.restore({**self._tensors, "guard/skipped": skipped, "guard/in_row": torch.zeros(())})


def train(  # noqa: C901  # one loop that is read from top to bottom
    step: Step,
    run: Path,
    notes: Mapping[str, str],
    *,
    validation: DataSet | None = None,
    checkpoint: Checkpoint | None = None,
    limits: Limits = _NONE,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train until the recipe, the time or the number of steps ends, or until `interrupted` says so.

    Args:
        step: the step, with network, recipe and pictures in it.
        run: the run's directory, where checkpoint and weights go.
        notes: text fields for the exported weights' header.
        validation: pictures to validate on.
        checkpoint: what to continue.
        limits: what ends this call earlier.
        interrupted: asked after every step (on a GPU: whenever its results are waited for).

    Raises:
        DeviceError: the device runs out of memory.
        InputError: the checkpoint is of another network, or no validation picture can be measured.
        OutputError: the run's directory cannot be written; earlier checkpoints stay as they are.
        IrnError: the run does not recover from bad steps.
    """
    recipe = step.recipe
    counters = Counters(step=0, elapsed=0.0, progress=0.0, setbacks=0)
    if checkpoint is not None:
        step.restore(checkpoint.tensors)
        counters = checkpoint.counters
    first, spent = counters, 0.0
    good = _GoodState(step)
    specimen = _specimen(step, validation)
    timed = recipe.horizon == "time" and limits.seconds is not None
    clock, marked, since = Clock(), counters.step, 0.0
    latest: Validated | None = None

    while (reason := _reason_to_stop(step, limits, counters.step - first.step, counters, spent, interrupted)) is None:
        begin = counters.step
        end = next_wait(step, begin, first.step, limits.steps and first.step + limits.steps)
        setback = recipe.setback**counters.setbacks
        norms = step.term_norms(begin) if recipe.term_norms and end % recipe.log_every == 0 else {}
        for k in range(begin, end):
            progress = counters.progress if timed else k / recipe.steps
            rate = recipe.rate(k, progress)
            try:
                step.run(k, rate, setback)
            except torch.OutOfMemoryError as error:
                raise DeviceError(
                    f"not enough device memory for {recipe.batch} crops of {recipe.patch}x{recipe.patch}: "
                    "lower --batch or --patch, or set accumulate = 2 or recompute = true in --config"
                ) from error
        shown = step.read()
        seconds = step.agree(clock.tick(end - begin))
        spent, since = spent + seconds, since + seconds
        progress = end / recipe.steps
        if timed and limits.seconds is not None:
            progress = first.progress + (1 - first.progress) * min(1.0, spent / limits.seconds)
        counters = replace(counters, step=end, elapsed=first.elapsed + spent, progress=progress)

        if shown["in_row"] >= recipe.patience:
            good.bring_back(step, end)
            counters = replace(counters, setbacks=counters.setbacks + 1)
            yield SetBack(end, recipe.setback**counters.setbacks)
        early = begin == first.step  # shows early that all is well; all of a run's files are there from then on
        if end % recipe.log_every == 0 or early:
            row = {name: shown[name] for name in step.shown} | norms
            row |= {"skipped": shown["skipped"], "lr": rate * setback, "ms_per_step": 1000 * since / (end - marked)}
            left = spent * (1 - progress) / max(progress - first.progress, 1e-9)
            yield Logged(end, row | {"elapsed": counters.elapsed}, progress, left)
            marked, since = end, 0.0
        if (end % recipe.save_every == 0 or early) and shown["in_row"] == 0:
            good = _GoodState(step)
            if step.process == 0:
                yield _save(step, run, counters, notes, specimen)
        if validation is not None and step.process == 0 and end % recipe.validate_every == 0:
            for latest in _validate(step, end, validation, interrupted):
                yield latest
        spent += step.agree(clock.lap())

    if timed and reason == "time":  # saving and validating take time too, in which the schedule does not move
        counters = replace(counters, progress=1.0)
    if step.process == 0:
        yield _save(step, run, counters, notes, specimen)
        if validation is not None and reason != "interrupted" and (latest is None or latest.step != counters.step):
            for latest in _validate(step, counters.step, validation, interrupted):
                yield latest
        if latest is not None and latest.step == counters.step:
            _export(step, run, counters, {**notes, **_as_notes(latest.summary)})
    yield Ended(counters.step, reason)


def _reason_to_stop(
    step: Step, limits: Limits, steps: int, counters: Counters, spent: float, interrupted: Callable[[], bool]
) -> str | None:
    """Why the run ends here, if it does; all processes come to the same answer."""
    if step.agree(float(interrupted())):
        return "interrupted"
    timed = step.recipe.horizon == "time" and limits.seconds is not None
    if counters.step >= step.recipe.steps and not timed:
        return "finished"
    if limits.seconds is not None and spent >= limits.seconds:
        return "time"
    if limits.steps is not None and steps >= limits.steps:
        return "steps"
    return None


def next_wait(step: Step, k: int, first: int, last: int | None) -> int:
    """The next step whose results are needed. Waiting for others costs a GPU time, and a CPU nothing."""
    if step.device.type != "cuda" or k == first:
        return k + 1
    recipe = step.recipe
    marks = [k - k % every + every for every in (recipe.log_every, recipe.save_every, recipe.validate_every)]
    return min(marks + [mark for mark in (last, recipe.steps) if mark is not None and mark > k])


def _save(step: Step, run: Path, counters: Counters, notes: Mapping[str, str], specimen: Pixels) -> Saved:
    """Write the checkpoint, export the averaged weights, and try them."""
    save_checkpoint(run, Checkpoint(step.state(), counters, step.recipe, step.master.config, step.stamp, notes))
    _export(step, run, counters, notes)
    with untuned_convolutions():
        rescaler = _rescaler(step)
        small = rescaler.downscale(Picture(specimen))
        return Saved(counters.step, Preview(specimen, small.pixels, rescaler.upscale(small).pixels))


def _rescaler(step: Step) -> Rescaler:
    return Rescaler(step.averaged(), device=str(step.device), precision=step.precision)


def _specimen(step: Step, validation: DataSet | None) -> Pixels:
    """What previews show: the middle of the first validation picture that can be read, or of a training picture."""
    pixels = step.batches.first_picture()
    for path in validation.pictures if validation else ():
        try:
            pixels = read(path).pixels
            break
        except IrnError:
            continue  # validation reports it
    scale = step.recipe.scale
    height, width = (min(side, _PREVIEW) // scale * scale for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _export(step: Step, run: Path, counters: Counters, notes: Mapping[str, str]) -> None:
    facts = {"steps": str(counters.step), "training_time": f"{counters.elapsed:.0f} s"}
    save_model(run / WEIGHTS, step.averaged(), notes={**notes, **facts}, overwrite=True)


def _validate(step: Step, k: int, validation: DataSet, interrupted: Callable[[], bool]) -> Iterator[Validated]:
    """Measure the averaged weights as `irn eval` does; nothing comes when interrupted on the way.

    Raises:
        InputError: not one picture can be measured.
    """
    scores: list[Score] = []
    failures: list[str] = []
    with untuned_convolutions():  # each picture has its own size, and would have its own search
        for result in evaluate([Network("weights", _rescaler(step))], [validation]):
            if interrupted():
                return
            if isinstance(result, Failure):
                failures.append(result.error)
            else:
                scores.append(result)
        if not scores:
            raise InputError(f"no validation picture can be measured; the first: {failures[0]}")
    yield Validated(k, summarise(scores)[0], tuple(failures))


def _as_notes(summary: Summary) -> dict[str, str]:
    return {
        "validation": f"PSNR {summary.psnr_y:.2f} dB, SSIM {summary.ssim_y:.4f} on Y over {summary.pictures} pictures; "
        f"LR {summary.lr_psnr_y:.2f} dB from bicubic, worst 8x8 patch {summary.lr_worst_patch:.1f} levels"
    }
