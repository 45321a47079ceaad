"""What a training run shows and leaves behind: a display or plain lines, `log.jsonl`, `curve.svg` and `preview.png`."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from irn_cli.errors import OutputError
from irn_cli.evaluation import flat
from irn_cli.files import atomic_write
from irn_cli.image import write
from irn_cli.metrics import finite
from irn_cli.picture import Picture
from irn_cli.train.recipe import Recipe
from irn_cli.train.trainer import Ended, Event, Logged, Preview, Saved, SetBack, Validated

# What the authors reported on the way (their issue tracker): steps at batch 16, and PSNR on RGB, DIV2K's validation
# pictures, dB. Other pictures give other numbers; the shape of the curve is what can be compared.
REFERENCE = {4: ((5_000, 29.9), (10_000, 31.0), (25_000, 31.6), (60_000, 32.0)), 2: ((500_000, 40.8),)}

_REASONS = {
    "finished": "the recipe is done",
    "time": "the time is up",
    "steps": "the steps asked for are done",
    "interrupted": "interrupted; --resume continues",
}


def watch(events: Iterable[Event], run: Path, recipe: Recipe, console: Console | None, *, quiet: bool = False) -> str:
    """Show and record a run's events until the last.

    Args:
        events: what `trainer.train` yields.
        run: the run's directory.
        recipe: the run's.
        console: where to show; a terminal gets a display that stays in place, anything else a line an event. None
            shows and records nothing, as all processes but the first do.
        quiet: show nothing but what went wrong.

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
        history = read_log(run / "log.jsonl")
        whole = not history or (run / "log.jsonl").read_bytes().endswith(b"\n")
        with (run / "log.jsonl").open("a", encoding="utf-8") as log, live or nullcontext():
            log.write("" if whole else "\n")
            for event in events:
                if (record := _record(event)) is not None:
                    history.append(record)
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                if isinstance(event, Saved | Validated):
                    write_curve(run / "curve.svg", history, recipe)
                if isinstance(event, Saved):
                    write_preview(run / "preview.png", event.preview)
                if isinstance(event, Ended):
                    reason = event.reason
                display.update(event)
                line = _line(event, recipe)
                if line and ((live is None and not quiet) or isinstance(event, SetBack)):
                    console.print(line, highlight=False, soft_wrap=True)
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
    """Within this scope the first Ctrl-C or SIGTERM only sets what the given function tells; the next one acts.

    So does a terminal that is closed (SIGHUP), unless `nohup` has it ignored.
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
    """What a run has to say that Ctrl-C does not reach; shell scripts start what they put into the background so."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        return None
    return f"started in the background, it does not heed Ctrl-C: kill {os.getpid()} saves and ends it"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a run's log so far; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def write_curve(path: Path, history: Sequence[Mapping[str, Any]], recipe: Recipe) -> None:
    """Draw a run's loss, on a logarithmic scale, and below it the PSNR of its validations, over steps.

    A row's loss is that of one batch: what is drawn is the mean of up to 20 rows.

    Args:
        path: the SVG file to make, or to replace.
        history: the log's rows.
        recipe: the run's.
    """
    # A run that was resumed from an earlier step did some steps again: the later row counts.
    rows = sorted({row["step"]: row["loss"] for row in history if 0 < (row.get("loss") or 0) < math.inf}.items())
    recent = [rows[max(0, k - 19) : k + 1] for k in range(len(rows))]
    losses = [(some[-1][0], math.log10(sum(loss for _, loss in some) / len(some))) for some in recent]
    scores = sorted({row["step"]: row["val_psnr_y"] for row in history if row.get("val_psnr_y") is not None}.items())
    last = max((step for step, _ in (*losses, *scores)), default=1)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 440" font-family="sans-serif" font-size="12">',
        '<rect width="720" height="440" fill="white"/>',
        *_panel(losses, last, 30, "loss", "#8aa", decades=True),
        *_panel(scores, last, 240, "validation PSNR on Y, dB", "#c40", decades=False),
        '<text x="390" y="430" text-anchor="middle">'
        f"steps (batch {recipe.batch}, {recipe.patch} x {recipe.patch})</text>",
        "</svg>\n",
    ]
    with atomic_write(path, overwrite=True) as stream:
        stream.write("\n".join(parts).encode())


def write_preview(path: Path, preview: Preview) -> None:
    """Write one picture: the original, the small one (each pixel a square), the restored one, side by side."""
    scale = preview.original.shape[0] // preview.small.shape[0]
    squares = preview.small.repeat(scale, 0).repeat(scale, 1)
    gap = np.full((len(preview.original), 4, 3), 255, np.uint8)
    write(path, Picture(np.hstack([preview.original, gap, squares, gap, preview.restored])), overwrite=True)


def _panel(
    points: Sequence[tuple[int, float]], last: int, top: float, title: str, colour: str, *, decades: bool
) -> list[str]:
    """One diagram, 160 high: a line through points, with the range's ends on its axes."""
    left, width, height = 80.0, 620.0, 160.0
    parts = [
        f'<text x="{left}" y="{top - 8}">{title}</text>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#bbb"/>',
        f'<text x="{left + width}" y="{top + height + 16}" text-anchor="end">{last:,}</text>',
    ]
    if not points:
        return parts
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = high - low or 1.0

    def place(step: int, value: float) -> str:
        return f"{left + width * step / last:.1f},{top + height * (1 - (value - low) / span):.1f}"

    for value, y in ((high, top + 12), (low, top + height)):
        label = f"{10**value:.4g}" if decades else f"{value:.2f}"
        parts.append(f'<text x="{left - 6}" y="{y}" text-anchor="end">{label}</text>')
    line = " ".join(place(*point) for point in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    if len(points) <= 50:
        for point in points:
            x, y_text = place(*point).split(",")
            parts.append(f'<circle cx="{x}" cy="{y_text}" r="2.5" fill="{colour}"/>')
    return parts


def _record(event: Event) -> dict[str, Any] | None:
    """An event's row in `log.jsonl`."""
    match event:
        case Logged(step, row, _, _):
            return {"step": step, **finite(row)}
        case Validated(step, summary, failures):
            numbers = {name: value for name, value in flat(summary).items() if isinstance(value, int | float)}
            record = {f"val_{name}": value for name, value in finite(numbers).items()}
            return {"step": step, **record, "failures": failures}
        case SetBack(step, factor):
            return {"step": step, "setback": factor}
        case Ended(step, reason):
            return {"step": step, "ended": reason}
    return None


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
