"""Shows a batch while it runs: a bar on a terminal, plain lines elsewhere, JSON for programs."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from irn_cli.batch.plan import Outcome
from irn_cli.cluster import WorkersChanged
from irn_cli.errors import one_line

if TYPE_CHECKING:
    from irn_cli.batch.line import Events, Progressed  # which load torch


def follow(events: "Events", total: int, *, quiet: bool = False, as_json: bool = False, debug: bool = False) -> int:
    """Show a batch on standard error, or its outcomes as JSON on standard output, until it is done.

    Args:
        events: what a runner yields; closed at the end, whatever that is.
        total: how many outcomes there will be.
        quiet: show warnings and failures only.
        as_json: print one JSON object for each outcome, and nothing else.
        debug: show the traceback of each failure.

    Returns:
        The exit status: 1 if something failed, else 0.
    """
    shown = _Display(total, quiet=quiet, as_json=as_json, debug=debug)
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

    def __init__(self, total: int, *, quiet: bool, as_json: bool, debug: bool) -> None:
        self.counts: Counter[str] = Counter()  # outcomes by their status
        self._total, self._quiet, self._as_json, self._debug = total, quiet, as_json, debug
        self._console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn() if total > 1 else TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self.bar.add_task("", total=total)
        self._workers, self._begin = -1, 0.0  # ready ones of a cluster, and since when; -1: there is none

    def show(self, events: "Iterable[Progressed | WorkersChanged | Outcome]") -> None:
        for event in events:
            if isinstance(event, Outcome):
                self.end(event)
            elif isinstance(event, WorkersChanged):
                self.count_workers(event)
            else:
                self.progress(event)

    def progress(self, at: "Progressed") -> None:
        name = one_line(at.source.name)
        name = name if len(name) <= 32 else f"{name[:15]}…{name[-16:]}"
        description = f"{name} ({at.note})" if at.note else name
        self.bar.update(self._task, description=description, completed=self.counts.total() + min(at.share, 0.99))

    def count_workers(self, changed: WorkersChanged) -> None:
        self._workers, self._begin = changed.live, self._begin or time.monotonic()
        self._describe_workers()
        if changed.given_up:
            self._say(f"irn: a worker was given up: {one_line(changed.given_up)}", style="yellow")

    def _describe_workers(self) -> None:
        rate = (self.counts["done"] + self.counts["failed"]) / max(time.monotonic() - self._begin, 1e-3)
        workers = f"{self._workers} worker{'s' * (self._workers != 1)}"
        self.bar.update(self._task, description=f"{workers}, {rate:.1f} files/s")

    def end(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        self.bar.update(self._task, completed=self.counts.total())
        if self._workers >= 0:
            self._describe_workers()
        if self._debug and outcome.traceback:
            self._say(outcome.traceback.rstrip())
        if self._as_json:
            click.echo(json.dumps(outcome.as_json()))
            return
        source, reason = one_line(str(outcome.source)), one_line(outcome.reason)
        for warning in outcome.result.warnings:
            self._say(f"{source}: warning: {one_line(warning)}", style="yellow")
        if outcome.status == "failed":
            self._say(f"failed: {reason}" if source in reason else f"{source}: failed: {reason}", style="red")
        elif not self._quiet:
            self._say(f"{source}: skipped: {reason}" if outcome.status == "skipped" else _line(outcome))

    def summarise(self, seconds: float, *, interrupted: bool = False) -> None:
        if self._quiet or self._as_json or (self._total == 1 and not interrupted):
            return
        counts = ", ".join(f"{self.counts[name]} {name}" for name in ("done", "skipped", "failed") if self.counts[name])
        self._say(f"{counts or 'nothing done'}{f' of {self._total}' if interrupted else ''} in {seconds:.1f} s")

    def _say(self, line: str, style: str | None = None) -> None:
        self._console.print(line, style=style)


def _line(outcome: Outcome) -> str:
    """One picture that is done."""
    result = outcome.result
    sizes = [f"{width}x{height}" for width, height in filter(None, (result.input_size, result.output_size))]
    notes = [" -> ".join(sizes)]
    if result.psnr_y is not None:
        notes.append(f"restores at {result.psnr_y:.2f} dB Y, {result.psnr_rgb:.2f} dB RGB")
    if result.unrefined_psnr_y is not None:
        notes.append(f"before refinement {result.unrefined_psnr_y:.2f} and {result.unrefined_psnr_rgb:.2f}")
    if result.latent_bytes is not None:
        notes.append(f"latent {result.latent_bytes / 1e6:.1f} MB")
    names = ", ".join(one_line(str(path)) for path in outcome.outputs)
    return f"{one_line(str(outcome.source))} -> {names} ({'; '.join(notes)}; {result.seconds:.1f} s)"
