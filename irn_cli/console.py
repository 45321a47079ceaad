"""How tables, figures and bars are printed."""

import math
import os
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PsnrSsim = tuple[float, float | None]  # dB; None where SSIM is not known


def wide_console(*, stderr: bool = False) -> Console:
    """Where tables are printed: a terminal of its own width, or a file, which has room for five data sets."""
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160
    return console


def plain_table(names: Iterable[str], figures: Iterable[str]) -> Table:
    """A table without lines: columns of names, which may be folded, and then of figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right")
    return table


def counting_bar(*, shown: bool) -> Progress:
    """A bar on standard error that counts, and goes when all is done; only a terminal gets one."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))


def show_number(value: float | None, digits: int) -> str:
    """A number; a hyphen where there is none."""
    if value is None:
        return "-"
    return f"{value:z.{digits}f}" if math.isfinite(value) else "∞"


def show_pair(pair: PsnrSsim | None, sign: str = "") -> str:
    """`33.39 / 0.9123`; a hyphen where there is none, in place of SSIM as wide as that is."""
    if pair is None:
        return "-"
    return f"{show_decibels(pair[0], sign)} / " + (f"{'-':>6}" if pair[1] is None else f"{pair[1]:{sign}z.4f}")


def show_decibels(value: float, sign: str = "") -> str:
    return f"{value:{sign}z.2f}" if math.isfinite(value) else "∞"


def show_time(seconds: float) -> str:
    """A duration for people, as 12 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def show_bytes(count: int) -> str:
    """A size for people, as 113 kB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count >= 1000 else f"{count} bytes"
