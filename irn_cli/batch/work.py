"""The work on one picture: made small, or made large as often as asked."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from irn_cli import mark
from irn_cli.batch.jobs import Job, Result, Skip
from irn_cli.console import show_decibels
from irn_cli.engine import Progress
from irn_cli.errors import Code, InputError, UsageError, WeightsError
from irn_cli.formats.known import written_as
from irn_cli.inputs import STREAM
from irn_cli.latent import find_latent, read_latent
from irn_cli.picture import Picture, Pixels, Refinement
from irn_cli.record import Record, Restored, hash_pixels
from irn_cli.rescale import BorderChoice, OnArtifact, Orientations, Rescaler
from irn_cli.weights import DEFAULT_MODELS, find_by_hash, read_info


@dataclass(frozen=True, eq=False)
class Product:
    """A picture that a job makes."""

    target: Path
    picture: Picture


@dataclass(frozen=True)
class Copy:
    """A file that is kept as it is."""

    source: Path
    target: Path


class Report(Protocol):
    """Reports how far a job is."""

    def __call__(self, share: float, note: str = "") -> None:
        """Report the share done of the whole job, 0 to 1, and what else is known; what it raises ends the work."""


# Yields what is to be written, as soon as it is made, and what is known by then: of the results, the last counts.
Work = Callable[[Job, Picture, Report], Iterator[Product | Copy | Result]]


@dataclass(frozen=True, kw_only=True)
class Downscaler:
    """Makes a picture small, and checks it if asked to."""

    scaler: Rescaler
    keep_latent: bool = False
    on_artifact: OnArtifact = "warn"
    border: BorderChoice = "auto"
    orientations: Orientations = 1
    refine: int = 0
    verify: bool = False
    min_psnr: float | None = None  # dB on Y; a picture that restores worse is not written
    mark: bool = False  # put one into the pixels, for where the record is lost
    keep: bool = False  # one that restores worse is written anyway, with a warning

    def __call__(self, job: Job, picture: Picture, report: Report) -> Iterator[Product | Result]:
        """Do one job: `Work`."""
        if mark.find(picture):
            raise Skip("irn made it: its record was stripped, but not the mark in its pixels", Code.OWN)
        verify = self.verify or self.min_psnr is not None
        note = ""

        def refining(so_far: Refinement) -> None:
            nonlocal note
            reached = f"{show_decibels(so_far.before.luma)} -> {show_decibels(so_far.after.luma)} dB"
            note = f"refining, {so_far.iterations} of {self.refine}: {reached}"

        def progress(share: float) -> None:
            report(share, note)

        small = self.scaler.downscale(
            picture,
            keep_latent=self.keep_latent,
            on_artifact=self.on_artifact,
            border=self.border,
            orientations=self.orientations,
            refine=self.refine,
            mark=self.mark,
            progress=_part(progress, 0, 2 if verify else 1),
            refining=refining,
        )
        result = Result(output_size=small.size[::-1], warnings=small.warnings)
        if small.refinement:
            before, after = small.refinement.before, small.refinement.after
            result = replace(
                result,
                psnr_y=after.luma,
                psnr_rgb=after.rgb,
                unrefined_psnr_y=before.luma,
                unrefined_psnr_rgb=before.rgb,
            )
        yield result
        if verify:
            fidelity = self.scaler.verify(picture, replace(small, latent=None, warnings=()), _part(progress, 1, 2))
            result = replace(
                result,
                psnr_y=fidelity.luma,
                psnr_rgb=fidelity.rgb,
                delta_e=fidelity.small.mean,
                delta_e_95=fidelity.small.percentile_95,
            )
            yield result
            if self.min_psnr is not None and fidelity.luma < self.min_psnr:
                reason = f"it restores at {fidelity.luma:.2f} dB, below {self.min_psnr:g} dB"
                if not self.keep:
                    yield replace(result, warnings=picture.warnings)  # those about a small picture that will not be
                    raise InputError(f"{reason}: not written", Code.LOW_PSNR)
                result = replace(result, warnings=(*result.warnings, f"{reason}: kept anyway"))
                yield result
        yield Product(job.targets[0], small)


Otherwise = Literal["fail", "skip", "copy", "keep"]


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Makes a picture small by the largest of several factors at which it restores well enough."""

    downscalers: tuple[Downscaler, ...]  # the largest factor first, each with the `min_psnr` to be reached
    otherwise: Otherwise  # what becomes of a picture that reaches it at none

    def __call__(self, job: Job, picture: Picture, report: Report) -> Iterator[Product | Copy | Result]:
        """Do one job: `Work`."""
        reached = []
        for index, downscaler in enumerate(self.downscalers):
            last = index == len(self.downscalers) - 1
            chosen = replace(downscaler, keep=last and self.otherwise == "keep")
            result = Result()
            try:
                for item in chosen(replace(job, targets=job.targets[index:]), picture, self._part(report, index)):
                    result = item if isinstance(item, Result) else result
                    yield item
                return
            except InputError as error:
                if error.code not in (Code.LOW_PSNR, Code.ARTIFACT):
                    raise
                at = "a blotch" if error.code is Code.ARTIFACT else f"{result.psnr_y:.2f} dB"
                reached.append(f"{at} at {downscaler.scaler.scale}x")
        reason = f"{', '.join(reached)}; --min-psnr asks for {self.downscalers[0].min_psnr:g} dB"
        if self.otherwise == "copy":
            yield Result(output_size=picture.size[::-1], warnings=(f"{reason}: copied as it is",))
            yield Copy(job.source, job.targets[-1])
            return
        raise (Skip if self.otherwise == "skip" else InputError)(f"{reason}: not written", Code.LOW_PSNR)

    def _part(self, report: Report, index: int) -> Report:
        count = len(self.downscalers)
        return lambda share, note="": report((index + share) / count, note)


