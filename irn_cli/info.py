"""What a picture's file says of itself: what irn made of what, with which weights, and what irn would make of it.

Pictures are decoded, since nothing else shows whether one has changed; torch is not needed.
"""

import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irn_cli.errors import IrnError
from irn_cli.image import MAX_PIXELS, peek, read
from irn_cli.inputs import STREAM, Input
from irn_cli.latent import find_latent
from irn_cli.mark import Mark
from irn_cli.mark import find as find_mark
from irn_cli.paths import byte_count
from irn_cli.picture import Picture
from irn_cli.record import Record, Restored, hash_pixels
from irn_cli.streams import standard_input
from irn_cli.weights import DEFAULT_MODELS, WeightsInfo, find_by_hash, list_weights

_KINDS = {Record: "small", Restored: "restored", type(None): "foreign"}


@dataclass(frozen=True, kw_only=True)
class Info:
    """What is known of one file; None where it does not apply, or cannot be known."""

    source: Path
    error: str = ""  # why it cannot be used; of such a file little else is known
    format: str | None = None  # PNG, JPEG ...
    size: tuple[int, int] | None = None  # (width, height), upright
    bytes: int | None = None
    carries: tuple[str, ...] = ()  # what travels with its pixels
    warnings: tuple[str, ...] = ()  # what was lost in reading it
    record: Record | Restored | None = None
    mark: Mark | None = None  # of a small picture that has lost its record: what its pixels still say
    unchanged: bool | None = None  # of a small picture with its record: whether its pixels are those that irn wrote
    weights: Path | None = None  # those that the record or the mark names, where they are here
    latent: Path | None = None  # of a small picture: the file beside it that restores it bit for bit
    scale: int | None = None  # of any other picture but a restored one: how many times smaller it would become
    small_size: tuple[int, int] | None = None  # and what size
    model: str | None = None  # and with which weights

    def as_json(self) -> dict[str, Any]:
        """One JSON object; what does not apply is null."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {
            "kind": "unusable" if self.error else "small" if self.mark else _KINDS[type(self.record)],
            "record": self.record and dataclasses.asdict(self.record),
            "mark": self.mark and dataclasses.asdict(self.mark) | {"size": self.mark.size[::-1]},
            **{name: values[name] and str(values[name]) for name in ("source", "weights", "latent")},
        }

    def lines(self) -> Iterator[str]:
        """The same for people: a line for the file, and below it, indented, what belongs to it."""
        told = [self.format or "unusable"]
        told += ["{}x{}".format(*self.size)] if self.size else []
        told += [f"{self.bytes:,} bytes"] if self.bytes else []
        yield f"{self.source}: {', '.join(told)}"
        if self.error:
            yield f"  {self.error}"
        elif isinstance(self.record, Record):
            record = self.record
            yield f"  made by irn: {record.scale} times smaller than {record.width}x{record.height}{_grey(record.mode)}"
            yield f"  weights: {record.model} revision {record.revision} ({record.weights[:12]}), {self._place()}"
            if record.orientation != 1:
                yield f"  orientation in the network: {record.orientation} of EXIF's 8"
            yield f"  pixels: {'unchanged' if self.unchanged else 'changed since: it will restore poorly'}"
            if self.latent:
                yield f"  restores bit for bit with: {self.latent}"
        elif self.record:
            how = f"seed {self.record.seed}, temperature {self.record.temperature:g}, sample {self.record.sample}"
            yield f"  restored by irn: {self.record.model} revision {self.record.revision}; {how}"
        elif self.mark:
            height, width = self.mark.size
            yield f"  made by irn: {self.mark.scale} times smaller than {width}x{height}{_grey(self.mark.mode)}"
            yield f"  weights: {self.mark.weights}..., {self._place()}"
            yield "  stripped of its record: the mark in its pixels restores it"
        else:
            yield "  not made by irn, or stripped of its record"
            if self.small_size:
                yield f"  irn downscale: {'{}x{}'.format(*self.small_size)} with {self.model or 'no weights yet'}"
        if self.carries:
            yield f"  carries: {', '.join(self.carries)}"
        yield from (f"  {line}" for line in self.warnings)

    def _place(self) -> str:
        return f"here: {self.weights}" if self.weights else "not here: it cannot be restored well"


def describe(source: Input, scale: int = 4, *, max_pixels: int = MAX_PIXELS) -> Info:
    """Say what is known of a file; whatever is wrong with it becomes its `error`.

    Args:
        source: the file.
        scale: how many times smaller it would be made.
        max_pixels: larger pictures are not decoded.
    """
    if source.missing:
        return Info(source=source.path, error=source.missing)
    try:
        file = io.BytesIO(standard_input().read()) if source.path == STREAM else source.path
        nbytes = len(file.getbuffer()) if isinstance(file, io.BytesIO) else byte_count(file)
        header = peek(file)
        if isinstance(file, io.BytesIO):
            file.seek(0)
    except (IrnError, OSError) as error:
        return Info(source=source.path, error=str(error))
    height, width = header.size
    known: dict[str, Any] = {"source": source.path, "format": header.format, "bytes": nbytes, "record": header.record}
    try:
        picture = read(file, max_pixels=max_pixels)
    except IrnError as error:
        return Info(**known, size=(width, height), error=str(error))
    known |= {"size": picture.size[::-1], "carries": _carried(picture), "warnings": picture.warnings}
    known["record"] = record = picture.record
    if record:
        known["weights"] = find_by_hash(record.weights)
    if isinstance(record, Record):
        unchanged = record.small_size == picture.size and record.pixels == hash_pixels(picture.pixels)
        return Info(**known, unchanged=unchanged, latent=find_latent(source.path))
    if record:
        return Info(**known)
    if mark := find_mark(picture):
        return Info(**known, mark=mark, weights=find_by_hash(mark.weights))
    small = -(-picture.size[1] // scale), -(-picture.size[0] // scale)
    return Info(**known, scale=scale, small_size=small, model=_named(_default(scale)))


def _default(scale: int) -> WeightsInfo | None:
    """The weights that are used where only a scale is given."""
    name = DEFAULT_MODELS.get(scale)
    return next((info for info in list_weights() if info.name == name), None)


def _named(info: WeightsInfo | None) -> str | None:
    return f"{info.name} revision {info.revision}" if info else None


def _grey(mode: str) -> str:
    return " in grey" if mode == "L" else ""


def _carried(picture: Picture) -> tuple[str, ...]:
    there = {
        "transparency": picture.alpha,
        "colour profile": picture.icc,
        "EXIF": picture.exif,
        "XMP": picture.xmp,
        "resolution": picture.dpi,
        "texts or colour chunks": picture.chunks or None,
    }
    return tuple(name for name, value in there.items() if value is not None)
