"""What each input of a batch becomes: a job to do, or an outcome where that is clear before anything runs."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from irn_cli import mark
from irn_cli.batch.jobs import Job, Outcome, failure
from irn_cli.batch.outputs import Outputs
from irn_cli.errors import Code, InputError, IrnError, UsageError
from irn_cli.formats.known import FORMATS, FormatName, is_written, unreadable, without_suffix
from irn_cli.image import MAX_PIXELS, peek, read
from irn_cli.inputs import STREAM, Input, identifier
from irn_cli.latent import latent_path
from irn_cli.paths import is_remote, map_paths, real_path
from irn_cli.record import Record

# Decides on an input, given an ending for the stem of its result.
Decide = Callable[[Input, str], Job | Outcome]

_LOSSY = {"JPEG", "MPO", "AVIF", "HEIF"}  # no mark outlasts them: what a camera wrote need not be decoded


def plan_downscale(
    inputs: Sequence[Input],
    outputs: Outputs,
    scale: int,
    *,
    keep_latent: bool,
    smaller: Sequence[int] = (),
    copy: bool = False,
) -> list[Job | Outcome]:
    """Decide what each input becomes when it is made small; a picture that irn made is skipped.

    Where several inputs have one name, as `a.jpg` and `a.png`, the first that can be read gets the plain name for its
    result, the others one with their format in it.

    Args:
        inputs: what was found.
        outputs: where results go.
        scale: how many times smaller.
        keep_latent: each picture has a latent beside it.
        smaller: further factors to try; a job's targets are in their order.
        copy: a job's last target is a copy of its input.

    Raises:
        UsageError: the one input would be replaced, all results would have one name, or the format is unknown.
        InputError: there is nothing to do for any input.
    """
    many = _are_many(inputs)

    def decide(source: Input, ending: str) -> Job | Outcome:
        if source.header and source.header.record:
            return Outcome(source.path, "skipped", Code.OWN, "irn made it")
        targets = [target(source, ending, factor) for factor in (scale, *smaller)]
        if keep_latent:
            targets.append(latent_path(targets[0]))
        if copy:
            targets.append(kept := outputs.target(source, source.path.name, many=many))
            if STREAM in (source.path, kept) or kept.name != source.path.name or kept == source.path:
                raise UsageError("--otherwise copy: expected files as inputs and another directory for them as -o")
        return Job(source.path, tuple(targets), _pixels(source), together=keep_latent, one_of=bool(smaller or copy))

    def target(source: Input, ending: str, factor: int) -> Path:
        called = outputs.called("{stem}_down{scale}{suffix}", f"{source.path.stem}{ending}", factor)
        found = outputs.target(source, called, many=many)
        outputs.require_format(found, small=True)
        if keep_latent and found == STREAM:
            raise UsageError("--keep-latent needs a file for the small picture, not standard output")
        return found

    return _planned(inputs, decide)


def plan_upscale(
    inputs: Sequence[Input],
    outputs: Outputs,
    scale: int | None,
    *,
    samples: int,
    spread: bool,
    max_pixels: int = MAX_PIXELS,
) -> list[Job | Outcome]:
    """Decide what each input becomes when it is made large; names as `plan_downscale`.

    A restored picture is skipped; in directories also one without a record or mark, unless a scale is given for such.
    What is decoded, for its mark: of these the ones in lossless formats, and a named one whose name tells no factor.

    Raises:
        UsageError, InputError: as `plan_downscale`.
    """
    many = _are_many(inputs)

    def decide(source: Input, ending: str) -> Job | Outcome:
        record = source.header.record if source.header else None
        if record and not isinstance(record, Record):
            return Outcome(source.path, "skipped", Code.OWN, "irn restored it")
        unclaimed = not (record or scale or source.named) and source.header and not source.header.damaged
        marked = _marked_factor(source, max_pixels) if unclaimed else None
        if unclaimed and not marked:
            reason = "no record of irn: foreign, or stripped; --scale and --size restore it anyway"
            return Outcome(source.path, "skipped", Code.NO_RECORD, reason)
        known = record.scale if record else scale or marked or _named_factor(source.path)
        known = known or _marked_factor(source, max_pixels)
        factor = known or 4
        stem = source.path.stem.removesuffix(f"_down{factor}")
        default = "{stem}_up{suffix}" if source.path == STREAM and not known else "{stem}_up{scale}{suffix}"
        called = outputs.called(default, f"{stem}{ending}", factor)
        warnings: tuple[str, ...] = ()
        if outputs.original_names and isinstance(record, Record) and record.name:
            called = _original_name(record, ending, outputs.format)
        elif outputs.original_names:
            warnings = (f"its original's name is not known: named {called}",)
        target = outputs.target(source, called, many=many)
        outputs.require_format(target, small=False)
        if target == STREAM and samples > 1:
            raise UsageError("standard output takes one picture: --samples and --spread need files")
        endings = [f"_{sample + 1}" for sample in range(samples)] if samples > 1 else [""]
        endings += ["_spread"] if spread else []
        targets = tuple(target.with_name(f"{target.stem}{ending}{target.suffix}") for ending in endings)
        return Job(source.path, targets, _pixels(source) * factor**2 * samples, warnings=warnings)

    return _planned(inputs, decide)


def _original_name(record: Record, ending: str, format_name: FormatName | None) -> str:
    """The original's name, in its format where we write that, else as a PNG, which loses nothing."""
    name = Path(record.name)
    suffix = name.suffix
    if format_name:
        suffix = FORMATS[format_name].suffixes[0]
    elif not is_written(name):
        by_format = (known.suffixes[0] for known in FORMATS.values() if known.kind.lower() == record.format)
        suffix = next(by_format, ".png")
    return f"{without_suffix(name)}{ending}{suffix}"


