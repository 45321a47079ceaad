"""What an evaluation found, for people and programs: tables beside the papers' numbers, JSON, CSV.

The published numbers are those of Xiao et al., "Invertible Image Rescaling" (ECCV 2020): Table 1 of its appendix at 4x,
the main paper's at 2x. `page` makes the same into a page to look at.
"""

import csv
import dataclasses
import io
import json
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from irn_cli.cluster import Throughput, WorkersChanged
from irn_cli.console import Pair, counting_bar, plain_table, show_number, show_pair, wide_console
from irn_cli.device import resolve_device, resolve_precision
from irn_cli.errors import one_line
from irn_cli.evaluation.dataset import DataSet
from irn_cli.evaluation.methods import Method
from irn_cli.evaluation.scores import Failure, Score, Summary, flat, summarise
from irn_cli.files import atomic_write
from irn_cli.metrics import METRICS, Metric, finite
from irn_cli.streams import standard_output

SETS = ("Set5", "Set14", "BSD100", "Urban100", "DIV2K")
_ALIASES = {"b100": "BSD100", "bsds100": "BSD100", "div2kval": "DIV2K", "div2kvalid": "DIV2K", "div2kvalidhr": "DIV2K"}

# Each row: the method, millions of parameters, and PSNR / SSIM on the sets above. The figures marked RGB are on RGB,
# not on Y: the paper took them from another one, which measured so.
_PUBLISHED = {
    2: """
Bicubic & Bicubic |      | 33.66 .9299 | 30.24 .8688 | 29.56 .8431 | 26.88 .8403 | 31.01 .9393 RGB
IRN               | 1.67 | 43.99 .9871 | 40.79 .9778 | 41.32 .9876 | 39.92 .9865 | 44.32 .9908
""",
    4: """
Bicubic & Bicubic |      | 28.42 .8104 | 26.00 .7027 | 25.96 .6675 | 23.14 .6577 | 26.66 .8521 RGB
Bicubic & SRCNN   | .057 | 30.48 .8628 | 27.50 .7513 | 26.90 .7101 | 24.52 .7221 |
Bicubic & EDSR    | 43.1 | 32.62 .8984 | 28.94 .7901 | 27.79 .7437 | 26.86 .8080 | 29.38 .9032 RGB
Bicubic & RDN     | 22.3 | 32.47 .8990 | 28.81 .7871 | 27.72 .7419 | 26.61 .8028 |
Bicubic & RCAN    | 15.6 | 32.63 .9002 | 28.87 .7889 | 27.77 .7436 | 26.82 .8087 | 30.77 .8460
Bicubic & ESRGAN  | 16.3 | 32.74 .9012 | 29.00 .7915 | 27.84 .7455 | 27.03 .8152 | 30.92 .8486
Bicubic & SAN     | 15.7 | 32.64 .9003 | 28.92 .7888 | 27.78 .7436 | 26.79 .8068 |
TAD & TAU         |      | 31.81       | 28.63       | 28.51       | 26.63       | 31.16
CAR & EDSR        | 52.8 | 33.88 .9174 | 30.31 .8382 | 29.15 .8001 | 29.28 .8711 | 32.82 .8837
IRN               | 4.35 | 36.19 .9451 | 32.67 .9015 | 31.64 .8826 | 31.41 .9157 | 35.07 .9318
IRN+              | 4.35 | 33.59 .9147 | 29.97 .8444 | 28.94 .8189 | 28.24 .8684 | 32.24 .8921
""",
}


# What other programs' rows are held against, by a word of their names.
_OTHERS = {name.lower(): f"Bicubic & {name}" for name in ("SRCNN", "EDSR", "RDN", "RCAN", "ESRGAN", "SAN")}
_OTHERS |= {"tad": "TAD & TAU", "car": "CAR & EDSR"}
_OTHERS |= {"rrdb": "Bicubic & ESRGAN"}  # what its authors call the network that the paper measured

ON_RGB = "* on RGB, not on Y: the paper took this figure from another one"
FEWER = "(n) on n pictures only: the others could not be measured"
SMALL_CAPTION = (
    "small: against bicubic, on Y; worst patch: mean deviation of 8x8 pixels, levels; "
    "bits/pixel: of the file that is kept, by the original's pixels"
)
_FACTS: dict[str, Any] = {"parameters": None, "revision": None, "weights_hash": None}  # where a method has none


