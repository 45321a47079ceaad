"""What a user asks for, as far as it is said, and what of it a run remembers for the call that continues it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irn_cli.errors import InputError, UsageError
from irn_cli.paths import real_path
from irn_cli.train.recipe import read_config

if TYPE_CHECKING:
    from irn_cli.train.losses import VGGInput

NAME = "request.json"  # in the run's directory


@dataclass(frozen=True)
class Request:
    """What a user asks for; None where they leave it to us."""

    data: tuple[Path, ...] = ()
    validation: Path | None = None
    include_own: bool = False  # whether pictures that irn made are used too
    recipe: str | None = None
    config: Path | None = None
    overrides: Mapping[str, Any] | None = None  # values of a recipe's keys; None where not given
    run: Path | None = None  # the run's directory
    init: str | None = None
    resume: Path | None = None  # the run to continue
    anneal: float | None = None  # branch off the run to continue, and take its rate to zero in so many seconds
    force: bool = False
    time_limit: float | None = None  # seconds of work
    stop_after: int | None = None  # steps
    vgg: Path | None = None
    vgg_input: "VGGInput | None" = None
    device: str = "auto"
    precision: str = "auto"
    memory: str | None = None

    def __post_init__(self) -> None:
        if self.resume is not None and (self.init or self.recipe):
            raise UsageError("--resume continues a run with its own recipe and weights: leave out --recipe and --init")
        if self.anneal is not None and self.resume is None:
            raise UsageError("--anneal takes the rate of a run to zero: name the run with --resume")

    def changes(self) -> dict[str, Any]:
        """What replaces the recipe's values: the options', and the file's where no option says otherwise.

        Raises:
            InputError: the file cannot be read or is not TOML.
            UsageError: it has an unknown key or a value of the wrong kind.
        """
        given = {key: value for key, value in (self.overrides or {}).items() if value is not None}
        return {**given, **(read_config(self.config) if self.config else {}), **given}

    def remembered(self, time_limit: float | None) -> dict[str, Any]:
        """What a call that continues the run need not repeat; the time limit is the whole schedule's, in seconds."""
        return {
            "data": [str(real_path(path)) for path in self.data],
            "validation": self.validation and str(real_path(self.validation)),
            "include_own": self.include_own,
            "vgg": self.vgg and str(real_path(self.vgg)),
            "time_limit": time_limit,
        }

    def repeated(self) -> "Request":
        """The request to continue a run, with what it leaves out as the run had it.

        Raises:
            UsageError: no pictures are named, and none remembered.
            InputError: what the run remembers is damaged.
        """
        before = recall(self.resume) if self.resume else {}
        vgg = self.vgg or (before.get("vgg") and Path(before["vgg"]))
        if self.data:  # maybe others, that are to be validated on others too
            return replace(self, vgg=vgg)
        validation = self.validation or (before.get("validation") and Path(before["validation"]))
        own = self.include_own or bool(before.get("include_own"))
        data = tuple(map(Path, before.get("data", ())))
        if not data:
            raise UsageError("nothing to train on: name a folder of pictures with --data")
        return replace(self, data=data, validation=validation, include_own=own, vgg=vgg)


def recall(run: Path) -> dict[str, Any]:
    """What a run remembers; nothing where it is of an earlier version.

    Raises:
        InputError: it is damaged.
    """
    try:
        remembered: dict[str, Any] = json.loads((run / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{run / NAME} is damaged: {error}") from error
    return remembered


def parse_duration(text: str) -> float:
    """Turn `90s`, `9m`, `1h30m` or plain seconds into seconds.

    Raises:
        UsageError: the text is no duration, or a duration of nothing.
    """
    number = r"(\d{1,18}(?:\.\d+)?)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip().lower())
    parts = match.groups(default="0") if match else ("0", "0", "0")
    seconds = sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))
    if seconds <= 0:
        raise UsageError(f"{text!r} is not a time limit: expected something like 9m, 90s or 1h30m")
    return seconds
