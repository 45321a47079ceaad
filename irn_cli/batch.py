"""Many pictures: what each becomes, and the work itself, whatever happens to one of them.

Small pictures are worked on several at a time, one to a core. Of larger ones each takes all cores, and decoding the
next and encoding the last overlap with the network. Nothing here prints: outcomes are yielded, one a picture, for
`progress.py` to show.
"""

import dataclasses
import io
import itertools
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from irn_cli.device import trim_memory
from irn_cli.errors import InputError, IrnError, OutputError, UsageError
from irn_cli.files import require_writable
from irn_cli.image import FOREIGN, MAX_PIXELS, SUFFIXES, output_format, read, write
from irn_cli.inputs import STREAM, Found
from irn_cli.latent import Latent, latent_path, read_latent, write_latent
from irn_cli.picture import Picture
from irn_cli.record import Record
from irn_cli.rescale import HUGE, OnArtifact, Pixels, Rescaler
from irn_cli.weights import DEFAULT_MODELS, find_by_hash

_WRITERS = 4  # a GPU makes pictures faster than one core encodes them
SMALL = 1 << 19  # pixels up to which a picture is quicker done by one core than shared by several

# What each becomes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outputs:
    """Where results go, and what may be overwritten."""

    output: str | None = None  # -o: a file for one input, a directory for more; "-" is standard output
    force: bool = False
    skip_existing: bool = False

    def __post_init__(self) -> None:
        if self.force and self.skip_existing:
            raise UsageError("--force and --skip-existing exclude each other")

    def target(self, found: Found, name: str, *, many: bool) -> Path:
        """Where the result of one input goes; `name` is what it is called by default."""
        if self.output is None:
            return STREAM if found.path == STREAM else found.path.with_name(name)
        if many and Path(self.output) == STREAM:
            raise UsageError("standard output takes one picture, not a folder or several: expected a directory")
        if many and Path(self.output).suffix.lower() in SUFFIXES and not Path(self.output).is_dir():
            raise UsageError(f"-o {self.output} names one file, for a folder or several inputs: expected a directory")
        if many or self.output.endswith(os.sep) or Path(self.output).is_dir():
            return Path(self.output) / found.place / name
        return Path(self.output)


@dataclass(frozen=True)
class Job:
    """One picture to be worked on."""

    source: Path
    targets: tuple[Path, ...]  # all that may be written for it
    pixels: int = 0  # of the large picture, made small or to be made, as far as known
    together: bool = False  # whether the targets are of use only with each other: a picture and its latent


@dataclass(frozen=True)
class Outcome:
    """What became of one picture."""

    source: Path
    status: Literal["done", "skipped", "failed"]
    outputs: tuple[Path, ...] = ()  # what was written
    reason: str = ""  # why it was skipped, or failed
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # seconds, sizes (width, height), and what was measured

    def as_json(self) -> dict[str, Any]:
        """The outcome as one JSON object."""
        return {
            "source": str(self.source),
            "status": self.status,
            "outputs": [str(path) for path in self.outputs],
            "reason": self.reason,
            "warnings": list(self.warnings),
            **{name: None if value == math.inf else value for name, value in self.facts.items()},  # JSON has no word
        }


def plan_downscale(found: Sequence[Found], outputs: Outputs, scale: int, *, keep_latent: bool) -> list[Job | Outcome]:
    """Decide what each input becomes small as; a picture that irn made is passed over.

    Of inputs that would be written to one file, all but the first are outcomes that failed.

    Raises:
        UsageError: an input would be written over another, or in an unknown format.
        InputError: every input is passed over.
    """
    many = len(found) > 1 or not all(one.named for one in found)
    plan: list[Job | Outcome] = []
    for one in found:
        if outcome := _passed_over(one):
            plan.append(outcome)
            continue
        if one.header and one.header.record:
            plan.append(Outcome(one.path, "skipped", reason="irn made it"))
            continue
        target = outputs.target(one, f"{one.path.stem}_down{scale}.png", many=many)
        _check_format(target, small=True)
        if keep_latent and target == STREAM:
            raise UsageError("--keep-latent needs a file beside which the latent can lie, not standard output")
        targets = [target, latent_path(target)] if keep_latent else [target]
        plan.append(_job(one, targets, 1, together=keep_latent))
    return _checked(plan)


