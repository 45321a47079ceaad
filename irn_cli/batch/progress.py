"""Shows a batch while it runs: a bar on a terminal, plain lines elsewhere, JSON for programs."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from irn_cli.batch.jobs import Outcome
from irn_cli.batch.shares import Shares
from irn_cli.cluster import Throughput, WorkersChanged
from irn_cli.console import show_bytes, show_number, show_time
from irn_cli.errors import Code, mentions, one_line

if TYPE_CHECKING:
    from irn_cli.batch.line import Events, Progressed  # which load torch

_NAME = 24  # columns at most, for the name of the picture at hand
_LEAST_NAME = 12  # columns that it must have, else what stands beside it gives way
_RATE = 20  # columns at least, for what stands beside it
_BAR = 6  # columns at least
_WITHIN_FIGURES = re.compile(r"(?<=\d) (?=(?:bytes|[kMG]B|dB|s|min|h)\b)|(?<=[\dB]) (?=-> \d)|(?<=[\dB] ->) (?=\d)")
_JOINT = "\ue000"  # for a space at which no line may break; names do not have it (`one_line`)
# What is said of many that are skipped, where the reason of each is about its own files.
_SKIPPED = {
    Code.EXISTS: "their outputs exist",
    Code.OUTDATED: "their outputs exist, but they have changed since: --update renews them",
    Code.OWN: "irn made them",
    Code.NO_RECORD: "no record of irn: foreign, or stripped; --scale and --size restore them anyway",
}


def follow(
    events: "Events",
    total: int,
    *,
    pixels: Mapping[Path, int] | None = None,
    quiet: bool = False,
    verbose: bool = False,
    as_json: bool = False,
    debug: bool = False,
) -> int:
    """Show a batch on standard error, or its outcomes as JSON on standard output, until it is done.

    Args:
        events: what a runner yields; closed at the end, whatever that is.
        total: how many outcomes there will be.
        pixels: of the large picture of each job, by its source, as far as known: what its share of the bar is.
        quiet: show warnings and failures only.
        verbose: show each picture that is skipped, not only how many.
        as_json: print one JSON object for each outcome, and nothing else.
        debug: show the traceback of each failure.

    Returns:
        The exit status: 1 if something failed, else 0.
    """
    shown = _Display(total, pixels or {}, quiet=quiet, verbose=verbose, as_json=as_json, debug=debug)
    begin = time.monotonic()
    try:
        with closing(events), shown.bar:
            try:
                shown.show(events)
            except KeyboardInterrupt:
                with suppress(KeyboardInterrupt):
                    shown.show(_interrupted(events))
                raise
    except KeyboardInterrupt:
        shown.summarise(time.monotonic() - begin, interrupted=True)
        raise
    shown.summarise(time.monotonic() - begin)
    return 1 if shown.counts["failed"] else 0


def _interrupted(events: "Events") -> "Iterator[Progressed | WorkersChanged | Outcome]":
    """What a runner still has to say when it is interrupted."""
    yield events.throw(KeyboardInterrupt)
    yield from events


class _Display:
    """A bar that names the picture at hand, and lines above it."""

    def __init__(
        self, total: int, pixels: Mapping[Path, int], *, quiet: bool, verbose: bool, as_json: bool, debug: bool
    ) -> None:
        self.counts: Counter[str] = Counter()  # outcomes by their status
        self._total, self._quiet, self._verbose = total, quiet, verbose
        self._as_json, self._debug = as_json, debug
        self._shares = Shares(pixels)
        self._shared = _directory_of_all(pixels)
        self._skipped: dict[str, list[Outcome]] = {}  # by what is said of them together
        self._bytes = [0, 0]  # read and written, of the pictures that are done
        self._console = Console(stderr=True, markup=False, highlight=False)
        self._console.soft_wrap = not self._console.is_terminal  # elsewhere lines do not break
        self.bar = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(None, table_column=Column(ratio=1, min_width=_BAR)),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
            expand=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self.bar.add_task("", total=max(self._shares.total, 1), figures="")
        self._throughput = Throughput()
        self._name = self._note = ""  # of the picture at hand, and what its work says of itself
        self._update()

    def show(self, events: "Iterable[Progressed | WorkersChanged | Outcome]") -> None:
        for event in events:
            if isinstance(event, Outcome):
                self.end(event)
            elif isinstance(event, WorkersChanged):
                self.count_workers(event)
            else:
                self.progress(event)

    def progress(self, at: "Progressed") -> None:
        self._shares.progress(at.source, at.share)
        self._name = one_line(str(at.source).removeprefix(self._shared))
        self._note = at.note
        self._update()

    def count_workers(self, changed: WorkersChanged) -> None:
        self._throughput.update(changed)
        self._update()
        if changed.given_up:
            self._say(f"irn: a worker was given up: {one_line(changed.given_up)}", style="yellow")

    def _update(self) -> None:
        """Set the bar; each figure has a width of its own, so that nothing moves but the bar."""
        if self.bar.disable:
            return
        megapixels, pictures, left = self._shares.rates()
        count = f"{self.counts.total():,}/{self._total:,}".rjust(1 + 2 * len(f"{self._total:,}"))
        if self._total == 1:
            count = f"{100 * self._shares.done / max(self._shares.total, 1):3.0f} %"
        figures = f"{count} {'' if left is None else _clock(left):>7}"
        digits = 1 if megapixels >= 1 else 2
        rate = f"{megapixels:.{digits}f} MP/s, {pictures:,.0f}/min" if left is not None else ""
        rate = self._throughput.describe(self.counts["done"] + self.counts["failed"]) or rate
        room = self._console.width - len(figures) - _BAR - 2
        head = _head(self._name, (self._note, rate), room)
        self.bar.update(self._task, completed=self._shares.done, description=head, figures=figures)

    def end(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        self._shares.end(outcome)
        self._update()
        if self._debug and outcome.traceback:
            self._say(outcome.traceback.rstrip())
        if self._as_json:
            click.echo(json.dumps(outcome.as_json()))
            return
        for warning in outcome.result.warnings:
            self._say(one_line(f"{outcome.source}: warning: {warning}"), style="yellow")
        if outcome.status == "failed":
            self._say(failed(outcome), style="red")
        elif outcome.status == "done":
            for index, size in enumerate((outcome.result.input_bytes, outcome.result.output_bytes)):
                self._bytes[index] += size or 0
            if not self._quiet:
                self._say(_line(outcome))
        elif self._verbose:
            self._say(_skipped(outcome))
        else:
            self._skipped.setdefault(_SKIPPED.get(outcome.code, outcome.reason), []).append(outcome)

    def summarise(self, seconds: float, *, interrupted: bool = False) -> None:
        if self._quiet or self._as_json:
            return
        for reason, outcomes in self._skipped.items():
            many = f"{len(outcomes):,} skipped: {one_line(reason)}"
            self._say(_skipped(outcomes[0]) if len(outcomes) == 1 else many)
        told_all = list(self.counts) == ["skipped"] and len(self._skipped) == 1
        if (self._total == 1 or told_all) and not interrupted:
            return
        counts = ", ".join(
            f"{count:,} {name}" for name in ("done", "skipped", "failed") if (count := self.counts[name])
        )
        told = f"{counts or 'nothing done'}{f' of {self._total:,}' if interrupted else ''} in {show_time(seconds)}"
        if self._shares.at_once > 1:
            told += f", {self._shares.at_once} at a time"
        if all(self._bytes):
            told += f"; {show_bytes(self._bytes[0])} -> {show_bytes(self._bytes[1])}"
        self._say(told)

    def _say(self, line: str, style: str | None = None) -> None:
        if self._console.is_terminal:  # lines break between words, but not between a number and its unit
            joined = Text(_WITHIN_FIGURES.sub(_JOINT, line)).wrap(self._console, self._console.width)
            line = "\n".join(part.plain for part in joined).replace(_JOINT, " ")
        self._console.print(line, style=style)


def _directory_of_all(sources: Collection[Path]) -> str:
    """The directory that all sources have in common, which the bar need not show."""
    outermost = [chosen(map(str, sources), default="") for chosen in (min, max)]
    prefix = os.path.commonprefix(outermost)  # noqa: RUF071  # by characters, as URLs need it; then cut between names
    return prefix[: 1 + max(prefix.rfind(separator) for separator in ("/", os.sep))]


def _head(name: str, remarks: Sequence[str], room: int) -> str:
    """A name and the first remark that there is room for beside it; as wide whatever the name is."""
    wide = {remark: max(cell_len(remark), _RATE) for remark in [*filter(None, remarks), ""]}
    shown = next((remark for remark in wide if room - 1 - wide[remark] >= _LEAST_NAME), None)
    width = max(min(_NAME, room if shown is None else room - 1 - wide[shown]), 1)
    head = set_cell_size(_tail(name, width), width)
    return head if shown is None else f"{head} {shown:{_RATE}}"


def _tail(name: str, width: int) -> str:
    """The end of a name, at most `width` columns wide."""
    if cell_len(name) <= width:
        return name
    while cell_len(name) > width - 1:
        name = name[1:]
    return f"…{name}"


def _clock(seconds: float) -> str:
    """As 0:01:30; whole hours from ten on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours < 10 else f"{hours:,} h"


