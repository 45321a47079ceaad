"""What each input of a batch becomes: a job to do, or an outcome where that is clear before anything runs."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from irn_cli.errors import Code, InputError, UsageError, explain
from irn_cli.files import require_writable
from irn_cli.image import FOREIGN, SUFFIXES, output_format
from irn_cli.inputs import STREAM, Input
from irn_cli.latent import latent_path
from irn_cli.record import Record


@dataclass(frozen=True)
class Outputs:
    """Where results go, and what may be overwritten."""

    output: str | None = None  # -o: a file for one input, a directory for more; "-" is standard output
    force: bool = False
    skip_existing: bool = False

    def __post_init__(self) -> None:
        if self.force and self.skip_existing:
            raise UsageError("--force and --skip-existing exclude each other")

    def target(self, source: Input, name: str, *, many: bool) -> Path:
        """Where the result of one input goes; `name` is what it is called by default."""
        if self.output is None:
            return STREAM if source.path == STREAM else source.path.with_name(name)
        if many and Path(self.output) == STREAM:
            raise UsageError("standard output takes one picture, not a folder or several: expected a directory")
        if many and Path(self.output).suffix.lower() in SUFFIXES and not Path(self.output).is_dir():
            raise UsageError(f"-o {self.output} names one file, for a folder or several inputs: expected a directory")
        if many or self.output.endswith(os.sep) or Path(self.output).is_dir():
            return Path(self.output) / source.place / name
        return Path(self.output)


@dataclass(frozen=True)
class Job:
    """One picture to be worked on."""

    source: Path
    targets: tuple[Path, ...]  # all that may be written for it
    pixels: int = 0  # of the large picture, made small or to be made, as far as known
    together: bool = False  # whether the targets are of use only with each other: a picture and its latent


@dataclass(frozen=True)
class Result:
    """What is known of a picture that was worked on; None is not known, or was not asked for."""

    input_size: tuple[int, int] | None = None  # (width, height), pixels
    output_size: tuple[int, int] | None = None
    psnr_y: float | None = None  # of the restored picture against its original, dB; infinite where nothing differs
    psnr_rgb: float | None = None
    delta_e: float | None = None  # CIEDE2000 of the small picture from bicubic, mean over its pixels
    delta_e_95: float | None = None  # the same, 95th percentile
    latent_bytes: int | None = None
    seconds: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    source: Path
    status: Literal["done", "skipped", "failed"]
    code: Code
    reason: str = ""  # why it was skipped, or failed
    outputs: tuple[Path, ...] = ()  # what was written
    result: Result = Result()
    traceback: str = ""  # of the error by which it failed

    def as_json(self) -> dict[str, Any]:
        """The outcome as one JSON object, which has what is known of the result; an infinite PSNR is null."""
        result = {name: value for name, value in asdict(self.result).items() if value is not None}
        return {
            "source": str(self.source),
            "status": self.status,
            "code": self.code,
            "reason": self.reason,
            "outputs": [str(path) for path in self.outputs],
            **{name: None if value == math.inf else value for name, value in result.items()},
        }


def failure(source: Path, error: Exception) -> Outcome:
    """The outcome of an input that met an error."""
    code, reason = explain(error)
    return Outcome(source, "failed", code, reason)


def plan_downscale(inputs: Sequence[Input], outputs: Outputs, scale: int, *, keep_latent: bool) -> list[Job | Outcome]:
    """Decide what each input becomes small as; a picture that irn made is skipped.

    Of inputs that would be written to one file, all but the first have failed.

    Raises:
        UsageError: an input would be written over another, or in an unknown format.
        InputError: there is nothing to do for any input.
    """
    many = len(inputs) > 1 or not all(source.named for source in inputs)
    plan: list[Job | Outcome] = []
    for source in inputs:
        if outcome := _unusable(source):
            plan.append(outcome)
            continue
        if source.header and source.header.record:
            plan.append(Outcome(source.path, "skipped", Code.OWN, "irn made it"))
            continue
        target = outputs.target(source, f"{source.path.stem}_down{scale}.png", many=many)
        _check_format(target, small=True)
        if keep_latent and target == STREAM:
            raise UsageError("--keep-latent needs a file for the small picture, not standard output")
        targets = [target, latent_path(target)] if keep_latent else [target]
        plan.append(_job(source, targets, 1, together=keep_latent))
    return _checked(plan)


def plan_upscale(
    inputs: Sequence[Input], outputs: Outputs, scale: int | None, *, samples: int, spread: bool
) -> list[Job | Outcome]:
    """Decide what each input becomes large as.

    A restored picture is skipped; in directories also one without a record, unless a scale is given for such.

    Raises:
        UsageError, InputError: as `plan_downscale`.
    """
    many = len(inputs) > 1 or not all(source.named for source in inputs)
    plan: list[Job | Outcome] = []
    for source in inputs:
        if outcome := _unusable(source):
            plan.append(outcome)
            continue
        record = source.header.record if source.header else None
        if record and not isinstance(record, Record):
            plan.append(Outcome(source.path, "skipped", Code.OWN, "irn restored it"))
            continue
        if source.header and not record and not source.header.damaged and not scale and not source.named:
            reason = "no record of irn: foreign, or stripped; --scale and --size restore it all the same"
            plan.append(Outcome(source.path, "skipped", Code.NO_RECORD, reason))
            continue
        factor = record.scale if record else scale or 4
        stem = source.path.stem.removesuffix(f"_down{factor}")
        target = outputs.target(source, f"{stem}_up{factor}.png", many=many)
        _check_format(target, small=False)
        if target == STREAM and samples > 1:
            raise UsageError("standard output takes one picture: --samples and --spread need files")
        names = [f"_{sample + 1}" for sample in range(samples)] if samples > 1 else [""]
        targets = [target if not name else target.with_stem(target.stem + name) for name in names]
        plan.append(_job(source, [*targets, target.with_stem(target.stem + "_spread")] if spread else targets, factor))
    return _checked(plan)


def _unusable(source: Input) -> Outcome | None:
    """The outcome of an input that is not there, or that a folder holds in a format that we do not read."""
    if source.missing:
        return Outcome(source.path, "failed", Code.MISSING, source.missing)
    suffix = source.path.suffix.lower()
    if suffix in FOREIGN and not source.named:
        return Outcome(source.path, "skipped", Code.UNSUPPORTED, f"irn does not read {suffix}")
    return None


def _job(source: Input, targets: list[Path], factor: int, *, together: bool = False) -> Job:
    height, width = source.header.size if source.header else (0, 0)
    return Job(source.path, tuple(targets), height * width * factor**2, together)


def _check_format(target: Path, *, small: bool) -> None:
    if target != STREAM:
        output_format(target, small=small)


def _checked(plan: Sequence[Job | Outcome]) -> list[Job | Outcome]:
    """See before anything runs that there is something to do, and that no result replaces another or an input.

    What is skipped may be replaced: it is, for the most part, an earlier run's result.
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
            reason = f"{targets[taken]} is what {makers[taken]} becomes: do this one by itself, with another -o"
            checked.append(Outcome(item.source, "failed", Code.NAME_TAKEN, reason))
        else:
            makers.update(dict.fromkeys(targets, item.source))
            checked.append(item)
    return checked