def plan_upscale(
    found: Sequence[Found], outputs: Outputs, scale: int | None, *, samples: int, spread: bool
) -> list[Job | Outcome]:
    """Decide what each input becomes large as.

    A restored picture is passed over; in directories also one without a record, unless a scale is given for such.

    Raises:
        UsageError, InputError: as `plan_downscale`.
    """
    many = len(found) > 1 or not all(one.named for one in found)
    plan: list[Job | Outcome] = []
    for one in found:
        if outcome := _passed_over(one):
            plan.append(outcome)
            continue
        record = one.header.record if one.header else None
        if record and not isinstance(record, Record):
            plan.append(Outcome(one.path, "skipped", reason="irn restored it"))
            continue
        if one.header and not record and not one.header.damaged and not scale and not one.named:
            plan.append(Outcome(one.path, "skipped", reason="no record of irn in it; --scale enlarges such too"))
            continue
        factor = record.scale if record else scale or 4
        stem = one.path.stem.removesuffix(f"_down{factor}")
        target = outputs.target(one, f"{stem}_up{factor}.png", many=many)
        _check_format(target, small=False)
        if target == STREAM and samples > 1:
            raise UsageError("standard output takes one picture: --samples and --spread need files")
        names = [f"_{sample + 1}" for sample in range(samples)] if samples > 1 else [""]
        targets = [target if not name else target.with_stem(target.stem + name) for name in names]
        plan.append(_job(one, [*targets, target.with_stem(target.stem + "_spread")] if spread else targets, factor))
    return _checked(plan)


def _passed_over(found: Found) -> Outcome | None:
    """The outcome of an input that is not there, or that a folder holds in a format that we do not read."""
    if found.missing:
        return Outcome(found.path, "failed", reason=found.missing)
    suffix = found.path.suffix.lower()
    if suffix in FOREIGN and not found.named:
        return Outcome(found.path, "skipped", reason=f"irn does not read {suffix}")
    return None


def _job(found: Found, targets: list[Path], factor: int, *, together: bool = False) -> Job:
    height, width = found.header.size if found.header else (0, 0)
    return Job(found.path, tuple(targets), height * width * factor**2, together)


def _check_format(target: Path, *, small: bool) -> None:
    if target != STREAM:
        output_format(target, small=small)


def _checked(plan: Sequence[Job | Outcome]) -> list[Job | Outcome]:
    """See before anything runs that there is something to do, and that no result meets another or an input.

    What is passed over may be written over: it is, for the most part, an earlier run's result.
    """
    if plan and all(isinstance(item, Outcome) for item in plan):
        reasons = "; ".join(sorted({item.reason for item in plan if isinstance(item, Outcome)}))
        raise InputError(f"nothing to do: {reasons} (all of {len(plan)}, the first is {plan[0].source})")
    makers: dict[Path, Path] = {}
    sources = {item.source.resolve() for item in plan if isinstance(item, Job) and item.source != STREAM}
    checked: list[Job | Outcome] = []
    for item in plan:
        targets = {target.resolve(): target for target in item.targets} if isinstance(item, Job) else {}
        for where, target in targets.items():
            if where in sources and target != STREAM:
                raise UsageError(f"{item.source} would be written over the input {target}")
        if taken := next((where for where in targets if where in makers), None):
            told = f"{targets[taken]} is what {makers[taken]} becomes: do this one by itself, with another -o"
            checked.append(Outcome(item.source, "failed", reason=told))
        else:
            makers.update(dict.fromkeys(targets, item.source))
            checked.append(item)
    return checked


def share(plan: Sequence[Job | Outcome], index: int, count: int) -> list[Job | Outcome]:
    """Every count-th item from the index-th (from 1): the shares of 1 to N are the whole."""
    return list(plan[index - 1 :: count])


# The work -------------------------------------------------------------------------------------------------------------

Content = Picture | Latent
Work = Callable[[Job, Picture, dict[str, Any]], Iterator[tuple[Path, Content]]]


