"""`irn eval`: measure models."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from irn_cli.commands.options import (
    METRICS,
    NAME,
    PATH,
    PLACE,
    REFINE,
    SCALES,
    Finite,
    Runner,
    Weights,
    command,
    load_metrics,
    option,
    prepare_torch,
    require_folders,
    require_weights,
    searching,
)
from irn_cli.streams import standard_output

if TYPE_CHECKING:
    from irn_cli.evaluation.dataset import DataSet
    from irn_cli.evaluation.methods import Method
    from irn_cli.evaluation.scores import Results

_REMEMBERED = 512 << 20  # bytes of pixels that are kept for the page


@dataclass(frozen=True, kw_only=True)
class _Eval(Runner):
    directories: tuple[Path, ...] = option("Pictures", "--data", type=PLACE, multiple=True, metavar="DIR",
        help="A folder of pictures, sub-folders included: a data set named after it.  [repeatable]")  # fmt: skip
    include_own: bool = option("Pictures", "--include-own", is_flag=True, help="Measure pictures that irn made too.")
    models: tuple[str, ...] = option("Methods", "-m", "--model", multiple=True, type=Weights(), metavar="MODEL",
        show_default="the shipped one of the scale",
        help="Weights: a name, a path, or an official .pth.  [repeatable]")  # fmt: skip
    scale: int | None = option("Methods", "-s", "--scale", type=SCALES, show_default="the models', or 4",
        help="How many times smaller.")  # fmt: skip
    refine: int = option("Methods", "--refine", **REFINE,
        help="Measure each model a second time, its small pictures improved N times (10 where no N is given), as "
             "downscale --refine does.")  # fmt: skip
    baselines: tuple[str, ...] = option("Methods", "--baseline", multiple=True,
        type=click.Choice(["bicubic", "lanczos", "area", "jpeg", "webp", "avif"]),
        help="Measure plain interpolation too; or a codec, which gets the full picture into as many bytes as the first "
             "method's small one takes.  [repeatable]")  # fmt: skip
    upscalers: tuple[Path, ...] = option("Methods", "--upscaler", type=PATH, multiple=True, metavar="FILE",
        help="Measure a super-resolution network on bicubic small pictures: weights of any architecture that spandrel "
             "knows.  [repeatable; needs irn-cli[spandrel]]")  # fmt: skip
    others: tuple[str, ...] = option("Methods", "--results", multiple=True, metavar="NAME=DIR[,LRDIR]",
        help="Measure pictures that another program restored, found in DIR by the originals' names (and suffixes such "
             "as _x4 or _SR), and its small ones in LRDIR.  [repeatable]")  # fmt: skip
    metrics: tuple[str, ...] = option("Protocol", "--metric", **METRICS)
    samples: int = option("Protocol", "--samples", type=click.IntRange(1, 9999), default=1, metavar="N",
        help="Draws of the latent; scores are means.")  # fmt: skip
    seed: int = option("Protocol", "--seed", metavar="S", type=int, default=0, help="Which latents to draw.")
    temperature: float = option("Protocol", "--temperature", metavar="T", type=Finite(0), default=1.0,
        help="Standard deviation of the latent; 0 is its mean.")  # fmt: skip
    crop: int | None = option("Protocol", "--crop", type=click.IntRange(0), metavar="N", show_default="the scale",
        help="Pixels left out at each border.")  # fmt: skip
    page: str | None = option("Results", "--report", type=NAME, metavar="FILE.html|-",
        help="Write a page with the tables and with pictures to compare.")  # fmt: skip
    json_file: str | None = option("Results", "--json", type=NAME, metavar="FILE|-",
        help="Write everything as JSON; infinite PSNR is null.")  # fmt: skip
    csv_file: str | None = option("Results", "--csv", type=NAME, metavar="FILE|-",
        help="Write one line per picture and method.")  # fmt: skip
    force: bool = option("Results", "--force", is_flag=True, help="Replace existing files.")
    quiet: bool = option("Results", "-q", "--quiet", is_flag=True, help="Show no progress and no table.")
    compared: tuple[Path, Path] | None = option("Results", "--compare", type=PATH, nargs=2, metavar="A.json B.json",
        help="Measure nothing: show what changed from one --json to another, with 95 % intervals.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.directories and not self.compared:
            raise click.UsageError("Missing option '--data'.")
        if self.files.count("-") > 1:
            raise click.UsageError("only one of --json, --csv and --report can write to standard output")
        if "-" in self.files:
            standard_output()  # now, not after minutes of measuring
        methods = (*self.models, *self.baselines, *self.upscalers, *self.others)
        if self.compared and (self.directories or self.files or methods or self.metrics):
            raise click.UsageError("--compare reads two results of --json; it measures and writes nothing")
        require_folders(self.directories)
        require_weights(self.models)

    @property
    def files(self) -> tuple[str, ...]:
        """What is written; `-` is standard output."""
        return tuple(filter(None, (self.json_file, self.csv_file, self.page)))


@command(_Eval, "eval")
def eval_(options: _Eval) -> int:
    """Measure models as the papers do, next to the papers' numbers.

    Each picture in the folders is made small and large again, and compared with itself. One that cannot be read is
    named, left out, and makes the exit status 1.

    \b
    Example:
      irn eval --data Set5 --data Set14 -m irn-x4 --samples 5 --report eval.html
      irn eval --data Set5 --results EDSR=edsr/Set5 --baseline jpeg
      irn eval --compare old.json new.json
    """
    if options.compared:
        from irn_cli.evaluation import changes

        changes.show(changes.compare(*map(changes.read_results, options.compared)))
        return 0
    from irn_cli.files import require_writable

    for path in options.files:
        if path != "-":
            require_writable(path, overwrite=options.force)  # now, not after minutes of measuring
    prepare_torch(options.threads)
    from irn_cli.evaluation import report
    from irn_cli.evaluation.cluster import evaluate_on_cluster
    from irn_cli.evaluation.dataset import find_data_sets
    from irn_cli.evaluation.evaluate import evaluate
    from irn_cli.evaluation.methods import Remembered, load_methods

    with searching(quiet=options.quiet):
        datasets = find_data_sets(options.directories, include_own=options.include_own)
    for remark in filter(None, (dataset.remark for dataset in datasets)):
        click.echo(f"irn: {remark}", err=True)
    placed: dict[str, Any] = {"device": options.device, "precision": options.precision}
    load_all = partial(
        load_methods,
        options.models,
        options.baselines,
        options.scale,
        upscalers=options.upscalers,
        results=options.others,
        refine=options.refine,
        memory=options.memory,
        **placed,
    )
    methods = load_all()
    if options.page:
        methods = [Remembered(method, _REMEMBERED // len(methods)) for method in methods]
    protocol: dict[str, Any] = {name: getattr(options, name) for name in ("crop", "seed", "temperature", "samples")}
    metrics = load_metrics(options.metrics)
    told = report.protocol(methods, datasets, metrics=metrics, **protocol, **placed)
    cluster = options.cluster()
    results = report.collect(
        evaluate_on_cluster(load_all, datasets, cluster, metrics=options.metrics, **protocol)
        if cluster
        else evaluate(methods, datasets, metrics=metrics, **protocol),
        told,
        quiet=options.quiet,
    )
    if not options.quiet:
        report.show(results, stderr="-" in options.files)
    _write_results(results, methods, datasets, options)
    return 1 if results.failures else 0


def _write_results(
    results: "Results", methods: "Sequence[Method]", datasets: "Sequence[DataSet]", options: _Eval
) -> None:
    from irn_cli.evaluation import report
    from irn_cli.evaluation.page import render

    if options.json_file:
        report.write_text(options.json_file, report.to_json(results), overwrite=options.force)
    if options.csv_file:
        report.write_text(options.csv_file, report.to_csv(results), overwrite=options.force)
    if options.page:
        page = render(results, methods, datasets)
        report.write_text(options.page, page, overwrite=options.force)
        if not options.quiet and options.page != "-":
            click.echo(f"irn: wrote {options.page} ({len(page) / 1e6:.1f} MB)", err=True)
