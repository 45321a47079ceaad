"""What changed between two evaluations: picture by picture, with an interval for the mean difference.

The interval is a paired bootstrap's: differences are taken picture by picture, so what makes pictures easy or hard
cancels out, and resampling the pictures says how much their choice matters (Efron, "Bootstrap methods", 1979).
"""

import json
import statistics
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from irn_cli.console import plain_table, wide_console
from irn_cli.errors import InputError
from irn_cli.paths import open_file

_RESAMPLES = 10_000
_AT_ONCE = 1 << 22  # numbers drawn at a time
_LEVEL = 0.95
# Compared besides the metrics of the restored picture.
_SMALL = (
    {"key": "lr_psnr_y", "label": "small PSNR Y", "digits": 2, "higher_is_better": True},
    {"key": "bits_per_pixel", "label": "bits/pixel", "digits": 3, "higher_is_better": False},
)
# What a difference of figures may come from.
_SETTINGS = ("scale", "crop", "seed", "samples", "temperature", "device", "precision")


@dataclass(frozen=True)
class Change:
    """How a metric changed from one evaluation to another, of a method on a data set."""

    dataset: str
    method: str  # its name in the first evaluation
    other: str  # in the second
    metric: str  # its key
    label: str
    digits: int
    pictures: int  # measured in both, with finite figures
    before: float  # means over those pictures
    after: float
    difference: float  # after - before
    low: float | None  # 95 % interval of the mean difference; None for a single picture
    high: float | None
    better: int  # pictures that the second does better on
    worse: int


@dataclass(frozen=True)
class Comparison:
    """Two evaluations, compared."""

    changes: tuple[Change, ...]
    remarks: tuple[str, ...]  # what else differs, one line each


def read_results(path: Path) -> dict[str, Any]:
    """Read what `irn eval --json` wrote.

    Raises:
        InputError: the file cannot be read, or is something else.
    """
    try:
        with open_file(path) as stream:
            found = json.load(stream)
        _require_results(found)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not what irn eval --json writes") from error
    return found  # type: ignore[no-any-return]


def _require_results(found: Any) -> None:
    """Look for all that is compared; where something is missing or of another kind, that raises some error."""
    protocol = found["protocol"]
    dict(protocol.get("versions", {}))
    names = [text for method in protocol["methods"] for text in (method["name"], method.get("weights_hash") or "")]
    numbers = [metric["digits"] for metric in protocol["metrics"]]
    for metric in protocol["metrics"]:
        names += [metric["key"], metric["label"]]
        metric["higher_is_better"]
    keys = [metric["key"] for metric in (*protocol["metrics"], *_SMALL)]
    for row in found["pictures"]:
        names += [row["method"], row["dataset"], row["name"]]
        numbers += [row[key] for key in keys if row.get(key) is not None]
    if not all(isinstance(name, str) for name in names) or not all(isinstance(one, int | float) for one in numbers):
        raise TypeError


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """Compare two evaluations, as `read_results` gives them.

    Methods are compared with those of the same name; where each evaluation has a single one, these two.
    """
    names = [[method["name"] for method in found["protocol"]["methods"]] for found in (before, after)]
    pairs = [(name, name) for name in names[0] if name in names[1]]
    if len(names[0]) == len(names[1]) == 1:
        pairs = [(names[0][0], names[1][0])]
    rows = [{_key(row): row for row in found["pictures"]} for found in (before, after)]
    keys = [{metric["key"] for metric in found["protocol"]["metrics"]} for found in (before, after)]
    metrics = [metric for metric in before["protocol"]["metrics"] if metric["key"] in keys[1]]
    datasets = dict.fromkeys(dataset for _, dataset, _ in rows[0])
    changes: list[Change] = []
    for dataset in datasets:
        for method, other in pairs:
            both = [
                (row, twin)
                for (by, place, name), row in rows[0].items()
                if (by, place) == (method, dataset) and (twin := rows[1].get((other, place, name)))
            ]
            found = (_change(dataset, method, other, metric, both) for metric in (*metrics, *_SMALL))
            changes.extend(change for change in found if change)
    return Comparison(tuple(changes), tuple(_remarks(before, after, pairs, rows)))


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a row is found by: method, data set and picture, however a system writes these two's accents."""
    dataset, name = (unicodedata.normalize("NFC", row[key]) for key in ("dataset", "name"))
    return row["method"], dataset, name