@dataclass(frozen=True)
class Downscaler:
    """Makes one picture small, and checks it if asked to."""

    scaler: Rescaler
    keep_latent: bool = False
    on_artifact: OnArtifact = "warn"
    verify: bool = False
    min_psnr: float | None = None  # dB on Y; a picture that restores worse is not written

    def __call__(self, job: Job, picture: Picture, facts: dict[str, Any]) -> Iterator[tuple[Path, Content]]:
        """Yield what is to be written; facts and warnings go into `facts`."""
        small = self.scaler.downscale(picture, keep_latent=self.keep_latent, on_artifact=self.on_artifact)
        facts["warnings"] = small.warnings
        facts["output_size"] = small.size[::-1]
        if self.verify or self.min_psnr is not None:
            fidelity = self.scaler.verify(picture, dataclasses.replace(small, latent=None, warnings=()))
            facts["psnr_y"], facts["psnr_rgb"] = fidelity.luma, fidelity.rgb
            if self.min_psnr is not None and fidelity.luma < self.min_psnr:
                raise InputError(f"it restores at {fidelity.luma:.2f} dB, below {self.min_psnr:g} dB: not written")
        if small.latent:
            facts["latent_bytes"] = small.latent.nbytes
            yield job.targets[1], small.latent
        yield job.targets[0], dataclasses.replace(small, latent=None)


@dataclass(frozen=True)
class Upscaler:
    """Makes one small picture large, as often as asked, with the weights that it was made with."""

    load: Callable[[str | Path], Rescaler]  # from a name or path of weights
    model: str | None = None  # instead of the weights in the record
    scale: int | None = None  # for pictures without a record
    samples: int = 1
    seed: int = 0
    temperature: float = 1.0
    latent: Path | None = None  # instead of the one beside the picture
    draw: bool = False  # a latent, even where one lies beside the picture
    spread: bool = False
    _loaded: dict[str, Rescaler] = field(default_factory=dict)
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, job: Job, picture: Picture, facts: dict[str, Any]) -> Iterator[tuple[Path, Content]]:
        """Yield what is to be written; facts and warnings go into `facts`."""
        facts["warnings"] = picture.warnings
        beside = latent_path(job.source)
        if self.latent or (not self.draw and self.samples == 1 and beside.is_file()):
            picture = dataclasses.replace(picture, latent=read_latent(self.latent or beside))
        scaler = self._scaler(picture)
        first: Picture | None = None
        total: Any = 0.0
        for sample in range(self.samples):
            large = scaler.upscale(picture, seed=self.seed, temperature=self.temperature, sample=sample)
            facts["warnings"] = large.warnings
            facts["output_size"] = large.size[::-1]
            yield job.targets[sample], large
            if self.spread:
                first = first or large
                total = total + _difference(large.pixels, first.pixels)
        if self.spread and first:
            yield job.targets[-1], _spread_picture(first, total / (self.samples - 1))

    def _scaler(self, picture: Picture) -> Rescaler:
        record = picture.record if isinstance(picture.record, Record) else None
        scale = record.scale if record else self.scale
        if scale is None:
            raise InputError("no usable record of irn in it: --scale is needed to enlarge it all the same")
        source = self.model or (record.weights if record else "") or str(scale)
        with self._loading:
            if source not in self._loaded:
                self._loaded[source] = self.load(self.model or _weights(record, scale))
            scaler = self._loaded[source]
        if scaler.scale != scale:
            raise UsageError(f"{scaler.model.name} makes pictures {scaler.scale} times larger, not {scale}")
        return scaler


def _weights(record: Record | None, scale: int) -> str | Path:
    """The weights for a small picture: the very ones that made it, else others of its scale."""
    if record and (path := find_by_hash(record.weights)):
        return path
    if scale not in DEFAULT_MODELS:
        wanted = f"{record.model} ({record.weights[:12]})" if record else f"for {scale}x"
        raise InputError(f"the weights {wanted} are not at hand; --model names others")
    return DEFAULT_MODELS[scale]


def _difference(a: Pixels, b: Pixels) -> NDArray[np.float32]:
    """Mean absolute difference over the channels, (H, W), levels."""
    result = np.empty(a.shape[:2], np.float32)
    for row in range(len(a)):
        result[row] = np.abs(a[row].astype(np.int16) - b[row]).mean(1)
    return result