def _named_factor(path: Path) -> int | None:
    """How many times smaller a picture is, as its name says."""
    found = re.search(r"_down([248])$", path.stem)
    return int(found[1]) if found else None


def _marked_factor(source: Input, max_pixels: int) -> int | None:
    """How many times smaller a picture is, as the mark in its pixels says."""
    if _pixels(source) < mark.LEAST or not source.header or source.header.format in _LOSSY:
        return None
    try:
        found = mark.find(read(source.path, max_pixels=max_pixels))
    except IrnError:
        return None  # its turn will show why
    return found.scale if found else None


def _are_many(inputs: Sequence[Input]) -> bool:
    return len(inputs) > 1 or not all(source.named for source in inputs)


def _pixels(source: Input) -> int:
    height, width = source.header.size if source.header else (0, 0)
    return height * width


def _planned(inputs: Sequence[Input], decide: Decide) -> list[Job | Outcome]:
    """Decide on each input; no result replaces another, or an input.

    Nor does it replace what an earlier run made of another file, as far as that remembers the file's name. What is
    skipped may be replaced: it is, for the most part, an earlier run's result.
    """
    plan = [_attempt(source, decide) for source in inputs]
    if plan and all(isinstance(item, Outcome) for item in plan):
        reasons = "; ".join(sorted({item.reason for item in plan if isinstance(item, Outcome)}))
        raise InputError(f"nothing to do: {reasons} (all of {len(plan)}, the first is {plan[0].source})")
    names = _Names(plan)
    for number in sorted(range(len(plan)), key=lambda number: inputs[number].header is None):
        item, source = plan[number], inputs[number]
        if isinstance(item, Job) and (reason := names.use(item) or names.earlier_use(item, source)):
            plan[number] = _renamed(item, source, decide, reason, names)
        if isinstance(item := plan[number], Job):
            names.claim(item)
    return plan