@dataclass(frozen=True, kw_only=True)
class Upscaler:
    """Makes a small picture large, as often as asked, with the weights that it was made with."""

    load: Callable[[str | Path], Rescaler]  # from a name or path of weights
    model: str | None = None  # instead of the weights in the record
    scale: int | None = None  # for pictures without a record
    size: tuple[int, int] | None = None  # for such, (H, W) of the original
    samples: int = 1
    seed: int = 0
    temperature: float = 1.0
    latent: Path | None = None  # instead of the one beside the picture
    draw: bool = False  # latents, even where one lies beside the picture; always with more samples than one
    spread: bool = False
    _loaded: dict[str, Rescaler] = field(default_factory=dict, init=False)
    _loading: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __call__(self, job: Job, picture: Picture, report: Report) -> Iterator[Product | Result]:
        """Do one job: `Work`."""
        if kept := self.latent or (None if self.draw else find_latent(job.source)):
            most = 64 * picture.size[0] * picture.size[1]  # no scale is above 8
            picture = replace(picture, latent=read_latent(kept, max_pixels=most))
        if not (self.size or isinstance(picture.record, Record | Restored)):
            picture = _as_marked(picture)
        scaler = self._scaler(picture)
        if self.size:
            picture = _with_size(picture, self.size, scaler)
        first: Picture | None = None
        total = np.zeros(())
        for sample in range(self.samples):
            large = scaler.upscale(
                picture,
                seed=self.seed,
                temperature=self.temperature,
                sample=sample,
                progress=_part(report, sample, self.samples),
            )
            inexact = _inexact(job.targets[sample]) if picture.latent else ()
            yield Result(output_size=large.size[::-1], warnings=(*large.warnings, *inexact))
            yield Product(job.targets[sample], large)
            if self.spread:
                first = first or large
                total = total + _difference(large.pixels, first.pixels)
        if self.spread and first:
            yield Product(job.targets[-1], _spread_picture(first, total / (self.samples - 1)))

    def _scaler(self, picture: Picture) -> Rescaler:
        record = picture.record if isinstance(picture.record, Record) else None
        scale = record.scale if record else self.scale
        if scale is None:
            reason = "no usable record of irn: foreign, or stripped; --scale and --size restore it anyway"
            raise InputError(reason, Code.NO_RECORD)
        if self.scale not in (None, scale):
            reason = f"irn made it {scale} times smaller, not {self.scale}: leave --scale out"
            raise InputError(reason, Code.USAGE)
        source = self.model or (record.weights if record else "") or str(scale)
        with self._loading:
            if source not in self._loaded:
                self._loaded[source] = self.load(self.model or _weights(record, scale))
            scaler = self._loaded[source]
        if scaler.scale != scale:
            raise UsageError(f"{scaler.model.name} makes pictures {scaler.scale} times larger, not {scale}")
        return scaler