def _spread_picture(first: Picture, difference: NDArray[np.float32]) -> Picture:
    """Where draws of the latent differ, as Fig. 1 of the paper's appendix shows it: 20 times, darker is more."""
    grey = np.rint(255 - np.clip(20 * difference, 0, 255)).astype(np.uint8)
    return Picture(np.repeat(grey[..., None], 3, 2), mode="L", record=first.record)


def run(
    plan: Sequence[Job | Outcome],
    work: Work,
    outputs: Outputs,
    *,
    strip: bool = False,
    max_pixels: int = MAX_PIXELS,
    at_once: int = 1,
    started: Callable[[Job], None] = lambda _: None,
    stopped: threading.Event | None = None,
) -> Iterator[Outcome]:
    """Work on one picture after another, or several small ones at once; none stops the others.

    Args:
        plan: what is to be done, and outcomes that are clear already.
        work: yields what is to be written for a job.
        outputs: what may be overwritten.
        strip: leave metadata out.
        max_pixels: refuse larger pictures.
        at_once: how many small pictures are worked on at the same time, in threads that share torch's.
        started: told of each job when its turn comes, by the thread that works on it.
        stopped: set when the run ends, so that `work`, where it looks, can leave small pictures unfinished.

    Yields:
        An outcome for each item of the plan, in its order.
    """
    items = [_decided(item, outputs) for item in plan]
    jobs = [item for item in items if isinstance(item, Job)]
    following = dict(itertools.pairwise(jobs))
    at_once = max(min(at_once, len(jobs)), 1)
    line = _Line(work, outputs, strip, max_pixels, at_once, started, stopped or threading.Event())
    pending: deque[Outcome | _Ending] = deque()
    try:
        for item in items:
            pending.append(line.begin(item, following.get(item)) if isinstance(item, Job) else item)
            yield from _told(pending, 4 * at_once)
        yield from _told(pending, 0)
    finally:
        line.stop()


def _told(pending: "deque[Outcome | _Ending]", most: int) -> Iterator[Outcome]:
    """The first outcomes: those that are there, and more as soon as they are, until `most` are left."""
    while pending and (len(pending) > most or isinstance(pending[0], Outcome) or pending[0].settled):
        first = pending.popleft()
        yield first if isinstance(first, Outcome) else first.outcome()


