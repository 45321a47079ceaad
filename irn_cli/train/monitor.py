"""What a training run shows while it goes on: a display that stays in place, or plain lines; and how it is stopped."""

import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from irn_cli.errors import OutputError
from irn_cli.train.recipe import Recipe
from irn_cli.train.records import Records
from irn_cli.train.trainer import Ended, Event, Logged, Saved, SetBack, Validated

# What the authors reported on the way (their issue tracker): steps at batch 16, and PSNR on RGB, DIV2K's validation
# pictures, dB. Other pictures give other numbers; the shape of the curve is what can be compared.
REFERENCE = {4: ((5_000, 29.9), (10_000, 31.0), (25_000, 31.6), (60_000, 32.0)), 2: ((500_000, 40.8),)}

_REASONS = {
    "finished": "the recipe is done",
    "time": "the time is up",
    "steps": "the steps asked for are done",
    "interrupted": "interrupted; --resume continues",
}


def watch(
    events: Iterable[Event],
    run: Path,
    recipe: Recipe,
    console: Console | None,
    *,
    quiet: bool = False,
    tensorboard: bool = False,
) -> str:
    """Show and record a run's events until the last.

    Args:
        events: what `trainer.train` yields.
        run: the run's directory.
        recipe: the run's.
        console: where to show; a terminal gets a display that stays in place, anything else a line an event. None
            shows and records nothing, as all processes but the first do.
        quiet: show nothing but what went wrong.
        tensorboard: record for TensorBoard too.

    Returns:
        Why the run ended.

    Raises:
        OutputError: a record cannot be written.
    """
    reason = ""
    if console is None:
        for event in events:
            reason = event.reason if isinstance(event, Ended) else reason
        return reason
    display = _Display(recipe)
    live = Live(display, console=console) if console.is_terminal and not quiet else None
    try:
        with Records(run, recipe, tensorboard=tensorboard) as records, live or nullcontext():
            for event in events:
                records.add(event)
                display.update(event)
                line = _line(event, recipe)
                if line and ((live is None and not quiet) or isinstance(event, SetBack)):
                    console.print(line, highlight=False, soft_wrap=True)
                if isinstance(event, Ended):
                    reason = event.reason
    except OSError as error:
        raise OutputError(f"cannot write to {run}: {error.strerror or error}") from error
    return reason


class RunConsole(Console):
    """Standard error. Where its reader goes away, the run continues in silence; rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        self.quiet = True


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Within this scope the first Ctrl-C or SIGTERM only makes the given function return True; the next one acts.

    So does a terminal that is closed (SIGHUP), unless `nohup` makes the process ignore it.
    """
    asked = False
    before: dict[int, Any] = {}

    def remember(number: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[number])

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) != signal.SIG_IGN:
            before[int(number)] = signal.signal(number, remember)
    try:
        yield lambda: asked
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)


def how_to_stop() -> str | None:
    """How to stop a run that Ctrl-C does not reach, as shell scripts start background jobs; None for any other."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        return None
    return f"Ctrl-C does not reach a run in the background: kill {os.getpid()} saves and ends it"


def _line(event: Event, recipe: Recipe) -> str:
    """An event in one line of plain text; empty where it is not worth one."""
    match event:
        case Logged(step, row, progress, left):
            skipped = f"  skipped {row['skipped']:.0f}" if row["skipped"] else ""
            loss = f"loss {row['loss']:.1f}  " if "loss" in row else ""  # none while the discriminator learns alone
            loss += f"discriminator {row['discriminator']:.3f}  " if "discriminator" in row else ""
            return (
                f"step {step:,} ({progress:.1%})  {loss}lr {row['lr']:.2e}  "
                f"{row['ms_per_step']:.0f} ms/step{skipped}  {_duration(left)} left"
            )
        case Validated(step, _, failures):
            return "\n".join([f"step {step:,}  {_scores(event)}{_reference(step, recipe)}", *failures])
        case SetBack(step, factor):
            return f"step {step:,}  too many bad steps: back to the last good state, rate x {factor:g} from here on"
        case Ended(step, reason):
            return f"ended at step {step:,}: {_REASONS[reason]}"
    return ""


def _scores(event: Validated) -> str:
    summary = event.summary
    return (
        f"validation: restored {summary.psnr_y:.2f} dB on Y, {summary.psnr_rgb:.2f} on RGB, SSIM {summary.ssim_y:.4f}; "
        f"small {summary.lr_psnr_y:.2f} dB from bicubic, worst patch {summary.lr_worst_patch:.1f} levels"
    )


def _reference(step: int, recipe: Recipe) -> str:
    """The authors' nearest earlier checkpoint, by crops seen."""
    if recipe.stage != "irn":
        return ""
    seen = step * recipe.batch / 16
    passed = [(steps, psnr) for steps, psnr in REFERENCE.get(recipe.scale, ()) if steps <= seen]
    return f"; the authors' run at {passed[-1][0]:,} x 16 crops: {passed[-1][1]} dB (RGB, DIV2K)" if passed else ""


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds > 1e8:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Display:
    """The state of a run on a terminal, redrawn in place."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.spinner = Spinner("dots", "the first step ...")
        self.logged: Logged | None = None
        self.validated: Validated | None = None
        self.saved: int | None = None
        self.ended: Ended | None = None

    def update(self, event: Event) -> None:
        match event:
            case Logged():
                self.logged = event
            case Validated():
                self.validated = event
            case Saved(step, _):
                self.saved = step
            case Ended():
                self.ended = event

    def __rich__(self) -> Group | Text | Spinner:
        if self.logged is None:
            return Text(_line(self.ended, self.recipe)) if self.ended else self.spinner
        row = self.logged.row
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"step {self.logged.step:,}",
            ProgressBar(total=1.0, completed=self.logged.progress, width=30),
            f"{self.logged.progress:.1%}",
            f"{_duration(self.logged.left)} left" if self.ended is None else _REASONS[self.ended.reason],
        )
        losses = Table(box=None, pad_edge=False, header_style="dim")  # in 80 columns, with all terms
        terms = [name for name in row if name != "lr" and hasattr(self.recipe, name)]
        names = [name for name in ("loss", *terms, "discriminator") if name in row]
        for name in names:
            losses.add_column(name, justify="right", min_width=9)
        losses.add_row(*(f"{row[name]:.4g}" for name in names))
        pace = Text(
            f"rate {row['lr']:.2e}   gradient norm {row['grad_norm']:.4g}   {row['ms_per_step']:.0f} ms/step   "
            f"skipped {row['skipped']:.0f}"
        )
        lines: list[Table | Text] = [bar, losses, pace]
        if self.validated is not None:
            step = self.validated.step
            lines.append(Text(f"step {step:,}  {_scores(self.validated)}{_reference(step, self.recipe)}"))
        if self.saved is not None:
            lines.append(Text(f"saved at step {self.saved:,}", style="dim"))
        return Group(*lines)
