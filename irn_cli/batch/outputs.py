"""Where results go, what they are called, and which may be written: `-o`, `--name`, `--format`, `--force` ..."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from irn_cli.batch.jobs import Job, Outcome, failure
from irn_cli.errors import Code, UsageError
from irn_cli.files import require_writable
from irn_cli.formats.known import FORMATS, Format, FormatName, is_written, plugin, written_as
from irn_cli.inputs import STREAM, Input
from irn_cli.paths import exists, is_directory, is_remote, map_paths, modified, to_path

Existing = Literal["refuse", "skip", "update", "replace"]  # update: replaced where the input is newer, else skipped


@dataclass(frozen=True)
class Outputs:
    """Where results go, and what becomes of those that exist."""

    output: str | None = None  # -o: a file for one input, a directory for more; "-" is standard output
    existing: Existing = "refuse"
    format: FormatName | None = None  # None is what the name says; by default PNG
    quality: int | None = None  # 1 to 100, of the formats that can lose something
    name: str | None = None  # of each result, with {stem}, {scale} and {suffix} to be filled in
    original_names: bool = False  # restored pictures are called as their originals were

    @property
    def overwrite(self) -> bool:
        return self.existing in ("update", "replace")

    def called(self, default: str, stem: str, scale: int) -> str:
        """What a result is called: `name`, or else the default template, filled in.

        Raises:
            UsageError: it has other fields, or names no file.
        """
        template = self.name or default
        try:
            called = template.format(stem=stem, scale=scale, suffix=FORMATS[self.format or "png"].suffixes[0])
        except (LookupError, ValueError, AttributeError):
            fields = "{stem}, {scale} and {suffix}"
            raise UsageError(f"--name {template}: expected a name in which {fields} are to be filled in") from None
        if Path(called).name != called:
            raise UsageError(f"--name {template}: expected a name without directories (-o names one)")
        return called

    def require_format(self, target: Path, *, small: bool) -> None:
        """Refuse a target of a format that we cannot write, or that was not asked for.

        Raises:
            UsageError: the target has such a format, or the quality does not apply to it.
        """
        asked = FORMATS[self.format] if self.format else None
        if target == STREAM:
            chosen: Format = asked or FORMATS["png"]
        else:
            chosen = written_as(target, small=small)
        if asked not in (None, chosen):
            raise UsageError(f"{target} is named as a {chosen.name}, but --format asks for {self.format}")
        if self.quality is not None and chosen.quality is None and not self.original_names:
            raise UsageError(f"--quality: a {chosen.name} loses nothing; --format jpg, webp, avif and jxl can")
        try:
            chosen.options(self.quality, small=small)
        except UsageError as error:
            raise UsageError(f"{target}: {error}") from None
        plugin(chosen.kind)

    def target(self, source: Input, name: str, *, many: bool) -> Path:
        """Where the result of one input goes; `name` is what it is called, unless -o names a file."""
        if self.output is None:
            return STREAM if source.path == STREAM else source.path.with_name(name)
        output = to_path(self.output)
        if many and output == STREAM:
            raise UsageError("standard output takes one picture, not a folder or several: expected a directory")
        if many and is_written(output) and not is_directory(output):
            raise UsageError(f"-o {self.output} names one file, for a folder or several inputs: expected a directory")
        if many or self.original_names or self.output.endswith(("/", os.sep)) or is_directory(output):
            return output.joinpath(*source.place.parts, name)
        return output


def check_outputs(plan: Sequence[Job | Outcome], outputs: Outputs) -> list[Job | Outcome]:
    """Apply `check_output` to each item of a plan."""
    remote = any(is_remote(target) for item in plan if isinstance(item, Job) for target in item.targets)
    return map_paths(lambda item: check_output(item, outputs), plan, remote=remote)


def check_output(item: Job | Outcome, outputs: Outputs) -> Job | Outcome:
    """A job; or its outcome, if what it would write exists already or cannot be written."""
    if isinstance(item, Outcome):
        return item
    targets = [target for target in item.targets if target != STREAM]
    try:
        there = [target for target in targets if exists(target)]
    except OSError as error:
        return failure(item.source, error)
    outdated = bool(there) and outputs.existing in ("skip", "update") and _is_newer(item.source, there)
    if there and not (outputs.overwrite and (outdated or outputs.existing == "replace")):
        if outputs.existing == "refuse":
            reason = f"{there[0]} exists already (--force replaces it, --skip-existing skips it)"
            return Outcome(item.source, "failed", Code.EXISTS, reason)
        if len(there) == len(item.targets) or item.one_of:
            reason = f"{there[0]} exists already"
            if not outdated:
                return Outcome(item.source, "skipped", Code.EXISTS, reason)
            reason += f", but {item.source} has changed since: --update renews it"
            return Outcome(item.source, "skipped", Code.OUTDATED, reason)
        if item.together and not outputs.overwrite:
            missing = next(target for target in item.targets if target not in there)
            reason = f"{there[0]} exists already, without {missing} that belongs to it (--force makes both)"
            return Outcome(item.source, "failed", Code.INCOMPLETE, reason)
    try:
        for target in {*there, *sorted(targets, key=lambda target: len(target.name))[-1:]}:  # all in one directory
            require_writable(target, overwrite=True)
    except Exception as error:  # whatever it is, it is this one's
        return failure(item.source, error)
    return item


def _is_newer(source: Path, files: Sequence[Path]) -> bool:
    """Whether a file has changed since one of the others has."""
    try:
        return source != STREAM and modified(source) > min(modified(file, follow_links=False) for file in files)
    except OSError:
        return False