class _Line:
    """The assembly line: one thread decodes ahead, the caller's runs the network, others encode what is done.

    Where several small pictures may be worked on at once, each has one thread of another pool for all but encoding.
    """

    def __init__(
        self, work: Work, outputs: Outputs, strip: bool, max_pixels: int, at_once: int,
        started: Callable[[Job], None], stopped: threading.Event,
    ) -> None:  # fmt: skip
        self._work, self._outputs, self._strip, self._max_pixels = work, outputs, strip, max_pixels
        self._at_once, self._started, self._stopped = at_once, started, stopped
        self._reader, self._writers = ThreadPoolExecutor(1, "irn-read"), ThreadPoolExecutor(_WRITERS, "irn-write")
        share = partial(torch.set_num_threads, max(torch.get_num_threads() // at_once, 1))
        self._small = ThreadPoolExecutor(at_once, "irn-small", share)
        self._ahead: Future[Picture] | None = None
        self._free = threading.Semaphore(_WRITERS)

    def begin(self, job: Job, following: Job | None) -> "_Ending":
        """Do all of a job but wait for its files to be written; a small one is only handed on."""
        begun = _Ending(job)
        if self._is_small(job):
            begun.running = self._small.submit(self._run, begun, lambda: self._load(job))
            return begun
        reading, self._ahead = self._ahead or self._reader.submit(self._load, job), None
        self._run(begun, reading.result, following)
        return begun

    def _run(self, begun: "_Ending", load: Callable[[], Picture], following: Job | None = None) -> None:
        begin = time.perf_counter()
        self._started(begun.job)
        try:
            picture = load()
            begun.facts["input_size"] = picture.size[::-1]
            alone = max(picture.pixels.size // 3, following.pixels if following else 0) > HUGE
            if following and not alone and not self._is_small(following):
                self._ahead = self._reader.submit(self._load, following)
            for target, content in self._work(begun.job, picture, begun.facts):
                if self._outputs.skip_existing and target.exists():
                    continue
                if begun.job.together and begun.writes:
                    begun.writes[-1][1].result()  # no picture without its latent
                self._free.acquire()  # so that few pictures wait to be written
                writing = self._writers.submit(self._store, target, content)
                writing.add_done_callback(lambda _: self._free.release())
                begun.writes.append((target, writing))
                if alone:
                    wait([writing])
        except _FAILURES as error:
            begun.error = error
        begun.facts["seconds"] = time.perf_counter() - begin

    def _is_small(self, job: Job) -> bool:
        return self._at_once > 1 and 0 < job.pixels <= SMALL

    def stop(self) -> None:
        """Begin nothing more; what is being written is finished."""
        self._stopped.set()
        for pool in (self._reader, self._small, self._writers):
            pool.shutdown(cancel_futures=True)
        # A thread's own setting is also what torch gives to threads that start later: put back the caller's.
        torch.set_num_threads(torch.get_num_threads())

    def _load(self, job: Job) -> Picture:
        source = io.BytesIO(sys.stdin.buffer.read()) if job.source == STREAM else job.source
        picture = read(source, max_pixels=self._max_pixels)
        if job.pixels > HUGE:
            trim_memory()
        return dataclasses.replace(picture, icc=None, exif=None, xmp=None, dpi=None) if self._strip else picture

    def _store(self, target: Path, content: Content) -> None:
        if isinstance(content, Picture) and content.pixels.size // 3 > HUGE:
            trim_memory()
        if isinstance(content, Latent):
            write_latent(target, content, overwrite=self._outputs.force)
        elif target == STREAM:
            write(sys.stdout.buffer, content)
        else:
            write(target, content, overwrite=self._outputs.force)


# torch reports a failed allocation on the CPU as a RuntimeError.
_FAILURES = (IrnError, MemoryError, RuntimeError)


@dataclass
class _Ending:
    """A job that may still be being worked on, or its files written."""

    job: Job
    facts: dict[str, Any] = field(default_factory=dict)
    writes: list[tuple[Path, Future[None]]] = field(default_factory=list)
    error: BaseException | None = None
    running: Future[None] | None = None  # by another thread

    @property
    def settled(self) -> bool:
        """Whether nothing of it is still being worked on or written."""
        return (not self.running or self.running.done()) and all(future.done() for _, future in self.writes)

    def outcome(self) -> Outcome:
        """What became of it, once all is written."""
        if self.running:
            self.running.result()
        written = []
        for target, future in self.writes:
            try:
                future.result()
                written.append(target)
            except _FAILURES as error:
                self.error = self.error or error
        warnings = tuple(self.facts.pop("warnings", ()))
        reason = str(self.error or "")
        if self.error and not isinstance(self.error, IrnError):
            reason = f"{type(self.error).__name__}: {reason}"
        status: Literal["failed", "done"] = "failed" if self.error else "done"
        return Outcome(self.job.source, status, tuple(written), reason, warnings, self.facts)


def _decided(item: Job | Outcome, outputs: Outputs) -> Job | Outcome:
    """A job, or its outcome where what it would write is there already, or cannot be written."""
    if isinstance(item, Outcome):
        return item
    targets = [target for target in item.targets if target != STREAM]
    there = [target for target in targets if os.path.lexists(target)]
    if outputs.skip_existing and len(there) == len(item.targets):
        return Outcome(item.source, "skipped", reason=f"{there[0]} exists already")
    if there and outputs.skip_existing and item.together:
        missing = next(target for target in item.targets if target not in there)
        told = f"{there[0]} exists already, without {missing} that belongs to it (--force makes both)"
        return Outcome(item.source, "failed", reason=told)
    if there and not outputs.force and not outputs.skip_existing:
        told = f"{there[0]} exists already (--force replaces it, --skip-existing passes over it)"
        return Outcome(item.source, "failed", reason=told)
    try:
        for target in targets:
            require_writable(target, overwrite=True)
    except OutputError as error:
        return Outcome(item.source, "failed", reason=str(error))
    return item