@dataclass(frozen=True)
class Results:
    """An evaluation, finished."""

    protocol: dict[str, Any]  # see `protocol`
    scores: tuple[Score, ...]
    failures: tuple[Failure, ...]

    @property
    def summary(self) -> list[Summary]:
        return summarise(self.scores)


@dataclass(frozen=True)
class Row:
    """A line of the comparison."""

    kind: Literal["measured", "difference", "published"]
    method: str  # for a difference: the published method that the line above it is held against
    parameters: float | None
    seconds: float | None  # a picture
    pairs: tuple[Pair | None, ...]  # on Y, data set by data set
    on_rgb: tuple[bool, ...] = ()  # for a published row: which of them are figures on RGB
    pictures: tuple[int | None, ...] = ()  # for a measured row: how many, where others were measured on more

    @property
    def marks(self) -> tuple[str, ...]:
        """What is put behind each figure; `remarks` explains it."""
        if self.kind == "published":
            return tuple("*" if on_rgb else "" for on_rgb in self.on_rgb)
        counts = self.pictures or (None,) * len(self.pairs)
        return tuple("" if count is None else f" ({count})" for count in counts)


def protocol(
    methods: Sequence[Method],
    datasets: Sequence[DataSet],
    *,
    metrics: Sequence[Metric] = (),
    crop: int | None,
    seed: int,
    temperature: float,
    samples: int,
    device: str,
    precision: str,
) -> dict[str, Any]:
    """All that the numbers depend on; the arguments are those of `evaluate` and `load_methods`."""
    where = resolve_device(device)
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "scale": methods[0].scale,
        "crop": methods[0].scale if crop is None else crop,
        "seed": seed,
        "samples": samples,
        "temperature": temperature,
        "metrics": [
            {field.name: getattr(metric, field.name) for field in dataclasses.fields(Metric) if field.name != "measure"}
            for metric in (*METRICS, *metrics)
        ],
        "methods": [{"name": method.name, **_FACTS, **method.facts} for method in methods],
        "datasets": [
            {"name": dataset.name, "directory": str(dataset.directory), "pictures": len(dataset.pictures)}
            for dataset in datasets
        ],
        "device": str(where),
        "precision": resolve_precision(precision, where),
        "versions": {
            "irn": version("irn-cli"),
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "pillow")},
        },
    }


def collect(rows: Iterable[Score | Failure | WorkersChanged], told: dict[str, Any], *, quiet: bool = False) -> Results:
    """Collect the rows of an evaluation, showing on standard error how far it is and what fails.

    Args:
        rows: what `evaluate` or `evaluate_on_cluster` yields.
        told: what `protocol` gives.
        quiet: show failures only.
    """
    scores, failures, throughput = [], [], Throughput()
    total = sum(dataset["pictures"] for dataset in told["datasets"]) * len(told["methods"])
    with counting_bar(shown=not quiet) as progress:
        console, task = progress.console, progress.add_task("measuring", total=total)
        for row in rows:
            if isinstance(row, WorkersChanged):
                throughput.update(row)
                if row.given_up:
                    console.print(Text(f"irn: a worker was given up: {one_line(row.given_up)}"), soft_wrap=True)
                continue
            measured = progress.tasks[task].completed / len(told["methods"])
            description = ", ".join(filter(None, [row.dataset, throughput.describe(int(measured))]))
            progress.update(task, description=description, advance=1 if row.method else len(told["methods"]))
            if isinstance(row, Score):
                scores.append(row)
                continue
            failures.append(row)
            reason = row.error
            if row.method or row.name not in reason:
                reason = f"{row.dataset}/{row.name}{f' ({row.method})' if row.method else ''}: {reason}"
            console.print(Text(f"irn: {one_line(reason)}"), soft_wrap=True)
    return Results(told, tuple(scores), tuple(failures))