def failed(outcome: Outcome) -> str:
    """One picture that has failed."""
    told = f"failed: {outcome.reason}"
    return one_line(told if mentions(outcome.reason, str(outcome.source)) else f"{outcome.source}: {told}")


def _skipped(outcome: Outcome) -> str:
    return one_line(f"{outcome.source}: skipped: {outcome.reason}")


def _line(outcome: Outcome) -> str:
    """One picture that is done."""
    result = outcome.result
    sizes = [f"{width}x{height}" for width, height in filter(None, (result.input_size, result.output_size))]
    notes = [" -> ".join(sizes)]
    if result.input_bytes and result.output_bytes:
        notes[0] += f", {show_bytes(result.input_bytes)} -> {show_bytes(result.output_bytes)}"
    if result.psnr_y is not None:
        notes.append(f"restores at {show_number(result.psnr_y, 2)} dB Y, {show_number(result.psnr_rgb, 2)} dB RGB")
    if result.unrefined_psnr_y is not None:
        unrefined = (show_number(value, 2) for value in (result.unrefined_psnr_y, result.unrefined_psnr_rgb))
        notes.append(f"before refinement {' and '.join(unrefined)}")
    if result.latent_bytes is not None:
        notes.append(f"kept original {show_bytes(result.latent_bytes)}")
    names = ", ".join(one_line(str(path)) for path in outcome.outputs)
    return f"{one_line(str(outcome.source))} -> {names} ({'; '.join(notes)}; {result.seconds:.1f} s)"
