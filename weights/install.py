"""Make a training run's export one of the weights that the package ships, and tell where it came from.

    irn eval --data Set5 --data Set14 -m RUN/weights.safetensors --baseline bicubic --samples 5 --json EVAL
    python weights/install.py RUN NAME --eval EVAL --sources SOURCES.csv

writes `NAME.safetensors`, its header filled in from the run and the evaluation; `runs/NAME/`, the run's recipe, log and
curve, made small; and NAME's measured part in `README.md`, the model cards. What people wrote around it stays. The
evaluation must be of these very weights: their hash is compared.
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from irn_cli.console import show_decibels, show_pair
from irn_cli.errors import InputError, IrnError
from irn_cli.evaluation.published import counterpart, published_rows
from irn_cli.files import atomic_write
from irn_cli.model import IRN
from irn_cli.train.records import read_log
from irn_cli.weights import load_model, read_info, save_model, weights_hash

ROWS = 300  # of the log are kept, beside all validations


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("name")
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="What `irn eval -m RUN/weights.safetensors --json` wrote.",
)
@click.option(
    "--sources",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="A table of the training pictures, with a column `licence`.",
)
@click.option(
    "--temperatures",
    type=(float, float),
    metavar="LOW HIGH",
    show_default="what they were trained for",
    help="Between which they were found to restore well; `irn upscale` tells of others.",
)
@click.option("--licence", default="Apache-2.0", help="The weights' own.")
@click.option("--room", type=click.Path(path_type=Path), default=Path(__file__).parent, help="Where to install.")
def install(
    run: Path,
    name: str,
    evaluation: Path,
    sources: tuple[Path, ...],
    temperatures: tuple[float, float] | None,
    licence: str,
    room: Path,
) -> None:
    """Install RUN's weights as NAME, with header, run and card."""
    try:
        found = json.loads(evaluation.read_text(encoding="utf-8"))
        model, info = load_model(run / "weights.safetensors"), read_info(run / "weights.safetensors")
        method = _measured(found, info.hash, evaluation)
        if weights_hash({key: tensor.half() for key, tensor in model.state_dict().items()}) != info.hash:
            raise InputError(
                f"{run}: expected weights rounded to float16, as they are shipped, before they are measured"
            )
        kept = _small_run(run, found)
        notes = {**info.notes, "licence": licence, **_data_note(info.notes, sources)}
        notes |= {f"scores_{row['dataset']}": _score_note(row, found) for row in _rows(found, method["name"])}
        target = room / f"{name}.safetensors"
        model.revision = _next_revision(target, model)
        model.temperatures = temperatures or model.temperatures
        save_model(target, model, notes=notes, overwrite=True)
        for file, content in kept.items():
            with atomic_write(room / "runs" / name / file, overwrite=True) as stream:
                stream.write(content.encode())
        _write_card(room / "README.md", name, _card(room, name, method, found))
    except IrnError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{target}: revision {model.revision}, {read_info(target).hash[:12]}")


def _measured(found: Mapping[str, Any], wanted: str, evaluation: Path) -> dict[str, Any]:
    """The evaluation's method that these weights are."""
    methods: list[dict[str, Any]] = found["protocol"]["methods"]
    for method in methods:
        if method["weights_hash"] == wanted:
            return method
    raise InputError(f"{evaluation} is not of these weights: expected hash {wanted[:12]} among its methods")


def _rows(found: Mapping[str, Any], method: str, kind: str = "summary") -> list[dict[str, Any]]:
    """An evaluation's rows of a method; the infinite PSNR of what does not differ is null in JSON."""
    rows = [row for row in found[kind] if row["method"] == method]
    return [row | {key: math.inf for key in ("psnr_y", "lr_psnr_y") if row[key] is None} for row in rows]


def _next_revision(target: Path, model: IRN) -> str:
    """One more than that of the weights to be replaced, if these are others."""
    if not target.exists():
        return "1"
    old = read_info(target)
    return old.revision if old.hash == weights_hash(model.state_dict()) else str(int(old.revision) + 1)


def _data_note(notes: Mapping[str, str], sources: Sequence[Path]) -> dict[str, str]:
    """The training data with the licences in the tables of sources, most frequent first."""
    licences: Counter[str] = Counter()
    for path in sources:
        with path.open(encoding="utf-8", newline="") as file:
            licences.update(row["licence"] for row in csv.DictReader(file))
    if not licences:
        return {}
    told = "; ".join(f"{count} {licence}" for licence, count in licences.most_common())
    return {"data": f"{notes.get('data', 'unknown')}; all {licences.total()} by licence: {told}"}


