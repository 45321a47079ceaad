"""What an evaluation found, for people and programs: tables, JSON, CSV. `page` makes a page of it to look at."""

import csv
import dataclasses
import io
import json
import platform
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

from rich.table import Table
from rich.text import Text

from irn_cli.cluster import Throughput, WorkersChanged
from irn_cli.console import counting_bar, plain_table, show_number, show_pair, wide_console
from irn_cli.device import resolve_device, resolve_precision
from irn_cli.errors import mentions, one_line
from irn_cli.evaluation.dataset import DataSet
from irn_cli.evaluation.methods import Method
from irn_cli.evaluation.published import comparison, picture_counts, remarks
from irn_cli.evaluation.scores import Failure, Results, Score, flat
from irn_cli.files import atomic_write
from irn_cli.metrics import METRICS, Metric, finite
from irn_cli.streams import standard_output

SMALL_CAPTION = (
    "small: against bicubic, on Y; worst patch: mean deviation of 8x8 pixels, levels; "
    "bits/pixel: of the file that is kept, by the original's pixels"
)
_FACTS: dict[str, Any] = {"parameters": None, "revision": None, "weights_hash": None}  # where a method has none


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
            if row.method or not mentions(reason, row.name):
                reason = f"{row.dataset}/{row.name}{f' ({row.method})' if row.method else ''}: {reason}"
            console.print(Text(f"irn: {one_line(reason)}"), soft_wrap=True)
    return Results(told, tuple(scores), tuple(failures))


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
        output.flush()
        output.buffer.write(data)  # as a file has it, whatever the terminal's encoding
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


def _main_table(results: Results) -> Table:
    rows = comparison(results)
    heads = [f"{name} ({pictures})" for name, pictures in picture_counts(results).items()]
    signs = ["+" if row.kind == "difference" else "" for row in rows]
    columns = []
    for k, head in enumerate(heads):
        figures = [show_pair(row.pairs[k], sign) for row, sign in zip(rows, signs, strict=True)]
        columns.append(_aligned(figures, [row.marks[k] for row in rows], len(head)))
    table = plain_table(["method"], ["parameters", "s/picture", *heads])
    before = "measured"
    for number, row in enumerate(rows):
        if row.kind == "published" and before != "published":
            table.add_row()
            table.add_row("as published:", style="dim")
        before = row.kind
        name = {"measured": row.method, "difference": f"  against {row.method}", "published": row.method}[row.kind]
        parameters = f"{row.parameters / 1e6:.3g} M" if row.parameters else ""
        seconds = f"{row.seconds:.2f}" if row.seconds is not None else ""
        style = {"measured": "bold", "difference": "", "published": "dim"}[row.kind]
        table.add_row(Text(name), parameters, seconds, *(column[number] for column in columns), style=style)
    return table


def _aligned(figures: Sequence[str], marks: Sequence[str], least: int) -> Sequence[Text | str]:
    """The cells of a column, at least so wide: figures that end in line, whatever mark stands behind one."""
    room = max(map(len, marks))
    if not room:
        return figures
    width = max(least - room, *map(len, figures))
    # On the right, rich would strip the spaces that stand where a mark is missing.
    return [Text(f"{figure:>{width}}{mark}", justify="left") for figure, mark in zip(figures, marks, strict=True)]


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