def comparison(results: Results) -> list[Row]:
    """Lay out methods by data sets: each method measured, its difference to its published row, then all of those."""
    summary = {(row.method, row.dataset): row for row in results.summary}
    sets = [dataset["name"] for dataset in results.protocol["datasets"]]
    most = picture_counts(results)
    published = published_rows(results.protocol["scale"], sets)
    rows = []
    for method in results.protocol["methods"]:
        found = [summary.get((method["name"], name)) for name in sets]
        pairs: tuple[Pair | None, ...] = tuple((row.psnr_y, row.ssim_y) if row else None for row in found)
        seconds = _mean_seconds([row for row in found if row])
        counts = tuple(row.pictures if row and row.pictures < most[row.dataset] else None for row in found)
        rows.append(Row("measured", method["name"], method["parameters"], seconds, pairs, pictures=counts))
        reference = next((row for row in published if row.method == counterpart(method)), None)
        if reference:
            differences = tuple(map(_difference, pairs, reference.pairs, reference.on_rgb))
            if any(differences):
                rows.append(Row("difference", reference.method, None, None, differences))
    return rows + published


def picture_counts(results: Results) -> dict[str, int]:
    """How many pictures of each data set were measured, by the method that failed on the fewest."""
    counts = {dataset["name"]: 0 for dataset in results.protocol["datasets"]}
    for row in results.summary:
        counts[row.dataset] = max(counts[row.dataset], row.pictures)
    return counts


def remarks(results: Results) -> list[str]:
    """What the marks in a comparison mean, and which means leave pictures out, one line each."""
    rows = comparison(results)
    found = {
        ON_RGB: any(any(row.on_rgb) for row in rows),
        FEWER: any(any(row.pictures) for row in rows),
    }
    return [remark for remark, needed in found.items() if needed] + [
        f"{row.method} on {row.dataset}: PSNR is infinite for {count} of {row.pictures}, which its mean leaves out"
        for row in results.summary
        if 0 < (count := row.infinite.get("psnr_y", 0)) < row.pictures
    ]


def show(results: Results, *, stderr: bool = False) -> None:
    """Print two tables, of restored pictures beside the papers' numbers and of small pictures, and what is missing."""
    console = wide_console(stderr=stderr)
    console.print(caption(results.protocol), highlight=False)
    console.print(_main_table(results))
    for remark in remarks(results):
        console.print(remark, highlight=False)
    console.print(f"\n{SMALL_CAPTION}", highlight=False)
    console.print(_small_table(results))
    if results.failures:
        console.print(f"\n{len(results.failures)} could not be measured; the means leave them out")


def write_text(file: str, text: str, *, overwrite: bool = False) -> None:
    r"""Write text to a file, or to standard output for `-`.

    Bytes of a name that are no UTF-8 are written as JSON does: \udce9.

    Raises:
        OutputError: the file exists already or cannot be written, or standard output is closed.
    """
    data = text.encode("utf-8", "backslashreplace")
    if file == "-":
        output = standard_output()
        output.write(data.decode())
        output.flush()
        return
    with atomic_write(file, overwrite=overwrite) as stream:
        stream.write(data)


def caption(told: dict[str, Any]) -> str:
    """Say in a line how it was measured."""
    draws = f"mean of {told['samples']} draws" if told["samples"] > 1 else "one draw"
    return (
        f"{told['scale']}x, PSNR (dB) / SSIM on Y, {told['crop']} pixels cropped off each border; "
        f"{draws}, seed {told['seed']}, temperature {told['temperature']:g}; {told['device']}, {told['precision']}"
    )


def to_json(results: Results) -> str:
    """Write everything as one JSON object, described by `docs/eval.schema.json`.

    An infinite PSNR, of pictures that do not differ, becomes null.
    """
    found = {
        "version": 1,
        "protocol": results.protocol,
        "summary": [flat(row) for row in results.summary],
        "pictures": [flat(row) for row in results.scores],
        "failures": [dataclasses.asdict(row) for row in results.failures],
    }
    return json.dumps(finite(found), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_csv(results: Results) -> str:
    """Write a line for each picture and method, each with the protocol; the draws' PSNR stand in one cell."""
    told = results.protocol
    hashes = {method["name"]: method["weights_hash"] or "" for method in told["methods"]}
    common = {name: told[name] for name in ("crop", "seed", "samples", "temperature", "device", "precision")}
    common |= told["versions"]
    names = [field.name for field in dataclasses.fields(Score) if field.name != "quality"]
    names += [metric["key"] for metric in told["metrics"]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "weights_hash", *common])
    for score in results.scores:
        cells = {**flat(score), "psnr_y_samples": " ".join(map(str, score.psnr_y_samples))}
        writer.writerow([*(cells[name] for name in names), hashes[score.method], *common.values()])
    return text.getvalue()