def _score_note(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    told = found["protocol"]
    return (
        f"{row['psnr_y']:.2f} dB / {row['ssim_y']:.4f} on Y, mean of {told['samples']} draws; "
        f"LR SSIM {row['lr_ssim_y']:.4f}, worst LR patch {row['lr_worst_patch']:.1f} levels, "
        f"LR CIEDE2000 {row['lr_delta_e']:.1f}, 95th percentile {row['lr_delta_e_95']:.1f}"
    )


def _small_run(run: Path, found: Mapping[str, Any]) -> dict[str, str]:
    """What tells how a run went: recipe, validation pictures, log (thinned out), curve, scores; by name of file."""
    missing = [
        name for name in ("recipe.toml", "validation.txt", "log.jsonl", "curve.svg") if not (run / name).is_file()
    ]
    if missing:
        raise InputError(f"{run} is not a run with a validation behind it: no {', '.join(missing)}")
    held = [Path(line) for line in (run / "validation.txt").read_text(encoding="utf-8").splitlines()]
    sets = [{k: v for k, v in dataset.items() if k != "directory"} for dataset in found["protocol"]["datasets"]]
    scores = {"protocol": {**found["protocol"], "datasets": sets}, "summary": found["summary"]}
    return {
        "recipe.toml": (run / "recipe.toml").read_text(encoding="utf-8"),
        "validation.txt": "".join(f"{path.parent.name}/{path.name}\n" for path in held),
        "log.jsonl": "".join(f"{json.dumps(row)}\n" for row in _thinned(read_log(run / "log.jsonl"))),
        "curve.svg": (run / "curve.svg").read_text(encoding="utf-8"),
        "scores.json": json.dumps(scores, indent=2) + "\n",
    }


def _thinned(log: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every validation, and some 300 of the other rows, evenly; five digits do."""
    stride = -(-len(log) // ROWS) or 1
    for number, row in enumerate(log):
        if "val_psnr_y" in row or number % stride == 0 or number == len(log) - 1:
            yield {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}


def _card(room: Path, name: str, method: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The measured part of a model's card, in Markdown."""
    info, told, rows = read_info(room / f"{name}.safetensors"), found["protocol"], _rows(found, method["name"])
    facts = {"parameters": f"{method['parameters']:,}", "revision": info.revision, "hash": f"`{info.hash[:12]}`"}
    shown = sorted(key for key in info.notes if not key.startswith("scores_"))  # a header has no order of its own
    facts |= {key.replace("_", " "): info.notes[key] for key in shown}
    lines = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()), ""]

    published = {row.method: row.pairs for row in published_rows(told["scale"], [row["dataset"] for row in rows])}
    reference = counterpart({"kind": "model", "name": name}) or ""
    bicubic = {row["dataset"]: row for row in _rows(found, "bicubic")}
    lines += [
        f"| PSNR / SSIM on Y | {name} | {reference}, published | bicubic | draws | small picture | worst patch "
        "| ΔE, 95 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for k, row in enumerate(rows):
        plain = bicubic.get(row["dataset"])
        theirs = published.get(reference)
        cells = [
            f"{row['dataset']} ({row['pictures']})",
            f"**{show_pair((row['psnr_y'], row['ssim_y']))}**",
            show_pair(theirs[k] if theirs else None),
            show_pair((plain["psnr_y"], plain["ssim_y"])) if plain else "-",
            "-" if row["psnr_y_std_over_samples"] is None else f"± {row['psnr_y_std_over_samples']:.4f} dB",
            show_pair((row["lr_psnr_y"], row["lr_ssim_y"])),
            f"{row['lr_worst_patch']:.1f}",
            f"{row['lr_delta_e']:.1f}, {row['lr_delta_e_95']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    sets = " ".join(f"--data {dataset['name']}" for dataset in told["datasets"])
    draws = f"--samples {told['samples']} --seed {told['seed']}"
    lines += [
        "",
        "Draws: the spread between them. Small picture: against bicubic, on Y. Worst patch: its largest mean deviation",
        "from bicubic over 8x8 pixels in any channel, levels. ΔE: CIEDE2000 of its colours from bicubic's, the mean",
        f"and 95th percentile over its pixels, means over the pictures. On {told['device']}, {told['precision']}, by",
        "",
        f"    irn eval {sets} -m {name} --baseline bicubic {draws}",
        "",
        f"Restored worst: {_worst(found, method['name'])}.",
        "",
        f"![Loss and validation over the steps of the run](runs/{name}/curve.svg)",
    ]
    return "\n".join(lines)


def _worst(found: Mapping[str, Any], method: str) -> str:
    """The pictures that came back worst, and those whose small picture strays farthest from bicubic."""
    pictures = _rows(found, method, "pictures")
    restored = sorted(pictures, key=lambda row: row["psnr_y"])[:4]
    strayed = sorted(pictures, key=lambda row: -row["lr_worst_patch"])[:4]

    def named(row: Mapping[str, Any]) -> str:
        return f"{row['dataset']}'s {Path(row['name']).stem}"

    low = ", ".join(f"{named(row)} {show_decibels(row['psnr_y'])} dB" for row in restored)
    far = ", ".join(f"{named(row)} {row['lr_worst_patch']:.1f}" for row in strayed)
    return f"{low}; worst patches of small pictures, levels: {far}"


def _write_card(path: Path, name: str, card: str) -> None:
    """Put the measured part between its marks, into NAME's section; both are made where they are missing."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# Models\n"
    begin, end = f"<!-- measured: {name}, by install.py -->", f"<!-- end of measured: {name} -->"
    block = f"{begin}\n{card}\n{end}"
    if begin in text:
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, text, count=1, flags=re.DOTALL)
    elif heading := re.search(rf"^## {re.escape(name)}\n", text, re.MULTILINE):
        text = f"{text[: heading.end()]}\n{block}\n{text[heading.end() :]}"
    else:
        text = f"{text.rstrip()}\n\n## {name}\n\n{block}\n"
    with atomic_write(path, overwrite=True) as stream:
        stream.write(text.encode())


if __name__ == "__main__":
    install()
