"""How alike two pictures are, or the pictures of two folders: PSNR, SSIM and, where asked for, learned metrics.

Nothing is made small or large here: what is compared may come from any program. Torch is not imported, unless a learned
metric brings it.
"""

import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from irn_cli.console import counting_bar, plain_table, show_number, wide_console
from irn_cli.errors import Code, InputError, IrnError, UsageError, mentions, one_line
from irn_cli.evaluation.matching import Folder
from irn_cli.image import read
from irn_cli.inputs import walk
from irn_cli.metrics import METRICS, Metric, crop_border, finite, finite_mean
from irn_cli.paths import below, exists, is_directory
from irn_cli.picture import Picture

_MOST_WORKERS = 16  # each holds two pictures in memory


@dataclass(frozen=True)
class Pair:
    """Two pictures that belong together."""

    name: str  # of the first, within its folder
    first: Path
    second: Path


@dataclass(frozen=True)
class Incomparable:
    """A picture that could not be compared, and why."""

    name: str
    error: str


@dataclass(frozen=True)
class Likeness:
    """How alike two pictures are."""

    name: str
    first: str
    second: str
    width: int
    height: int
    identical: bool  # in every pixel, transparency and border included
    quality: dict[str, float | None]  # by the metrics' keys; None where the picture is too small for one


def find_pairs(first: Path, second: Path) -> tuple[list[Pair | Incomparable], list[Path]]:
    """Find what is to be compared: two pictures, or those of two folders that have the same name.

    Names need not be quite the same: the second may end in another format, and have a suffix such as `_up4`.

    Returns:
        The pairs, in the order of their names, and the pictures of the second folder that belong to none.

    Raises:
        UsageError: one is a folder and the other is not, or a folder holds no picture.
        InputError: one is a folder and the other is not there.
    """
    if is_directory(first) != is_directory(second):
        one, other = (first, second) if is_directory(first) else (second, first)
        if not exists(other):
            raise InputError(f"no such file or directory: {other}", Code.MISSING)
        raise UsageError(f"expected two pictures or two folders: {one} is a folder, {other} is not")
    if not is_directory(first):
        return [Pair(first.name, first, second)], []
    folder = Folder(second)
    found: list[Pair | Incomparable] = []
    for path in walk(first):
        name = below(path, first).as_posix()
        try:
            found.append(Pair(name, path, folder.find(name)))
        except InputError as error:
            found.append(Incomparable(name, str(error)))
    if not found:
        raise UsageError(f"no pictures in {first}")
    uses = Counter(pair.second for pair in found if isinstance(pair, Pair))
    pairs = [
        Incomparable(pair.name, f"{pair.second} is the counterpart of {uses[pair.second]} pictures in {first}")
        if isinstance(pair, Pair) and uses[pair.second] > 1
        else pair
        for pair in found
    ]
    return pairs, [path for path in folder.pictures if path not in uses]


def compare(
    pairs: Sequence[Pair | Incomparable], *, crop: int = 0, metrics: Sequence[Metric] = ()
) -> Iterator[Likeness | Incomparable]:
    """Measure how alike the pictures of each pair are, several pairs at a time.

    Args:
        pairs: as `find_pairs` gives them. Where the first picture is grey, levels are measured as they are.
        crop: pixels to leave out at each border.
        metrics: to measure besides those that always are.

    Yields:
        A row for each, in their order.
    """
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_WORKERS), "irn-compare") as pool:
        yield from pool.map(partial(_compared, crop=crop, metrics=(*METRICS, *metrics)), pairs)


def _compared(pair: Pair | Incomparable, crop: int, metrics: Sequence[Metric]) -> Likeness | Incomparable:
    if isinstance(pair, Incomparable):
        return pair
    try:
        first, second = read(pair.first), read(pair.second)
        (height, width), size = first.size, second.size
        if first.size != second.size:
            raise InputError(f"{pair.second}: expected {width} x {height} pixels, found {size[1]} x {size[0]}")
        a, b = (crop_border(picture.pixels, crop) for picture in (first, second))
    except IrnError as error:
        return Incomparable(pair.name, str(error))
    quality: dict[str, float | None] = {}
    for metric in metrics:
        try:
            quality[metric.key] = metric.measure(a, b, first.mode == "L")
        except InputError:
            quality[metric.key] = None
    return Likeness(pair.name, str(pair.first), str(pair.second), width, height, _identical(first, second), quality)


def _identical(first: Picture, second: Picture) -> bool:
    opaque = np.full(first.size, 255, np.uint8)
    a, b = (opaque if picture.alpha is None else picture.alpha for picture in (first, second))
    return np.array_equal(first.pixels, second.pixels) and np.array_equal(a, b)


def track(
    rows: Iterable[Likeness | Incomparable], total: int, *, bar: bool = True
) -> Iterator[Likeness | Incomparable]:
    """Pass rows on, showing on standard error how far it is and what could not be compared.

    Args:
        rows: what `compare` yields.
        total: how many there will be.
        bar: show how far it is, on a terminal.
    """
    with counting_bar(shown=bar) as progress:
        console = progress.console
        for row in progress.track(rows, total, description="comparing"):
            if isinstance(row, Incomparable):
                told = row.error if mentions(row.error, row.name) else f"{row.name}: {row.error}"
                console.print(Text(f"irn: {one_line(told)}"), soft_wrap=True)
            yield row


def to_json(row: Likeness | Incomparable) -> str:
    """One line of JSON, as `docs/compare.schema.json` has it; the infinite PSNR of equal pictures is null."""
    values = dataclasses.asdict(row)
    quality = values.pop("quality", {})
    return json.dumps(finite(values | quality), allow_nan=False)


def show(rows: Sequence[Likeness], metrics: Sequence[Metric], console: Console | None = None) -> None:
    """Print a table: a line for each pair and, where there are several, their means, of what is finite."""
    console = console or wide_console()
    table = plain_table(["picture"], [metric.label for metric in metrics])
    table.add_column("")
    for row in rows:
        cells = (show_number(row.quality[metric.key], metric.digits) for metric in metrics)
        table.add_row(Text(row.name), *cells, "identical" if row.identical else "")
    columns = {metric: [value for row in rows if (value := row.quality[metric.key]) is not None] for metric in metrics}
    if len(rows) > 1:
        means = (show_number(finite_mean(found) if found else None, metric.digits) for metric, found in columns.items())
        same = sum(row.identical for row in rows)
        table.add_row(f"mean of {len(rows)}", *means, f"{same} identical" if same else "", style="bold")
    console.print(table)
    for metric, found in columns.items():
        if 0 < (infinite := found.count(math.inf)) < len(found):
            console.print(f"{metric.label} is infinite for {infinite} of {len(found)}, which its mean leaves out")