def published_rows(scale: int, sets: Sequence[str]) -> list[Row]:
    """The papers' rows at a scale, for the data sets at hand; none where none of these is a known one."""
    known = [_ALIASES.get(key := re.sub("[^a-z0-9]", "", name.lower()), key) for name in sets]
    columns = {name.lower(): column for column, name in enumerate(SETS)}
    wanted = [columns.get(name.lower()) for name in known]
    rows = []
    for line in _PUBLISHED.get(scale, "").strip().splitlines():
        method, parameters, *cells = (cell.strip() for cell in line.split("|"))
        found = [cells[column] if column is not None else "" for column in wanted]
        pairs = tuple(map(_pair, found))
        if any(pairs):
            count = float(parameters) * 1e6 if parameters else None
            rows.append(Row("published", method, count, None, pairs, tuple(cell.endswith("RGB") for cell in found)))
    return rows


def _pair(cell: str) -> Pair | None:
    numbers = [float(number) for number in cell.removesuffix("RGB").split()]
    return (numbers[0], numbers[1] if len(numbers) > 1 else None) if numbers else None


def counterpart(method: dict[str, Any]) -> str | None:
    """The published method that one of ours is to be held against."""
    if method["kind"] == "model":
        return "IRN+" if "plus" in method["name"] else "IRN"
    if method["kind"] == "baseline":
        return "Bicubic & Bicubic" if method["name"] == "bicubic" else None
    words = re.split("[^a-z0-9]+", method["name"].lower())
    return next((_OTHERS[word] for word in words if word in _OTHERS), None)


def _difference(ours: Pair | None, theirs: Pair | None, theirs_on_rgb: bool) -> Pair | None:
    if not ours or not theirs or theirs_on_rgb:
        return None
    return ours[0] - theirs[0], None if ours[1] is None or theirs[1] is None else ours[1] - theirs[1]


def _mean_seconds(rows: Sequence[Summary]) -> float | None:
    timed = [(row.seconds_per_picture, row.pictures) for row in rows if row.seconds_per_picture is not None]
    pictures = sum(count for _, count in timed)
    return sum(seconds * count for seconds, count in timed) / pictures if timed else None


def _main_table(results: Results) -> Table:
    sets = picture_counts(results)
    columns = (f"{name} ({pictures})" for name, pictures in sets.items())
    table = plain_table(["method"], ["parameters", "s/picture", *columns])
    before = "measured"
    for row in comparison(results):
        if row.kind == "published" and before != "published":
            table.add_row()
            table.add_row("as published:", style="dim")
        before = row.kind
        name = {"measured": row.method, "difference": f"  against {row.method}", "published": row.method}[row.kind]
        parameters = f"{row.parameters / 1e6:.3g} M" if row.parameters else ""
        seconds = f"{row.seconds:.2f}" if row.seconds is not None else ""
        sign = "+" if row.kind == "difference" else ""
        style = {"measured": "bold", "difference": "", "published": "dim"}[row.kind]
        cells = [show_pair(pair, sign) + mark for pair, mark in zip(row.pairs, row.marks, strict=True)]
        table.add_row(Text(name), parameters, seconds, *cells, style=style)
    return table


def _small_table(results: Results) -> Table:
    further = results.protocol["metrics"][2:]  # PSNR and SSIM on Y are in the table above
    labels = [metric["label"] for metric in further]
    small = ("draws ± dB", "small dB / SSIM", "worst patch", "ΔE, 95 %", "bits/pixel")
    table = plain_table(["method", "data set"], [*labels, *small])
    for row in results.summary:
        table.add_row(
            Text(row.method),
            Text(row.dataset),
            *(show_number(row.quality[metric["key"]], metric["digits"]) for metric in further),
            show_number(row.psnr_y_std_over_samples, 4),
            show_pair(None if row.lr_psnr_y is None else (row.lr_psnr_y, row.lr_ssim_y)),
            show_number(row.lr_worst_patch, 1),
            show_number(row.lr_delta_e_95, 1),
            show_number(row.bits_per_pixel, 3),
        )
    return table