def _renamed(item: Job, source: Input, decide: Decide, reason: str, names: "_Names") -> Job | Outcome:
    """What becomes of a job whose target is in use: the same with its format in its name, if that is free."""
    another = _attempt(source, decide, f"_{source.path.suffix[1:].lower()}")
    if isinstance(another, Outcome):
        return another
    if another.targets == item.targets:  # -o names the file, or --name is without {stem}
        if names.is_input(item):
            raise UsageError(f"{item.source} would be replaced: {reason}")
        if use := names.use(item):
            raise UsageError(f"{use}, and {item.source} too: put {{stem}} into --name")
        return item
    if names.use(another) or names.earlier_use(another, source):
        return Outcome(item.source, "failed", Code.NAME_TAKEN, f"{reason}: give this one another -o")
    told = f"named {another.targets[0].name}, since {reason}"
    return replace(another, warnings=(*another.warnings, told))


class _Names:
    """Which names of results are taken: by this run's inputs and results, and by what earlier runs made."""

    def __init__(self, plan: Sequence[Job | Outcome]) -> None:
        jobs = [item for item in plan if isinstance(item, Job)]
        self._identity = identifier()
        self._inputs = {place for item in jobs if item.source != STREAM for place in self._places(item)}
        self._results: dict[Path, Path] = {}  # and the input of each
        self._made_from = cache(_made_from)
        targets = [target for item in jobs for target in item.targets]
        map_paths(self._made_from, targets, remote=any(map(is_remote, targets)))

    def _places(self, item: Job) -> tuple[Path, ...]:
        """Where a job's input lies: where it is named, and where a link of that name leads."""
        named = self._identity(item.source)
        return (named,) if is_remote(item.source) else (named, real_path(item.source))

    def claim(self, item: Job) -> None:
        """Give a job its targets' names."""
        self._results.update((self._identity(target), item.source) for target in item.targets if target != STREAM)

    def use(self, item: Job) -> str:
        """What one of a job's targets is in this run already, and for whom; empty if nothing."""
        for target in item.targets:
            if (place := self._identity(target)) in self._inputs:
                return f"{target} is an input"
            if place in self._results:
                return f"{target} is what {self._results[place]} becomes"
        return ""

    def is_input(self, item: Job) -> bool:
        """Whether one of a job's targets is an input."""
        return not self._inputs.isdisjoint(map(self._identity, item.targets))

    def earlier_use(self, item: Job, source: Input) -> str:
        """What one of a job's targets is, if an earlier run made it from another original; empty if not."""
        record = source.header.record if source.header else None
        original = record.name if isinstance(record, Record) else source.path.name
        if source.path == STREAM or not original:
            return ""
        made = ((target, self._made_from(target)) for target in item.targets)
        others = ((target, name) for target, name in made if self._differ(source, original, name))
        return next((f"{target} is made from {name}" for target, name in others), "")

    def _differ(self, source: Input, original: str, name: str) -> bool:
        """Whether a name is another original's; one that differs only in case, or in how accents are written, is not.

        It is the original's own, renamed, unless there is an input of that name.
        """
        if _spelled(name) == _spelled(original):
            return name != original and self._identity(source.path.with_name(name)) in self._inputs
        return bool(name)


def _spelled(name: str) -> str:
    """A name as systems take it that tell neither case nor ways to write an accent apart."""
    return unicodedata.normalize("NFC", name.casefold())


def _made_from(target: Path) -> str:
    """The name of the original that an earlier run made a result from; empty if there is none, or it does not say."""
    try:
        record = None if target == STREAM else peek(target).record
    except (IrnError, OSError):
        return ""
    return record.name if record else ""


def _attempt(source: Input, decide: Decide, ending: str = "") -> Job | Outcome:
    """What is decided on an input; whatever goes wrong is its failure alone, unless the command line is wrong."""
    if source.missing:
        return Outcome(source.path, "failed", Code.MISSING, source.missing)
    if not source.named and (reason := unreadable(source.path)):
        return Outcome(source.path, "skipped", Code.UNSUPPORTED, reason)
    try:
        return decide(source, ending)
    except UsageError:
        raise
    except Exception as error:
        return failure(source.path, error)


def share(plan: Sequence[Job | Outcome], index: int, count: int) -> list[Job | Outcome]:
    """Every count-th item from the index-th (from 1): the shares of 1 to N are the whole."""
    return list(plan[index - 1 :: count])