def _change(
    dataset: str,
    method: str,
    other: str,
    metric: Mapping[str, Any],
    both: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> Change | None:
    key = metric["key"]
    # None stands for an infinite PSNR, or for what a method has not.
    values = [(a[key], b[key]) for a, b in both if a.get(key) is not None and b.get(key) is not None]
    if not values:
        return None
    differences = [b - a for a, b in values]
    gains = [change if metric["higher_is_better"] else -change for change in differences]
    low, high = bootstrap(differences) if len(differences) > 1 else (None, None)
    return Change(
        dataset=dataset,
        method=method,
        other=other,
        metric=key,
        label=metric["label"],
        digits=metric["digits"],
        pictures=len(values),
        before=statistics.fmean(a for a, _ in values),
        after=statistics.fmean(b for _, b in values),
        difference=statistics.fmean(differences),
        low=low,
        high=high,
        better=sum(gain > 0 for gain in gains),
        worse=sum(gain < 0 for gain in gains),
    )


def bootstrap(differences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of paired differences, from 10,000 resamples of the pictures.

    Args:
        differences: one per picture, at least two.
        seed: of the resampling; equal seeds give equal intervals.
    """
    values = np.asarray(differences, dtype=np.float64)
    random = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    step = max(1, _AT_ONCE // len(values))
    for start in range(0, _RESAMPLES, step):
        part = means[start : start + step]
        part[:] = values[random.integers(0, len(values), (len(part), len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def _remarks(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    pairs: Sequence[tuple[str, str]],
    rows: Sequence[Mapping[tuple[str, str, str], Any]],
) -> list[str]:
    """What else differs, one line each."""
    protocols = [found["protocol"] for found in (before, after)]
    settings = [{name: told.get(name) for name in _SETTINGS} | dict(told.get("versions", {})) for told in protocols]
    remarks = [
        f"{name}: {settings[0].get(name)} before, {settings[1].get(name)} after"
        for name in dict.fromkeys([*settings[0], *settings[1]])
        if settings[0].get(name) != settings[1].get(name)
    ]
    methods = [{method["name"]: method for method in told["methods"]} for told in protocols]
    for name, other in pairs:
        hashes = [found[at].get("weights_hash") or "none" for found, at in zip(methods, (name, other), strict=True)]
        if hashes[0] != hashes[1]:
            remarks.append(f"{name}: weights {hashes[0][:12]} before, {hashes[1][:12]} after")
    compared = [set(names) for names in zip(*pairs, strict=True)] or [set(), set()]
    for side, found, own in zip(("before", "after"), methods, compared, strict=True):
        remarks.extend(f"{name}: only {side}" for name in found if name not in own)
    lone = [{key[1:] for key in these} - {key[1:] for key in those} for these, those in (rows, rows[::-1])]
    for side, pictures in zip(("before", "after"), lone, strict=True):
        if pictures:
            dataset, name = min(pictures)
            remarks.append(f"pictures only {side}: {len(pictures)}, the first {dataset}/{name}")
    return remarks


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print the changes as a table, then what else differs; bold where the interval excludes no change at all."""
    console = console or wide_console()
    table = plain_table(
        ("data set", "method", "metric"), ("before", "after", "difference", "95 % interval", "better/worse/equal")
    )
    for change in comparison.changes:
        method = change.method if change.method == change.other else f"{change.method} → {change.other}"
        digits = change.digits
        interval, certain = "-", False
        if change.low is not None and change.high is not None:
            interval = f"{change.low:+z.{digits + 1}f} to {change.high:+z.{digits + 1}f}"
            certain = change.low > 0 or change.high < 0
        equal = change.pictures - change.better - change.worse
        table.add_row(
            Text(change.dataset),
            Text(method),
            change.label,
            f"{change.before:z.{digits}f}",
            f"{change.after:z.{digits}f}",
            f"{change.difference:+z.{digits + 1}f}",
            interval,
            f"{change.better}/{change.worse}/{equal}",
            style="bold" if certain else "",
        )
    console.print(table if comparison.changes else "nothing in common to compare")
    for remark in comparison.remarks:
        console.print(Text(remark), style="dim", soft_wrap=True)