def share(plan: Sequence[Job | Outcome], index: int, count: int) -> list[Job | Outcome]:
    """Every count-th item from the index-th (from 1): the shares of 1 to N are the whole."""
    return list(plan[index - 1 :: count])


def decided(item: Job | Outcome, outputs: Outputs) -> Job | Outcome:
    """A job, or its outcome where what it would write is there already, or cannot be written."""
    if isinstance(item, Outcome):
        return item
    targets = [target for target in item.targets if target != STREAM]
    there = [target for target in targets if os.path.lexists(target)]
    if outputs.skip_existing and len(there) == len(item.targets):
        return Outcome(item.source, "skipped", Code.EXISTS, f"{there[0]} exists already")
    if there and outputs.skip_existing and item.together:
        missing = next(target for target in item.targets if target not in there)
        reason = f"{there[0]} exists already, without {missing} that belongs to it (--force makes both)"
        return Outcome(item.source, "failed", Code.INCOMPLETE, reason)
    if there and not outputs.force and not outputs.skip_existing:
        reason = f"{there[0]} exists already (--force replaces it, --skip-existing passes over it)"
        return Outcome(item.source, "failed", Code.EXISTS, reason)
    try:
        for target in targets:
            require_writable(target, overwrite=True)
    except Exception as error:  # whatever it is, it is this one's
        return failure(item.source, error)
    return item
