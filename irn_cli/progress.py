"""Shows a batch while it runs: a bar on a terminal, plain lines elsewhere, JSON for programs."""

import json
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from irn_cli.batch import Job, Outcome
from irn_cli.errors import one_line


class BatchProgress:
    """Tells of a batch on standard error and, as JSON, on standard output; a context manager.

    Attributes:
        counts: how many pictures were done, skipped and failed.
    """

    def __init__(self, total: int, *, quiet: bool = False, as_json: bool = False) -> None:
        """Prepare to show `total` pictures; `quiet` leaves only warnings and failures."""
        self.counts = {"done": 0, "skipped": 0, "failed": 0}
        self._quiet, self._as_json = quiet, as_json
        self._console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn() if total > 1 else TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def started(self, job: Job) -> None:
        """Name the picture at hand beside the bar."""
        name = one_line(job.source.name)
        self._bar.update(self._task, description=name if len(name) <= 32 else f"{name[:15]}…{name[-16:]}")

    def step(self, share: float) -> None:
        """Move the bar within the picture at hand."""
        self._bar.update(self._task, completed=sum(self.counts.values()) + min(share, 0.99))

    def ended(self, outcome: Outcome) -> None:
        """Tell what became of one picture."""
        self.counts[outcome.status] += 1
        self._bar.update(self._task, completed=sum(self.counts.values()))
        if self._as_json:
            click.echo(json.dumps(outcome.as_json()))
            return
        source = one_line(str(outcome.source))
        for warning in outcome.warnings:
            self._say(f"{source}: warning: {one_line(warning)}", style="yellow")
        reason = one_line(outcome.reason)
        if outcome.status == "failed":
            self._say(f"failed: {reason}" if source in reason else f"{source}: failed: {reason}", style="red")
        elif not self._quiet:
            self._say(f"{source}: skipped: {reason}" if outcome.status == "skipped" else _line(outcome))

    def summary(self, seconds: float) -> None:
        """Tell how many there were of each kind, unless there was just one picture."""
        if sum(self.counts.values()) > 1 and not self._quiet and not self._as_json:
            counts = ", ".join(f"{count} {status}" for status, count in self.counts.items() if count)
            self._say(f"{counts} in {seconds:.1f} s")

    def _say(self, line: str, style: str | None = None) -> None:
        self._console.print(line, style=style)


def _line(outcome: Outcome) -> str:
    facts = outcome.facts
    (w, h), (W, H) = facts["input_size"], facts["output_size"]
    notes = [f"{w}x{h} -> {W}x{H}"]
    if "psnr_y" in facts:
        notes.append(f"restores at {facts['psnr_y']:.2f} dB Y, {facts['psnr_rgb']:.2f} dB RGB")
    if "latent_bytes" in facts:
        notes.append(f"latent {facts['latent_bytes'] / 1e6:.1f} MB")
    names = ", ".join(one_line(str(path)) for path in outcome.outputs)
    return f"{one_line(str(outcome.source))} -> {names} ({'; '.join(notes)}; {facts['seconds']:.1f} s)"
