"""Where the results of a batch go, and what they are called: `-o`, `--name`, `--format`, `--force` and the like."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from irn_cli.errors import UsageError
from irn_cli.formats.known import FORMATS, Format, FormatName, is_written, plugin, written_as
from irn_cli.inputs import STREAM, Input
from irn_cli.paths import is_directory, to_path

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
        """What a result is called: the template, that of `name` or else the default one, filled in.

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