def _inexact(target: Path) -> tuple[str, ...]:
    """A warning where a format cannot hold an original that comes back bit for bit."""
    if target == STREAM or (chosen := written_as(target)).lossless is not None:
        return ()
    return (f"kept bit for bit, but {chosen.name} always loses something: --format png, webp or tiff does not",)


def _as_marked(picture: Picture) -> Picture:
    """A picture without a record, with what its mark says, if it has one."""
    found = mark.find(picture)
    if found is None:
        return picture
    path = find_by_hash(found.weights)
    info = read_info(path) if path else None
    height, width = found.size
    record = Record(
        scale=found.scale,
        width=width,
        height=height,
        mode=found.mode,
        model=info.name if info else "unknown weights",
        revision=info.revision if info else "",
        weights=info.hash if info else found.weights.ljust(64, "0"),
        pixels=hash_pixels(picture.pixels),
        orientation=found.orientation,
    )
    told = "its record was stripped: restored as the mark in its pixels says"
    return replace(picture, record=record, warnings=(*picture.warnings, told))


def _with_size(picture: Picture, size: tuple[int, int], scaler: Rescaler) -> Picture:
    """A picture without a record, with one made from the size of its original."""
    height, width = size
    if isinstance(picture.record, Record):
        if (picture.record.height, picture.record.width) != size:
            of = f"{picture.record.width}x{picture.record.height}"
            raise InputError(f"its record says that the original is {of}, not {width}x{height}: leave --size out")
        return picture
    record = scaler.record(picture.pixels, size, picture.mode)
    if record.small_size != picture.size:
        wanted, found = (f"{columns}x{rows}" for rows, columns in (record.small_size, picture.size))
        raise InputError(f"--size {width}x{height} becomes {wanted} at {scaler.scale}x, but the picture is {found}")
    told = f"no record of irn: taken for what {scaler.model.name} makes of {width}x{height}"
    return replace(picture, record=record, warnings=(*picture.warnings, told))


def _part(progress: Progress, index: int, count: int) -> Progress:
    """The progress of one of `count` equal parts of a job, from the 0th."""
    return lambda share: progress((index + share) / count)


def _weights(record: Record | None, scale: int) -> str | Path:
    """The weights for a small picture: the very ones that made it, else others of its scale."""
    if record and (path := find_by_hash(record.weights)):
        return path
    if scale not in DEFAULT_MODELS:
        wanted = f"{record.model} ({record.weights[:12]})" if record else f"for {scale}x"
        raise WeightsError(f"the weights {wanted} are not here; --model names others")
    return DEFAULT_MODELS[scale]


def _difference(a: Pixels, b: Pixels) -> NDArray[np.float32]:
    """Mean absolute difference over the channels, (H, W), levels."""
    result = np.empty(a.shape[:2], np.float32)
    for row in range(len(a)):
        result[row] = np.abs(a[row].astype(np.int16) - b[row]).mean(1)
    return result


def _spread_picture(first: Picture, difference: NDArray[np.floating]) -> Picture:
    """Where draws of the latent differ, as Fig. 1 of the paper's appendix shows it: 20 times, darker is more."""
    grey = np.rint(255 - np.clip(20 * difference, 0, 255)).astype(np.uint8)
    return Picture(np.repeat(grey[..., None], 3, 2), mode="L", record=first.record)
