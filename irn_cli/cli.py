"""The `irn` command: options in, one call into the package, results out.

Bodies are thin and import what they need, so that `irn --help` is quick and loads no torch. This is the one place that
turns errors into exit statuses: 0 all done, 1 some input failed, 2 wrong usage, 130 interrupted.
"""

import gc
import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from irn_cli.errors import InputError, IrnError, UsageError, one_line

if TYPE_CHECKING:
    from irn_cli.batch import Job, Outcome, Work
    from irn_cli.inputs import Found
    from irn_cli.progress import BatchProgress

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
_NAME = click.Path(readable=False)  # lets names of files be completed; what is wrong with one, its reader tells
_PATH = click.Path(readable=False, path_type=Path)
_SCALES = click.Choice(["2", "4", "8"])


def main() -> None:
    """Run the command line; every expected failure ends in one line on standard error."""
    try:
        status = irn.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("irn: interrupted", err=True)
        status = 130
    except BrokenPipeError:  # whoever read our output has enough
        sys.stderr.close()
        status = 1
    except IrnError as error:
        click.echo(f"irn: {one_line(str(error))}", err=True)
        status = error.exit_status
    except OSError as error:  # standard output on a full disk, or a directory that may not be searched
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"irn: {one_line(place)}{error.strerror or error}", err=True)
        status = 1
    except (MemoryError, RuntimeError) as error:  # torch tells of a failed allocation on the CPU by a RuntimeError
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):
            raise
        click.echo("irn: the memory does not suffice; training takes less with a smaller --batch or --patch", err=True)
        status = 1
    if "WORLD_SIZE" not in os.environ:  # under torchrun, what such cycles hold has threads to be ended
        gc.freeze()  # else the interpreter, ending, searches all of torch for cycles: a quarter of a second
    sys.exit(status or 0)


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    import torch

    from irn_cli import __version__
    from irn_cli.device import resolve_device, resolve_precision
    from irn_cli.weights import list_weights

    device = resolve_device("auto")
    names = ", ".join(f"{info.name} (revision {info.revision})" for info in list_weights()) or "none"
    click.echo(f"irn {__version__}")
    click.echo(f"torch {torch.__version__}, device {device}, precision {resolve_precision('auto', device)}")
    click.echo(f"weights: {names}")
    context.exit()


class _Finite(click.FloatRange):
    """A number within a range; NaN, which is below and above nothing, and infinity are in none."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, parameter, context)
        return number if math.isfinite(number) else self.fail(f"{number} is not a finite number.", parameter, context)


class _Command(click.Command):
    """A command whose help shows its options in the sections that `section` made of them."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in sorted(self.get_params(context), key=lambda option: not hasattr(option, "section")):
            if isinstance(option, click.Option) and (row := option.get_help_record(context)):
                sections.setdefault(getattr(option, "section", "Help"), []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class _Group(click.Group):
    command_class = _Command
    group_class = type


def section(title: str, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add options that the help shows together under a title."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            option(command)
        for parameter in command.__click_params__[-len(options) :]:
            parameter.section = title
        return command

    return add


@click.group(cls=_Group, context_settings=CONTEXT)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the versions of irn and torch, the device and the weights found.")  # fmt: skip
def irn() -> None:
    """Make pictures 2 or 4 times smaller so that they can be made large again.

    The small picture is an ordinary PNG; the same network that made it restores it far better than any upscaler.

    \b
    Example:
      irn downscale photo.jpg        # writes photo_down4.png
      irn upscale photo_down4.png    # writes photo_up4.png
    """


_DEVICE = (
    click.option("--device", metavar="auto|cpu|cuda[:N]", default="auto", help="Where the network runs."),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto",
                 help="Convolutions' arithmetic; auto is bf16 where the hardware has it."),
    click.option("--memory", metavar="SIZE", help="Most memory to use, as 2GB or 500MB.  [default: what there is]"),
)  # fmt: skip
_INPUTS = section(
    "Inputs",
    click.option("--files-from", type=_NAME, metavar="FILE",
                 help="Read more inputs from FILE, one a line; - is standard input."),
    click.option("-0", "--null", "zeros", is_flag=True, help="Names in --files-from end with a zero byte."),
    click.option("--shard", metavar="I/N|slurm",
                 help="Take the I-th of N shares of the inputs; slurm reads both from a job array's task."),
    click.option("--max-pixels", type=click.IntRange(1), default=500_000_000, help="Refuse larger pictures."),
)  # fmt: skip
_OUTPUTS = (
    click.option("-o", "--output", type=_NAME, metavar="OUT",
                 help="A file for one input, a directory for more; - is standard output.  [default: beside SRC]"),
    click.option("--force", is_flag=True, help="Replace existing files."),
    click.option("--skip-existing", is_flag=True, help="Pass over inputs whose outputs exist."),
    click.option("--strip", is_flag=True, help="Leave out EXIF, XMP, colour profile and resolution."),
)  # fmt: skip
_TOLD = section(
    "What is told",
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object a picture on standard output."),
    click.option("-q", "--quiet", is_flag=True, help="Tell only of warnings and failures."),
)


@irn.command()
@click.argument("sources", nargs=-1, type=_NAME, metavar="SRC...")
@section(
    "Network",
    click.option("-s", "--scale", type=_SCALES, help="How many times smaller.  [default: 4, or that of --model]"),
    click.option("-m", "--model", type=_NAME, metavar="MODEL",
                 help="Weights: a name or a path.  [default: the shipped ones of the scale]"),
    *_DEVICE,
)  # fmt: skip
@section(
    "Outputs",
    *_OUTPUTS,
    click.option("--keep-latent", is_flag=True,
                 help="Also write what the small picture cannot hold: with it the original comes back bit for bit."),
)  # fmt: skip
@section(
    "Checks",
    click.option("--on-artifact", type=click.Choice(["warn", "fail", "bicubic"]), default="warn",
                 help="What to do about coloured blotches in the small picture; bicubic blends them away."),
    click.option("--verify", is_flag=True, help="Restore each small picture at once and tell the PSNR."),
    click.option("--min-psnr", type=_Finite(0), metavar="DB",
                 help="Fail, and write nothing, where it is lower (on Y)."),
)  # fmt: skip
@_INPUTS
@_TOLD
def downscale(
    scale: str | None, model: str | None, keep_latent: bool, on_artifact: Any, verify: bool, min_psnr: float | None,
    device: str, precision: str, memory: str | None, **common: Any,
) -> int:  # fmt: skip
    """Make pictures small, for `irn upscale` to make large again.

    SRC are pictures, directories (searched to the bottom) or glob patterns; - is standard input.

    \b
    Example:
      irn downscale photo.jpg              # writes photo_down4.png
      irn downscale photos -o small        # mirrors the tree of photos in small
    """
    _wait_asleep()
    from irn_cli.batch import Downscaler, plan_downscale
    from irn_cli.rescale import Rescaler
    from irn_cli.weights import DEFAULT_MODELS, load_model

    batch = _Batch(device=device, memory=memory, **common)
    found = batch.find()
    if model is None and (scale := scale or "4") and int(scale) not in DEFAULT_MODELS:
        raise UsageError(f"no weights for {scale}x are shipped: --model names yours")
    scaler = Rescaler(load_model(model or DEFAULT_MODELS[int(scale or 4)]), device, precision, memory, batch.step)
    if scale and int(scale) != scaler.scale:
        raise UsageError(f"{scaler.model.name} makes pictures {scaler.scale} times smaller, not {scale}")
    plan = plan_downscale(found, batch.outputs, scaler.scale, keep_latent=keep_latent)
    return batch.run(plan, Downscaler(scaler, keep_latent, on_artifact, verify, min_psnr))


@irn.command()
@click.argument("sources", nargs=-1, type=_NAME, metavar="SRC...")
@section(
    "Latent",
    click.option("--samples", type=click.IntRange(1), default=1, help="How many restorations to draw of each."),
    click.option("--seed", type=int, help="Which latents to draw.  [default: 0]"),
    click.option("--temperature", type=_Finite(0),
                 help="Their standard deviation; anything but 1 lies outside what the networks were trained for."
                      "  [default: 1]"),
    click.option("--latent", type=_PATH,
                 help="The kept latent of the one input.  [default: the one beside it, if any, where none of the "
                      "options above asks for a drawn one]"),
    click.option("--spread", is_flag=True,
                 help="Also write where the samples differ: 20 times the difference, darker is more."),
)  # fmt: skip
@section(
    "Network",
    click.option("-s", "--scale", type=_SCALES, help="For pictures without a record of irn."),
    click.option("-m", "--model", type=_NAME, metavar="MODEL",
                 help="Weights: a name or a path.  [default: those that made the small picture]"),
    *_DEVICE,
)  # fmt: skip
@section("Outputs", *_OUTPUTS)
@_INPUTS
@_TOLD
def upscale(
    scale: str | None, model: str | None, samples: int, seed: int | None, temperature: float | None,
    latent: Path | None, spread: bool, device: str, precision: str, memory: str | None, **common: Any,
) -> int:  # fmt: skip
    """Make what `irn downscale` made small large again.

    SRC are pictures, directories (searched to the bottom) or glob patterns; - is standard input.

    \b
    Example:
      irn upscale photo_down4.png             # writes photo_up4.png
      irn upscale small -o large --samples 3  # three restorations of each picture
    """
    _wait_asleep()
    from irn_cli.batch import Upscaler, plan_upscale
    from irn_cli.rescale import Rescaler
    from irn_cli.weights import find_weights, load_model

    if spread and samples < 2:
        raise UsageError("--spread shows how samples differ: it needs --samples 2 or more")
    if model:
        find_weights(model)  # once, not for each picture
    draw = samples > 1 or seed is not None or temperature is not None
    if latent and draw:
        raise UsageError("--latent excludes --samples, --seed and --temperature: with the latent nothing is drawn")
    batch = _Batch(device=device, memory=memory, **common)
    found = batch.find()
    if latent and len(found) != 1:
        raise UsageError(f"--latent belongs to one picture, but there are {len(found)}")
    factor = int(scale) if scale else None
    plan = plan_upscale(found, batch.outputs, factor, samples=samples, spread=spread)

    def load(source: str | Path) -> Rescaler:
        return Rescaler(load_model(source), device, precision, memory, batch.step)

    temperature = 1.0 if temperature is None else temperature
    return batch.run(plan, Upscaler(load, model, factor, samples, seed or 0, temperature, latent, draw, spread))


def _wait_asleep() -> None:
    """Let OpenMP's threads sleep between operations; heeded where torch loads after this.

    By default they wait in a loop, which pays in training. Pictures are shared out to threads of our own, and the few
    operations around them would take many times as long where other programs want the cores (`benchmarks/README.md`).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class _Batch:
    """What `downscale` and `upscale` share: the inputs found, the batch run and shown, the exit status."""

    def __init__(
        self, sources: tuple[str, ...], output: str | None, files_from: str | None, zeros: bool, shard: str | None,
        strip: bool, max_pixels: int, force: bool, skip_existing: bool, as_json: bool, quiet: bool,
        device: str, memory: str | None,
    ) -> None:  # fmt: skip
        import torch

        from irn_cli.batch import Outputs
        from irn_cli.device import resolve_device
        from irn_cli.inputs import parse_shard

        if not sources and not files_from:
            raise click.UsageError("Missing argument 'SRC...'.")
        if "-" in sources and files_from == "-":
            raise UsageError("standard input cannot be both a picture and the list of --files-from")
        if as_json and (output == "-" or (output is None and "-" in sources)):
            raise UsageError("standard output cannot take both a picture and --json; -o names a file")
        self.outputs = Outputs(output, force, skip_existing)
        self._sources, self._files_from, self._zeros = sources, files_from, zeros
        self._shard = parse_shard(shard, os.environ) if shard else (1, 1)
        self._strip, self._max_pixels = strip, max_pixels
        self._as_json, self._quiet = as_json, quiet
        # Small pictures have a core each; a GPU is one, and --memory is said of one picture's network.
        self._at_once = 1 if memory or resolve_device(device).type != "cpu" else torch.get_num_threads()
        self._stopped = threading.Event()
        self._begin = time.perf_counter()
        self._progress: BatchProgress | None = None

    def find(self) -> "list[Found]":
        """The inputs."""
        from irn_cli.inputs import find_pictures, read_list

        listed: list[str] = []
        if self._files_from == "-":
            listed = read_list(sys.stdin.buffer, zeros=self._zeros)
        elif self._files_from:
            try:
                with Path(self._files_from).open("rb") as stream:
                    listed = read_list(stream, zeros=self._zeros)
            except OSError as error:
                raise InputError(f"cannot read {self._files_from}: {error.strerror}") from error
        return find_pictures(self._sources, listed)

    def step(self, share: float) -> None:
        """Pass on how far the network is with a picture; end it where the run has been interrupted."""
        if self._stopped.is_set():
            raise KeyboardInterrupt
        if self._progress:
            self._progress.step(share)

    def run(self, plan: "Sequence[Job | Outcome]", work: "Work") -> int:
        """Work through the plan and show it; the exit status."""
        from irn_cli.batch import run, share
        from irn_cli.device import tune_allocator
        from irn_cli.progress import BatchProgress

        # What a decoder has to say about odd files reaches the user as our warnings and failures.
        warnings.filterwarnings("ignore", module="PIL")
        tune_allocator()
        plan = share(plan, *self._shard)
        with BatchProgress(len(plan), quiet=self._quiet, as_json=self._as_json) as self._progress:
            outcomes = run(plan, work, self.outputs, strip=self._strip, max_pixels=self._max_pixels,
                           at_once=self._at_once, started=self._progress.started, stopped=self._stopped)  # fmt: skip
            for outcome in outcomes:
                self._progress.ended(outcome)
            self._progress.summary(time.perf_counter() - self._begin)
        return 1 if self._progress.counts["failed"] else 0


@irn.command("eval")
@section(
    "Pictures",
    click.option("--data", "directories", type=_PATH, multiple=True, required=True, metavar="DIR",
                 help="A folder of pictures, sub-folders included: a data set named after it.  [repeatable]"),
)  # fmt: skip
@section(
    "Methods",
    click.option("-m", "--model", "models", multiple=True, type=_NAME, metavar="MODEL",
                 help="Weights: a name, a path, or an official .pth.  [repeatable; default: the shipped of the scale]"),
    click.option("-s", "--scale", type=_SCALES, help="How many times smaller.  [default: the models', or 4]"),
    click.option("--baseline", "baselines", type=click.Choice(["bicubic", "lanczos", "area"]), multiple=True,
                 help="Measure plain interpolation too.  [repeatable]"),
    *_DEVICE,
)  # fmt: skip
@section(
    "Protocol",
    click.option("--samples", type=click.IntRange(1), default=1, help="Draws of the latent; scores are means."),
    click.option("--seed", type=int, default=0, help="Which latents to draw."),
    click.option("--temperature", type=_Finite(0), default=1.0,
                 help="Standard deviation of the latent; 0 is its mean."),
    click.option("--crop", type=click.IntRange(0), help="Pixels left out at each border.  [default: the scale]"),
)  # fmt: skip
@section(
    "Results",
    click.option("--report", "page", type=_PATH, metavar="FILE.html",
                 help="Write a page with the tables and with pictures to compare."),
    click.option("--json", "json_file", type=_NAME, metavar="FILE|-",
                 help="Write everything as JSON; an infinite PSNR is null."),
    click.option("--csv", "csv_file", type=_NAME, metavar="FILE|-", help="Write a line for each picture and method."),
    click.option("--force", is_flag=True, help="Replace existing files."),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress and no table."),
)  # fmt: skip
def eval_(
    directories: tuple[Path, ...], models: tuple[str, ...], scale: str | None, baselines: tuple[str, ...],
    samples: int, seed: int, temperature: float, crop: int | None, page: Path | None, json_file: str | None,
    csv_file: str | None, force: bool, quiet: bool, device: str, precision: str, memory: str | None,
) -> int:  # fmt: skip
    """Measure models as the papers do, beside the papers' numbers.

    Each picture in the folders is made small and large again, and compared with itself. One that cannot be read is
    told, left out, and makes the exit status 1.

    \b
    Example:
      irn eval --data Set5 --data Set14 -m irn-x4 --samples 5 --report eval.html
    """
    from irn_cli import report
    from irn_cli.dataset import find_data_sets
    from irn_cli.device import tune_allocator
    from irn_cli.evaluate import evaluate
    from irn_cli.files import require_writable
    from irn_cli.methods import load_methods

    if json_file == csv_file == "-":
        raise click.UsageError("--json and --csv cannot both write to standard output")
    for path in (page, json_file, csv_file):
        if path and path != "-":
            require_writable(path, overwrite=force)  # now, not after minutes of measuring
    datasets = find_data_sets(directories)
    tune_allocator()
    placed: dict[str, Any] = {"device": device, "precision": precision}
    methods = load_methods(models, baselines, int(scale) if scale else None, memory=memory, **placed)
    options: dict[str, Any] = {"crop": crop, "seed": seed, "temperature": temperature, "samples": samples}
    rows = evaluate(methods, datasets, **options)
    results = report.follow(rows, report.protocol(methods, datasets, **options, **placed), quiet=quiet)
    if not quiet:
        report.show(results, stderr="-" in (json_file, csv_file))
    if json_file:
        report.write_text(json_file, report.to_json(results), overwrite=force)
    if csv_file:
        report.write_text(csv_file, report.to_csv(results), overwrite=force)
    if page:
        from irn_cli.page import render

        report.write_text(str(page), render(results, methods, datasets), overwrite=force)
    return 1 if results.failures else 0


@irn.group()
def weights() -> None:
    """List, show and import pretrained weights.

    \b
    Example:
      irn weights list
    """


@weights.command("list")
def weights_list() -> None:
    """List the weights that can be used by name, and where they are.

    \b
    Example:
      irn weights list
    """
    from irn_cli.weights import list_weights, weights_directories

    found = list_weights()
    for info in found:
        revision = f"revision {info.revision}"
        click.echo(f"{info.name:<16} {info.config.scale}x  {revision:<12} {info.hash[:12]}  {info.path}")
    if not found:
        click.echo(f"irn: no weights in {', '.join(map(str, weights_directories()))}", err=True)


@weights.command("show")
@click.argument("name", type=_NAME)
def weights_show(name: str) -> None:
    """Show what weights say of themselves: data, scores, licence.

    NAME is a name out of `irn weights list` or the path of a file.

    \b
    Example:
      irn weights show irn-x4
    """
    from irn_cli.weights import find_weights, read_info

    info = read_info(find_weights(name))
    blocks = "+".join(map(str, info.config.blocks))
    fields = {
        "name": info.name,
        "file": str(info.path),
        "scale": f"{info.config.scale}x",
        "network": f"{blocks} blocks, growth {info.config.growth}, clamp {info.config.clamp:g}",
        "revision": info.revision,
        "hash": info.hash,
        **info.notes,
    }
    for key, value in fields.items():
        click.echo(f"{key + ':':<15} {value}")


@weights.command("import")
@click.argument("source", type=_PATH)
@section(
    "Outputs",
    click.option("-o", "--output", type=_PATH, metavar="FILE",
                 help="The file to write.  [default: SOURCE's name in the user's weights directory]"),
    click.option("--force", is_flag=True, help="Replace an existing file."),
)  # fmt: skip
def weights_import(source: Path, output: Path | None, force: bool) -> None:
    """Convert an official IRN checkpoint (.pth) into safetensors.

    SOURCE is read as plain tensors; nothing in it is ever executed.

    \b
    Example:
      irn weights import IRN_x4.pth -o irn-official-x4.safetensors
    """
    from irn_cli.weights import import_official, user_directory

    output = output or user_directory() / f"{source.stem}.safetensors"
    import_official(source, output, overwrite=force)
    click.echo(str(output))


@irn.command()
@section(
    "Pictures",
    click.option("--data", multiple=True, type=_PATH, required=True, metavar="DIR",
                 help="Folder of training pictures, searched at any depth.  [repeatable]"),
    click.option("--val", "validation", type=_PATH, metavar="DIR",
                 help="Folder of validation pictures.  [default: a few training pictures are held out]"),
)  # fmt: skip
@section(
    "Recipe",
    click.option("--recipe", metavar="irn|irn-plus|irn-shipped",
                 help="The paper's first stage, its second, or what made the shipped weights.  [default: irn]"),
    click.option("--config", type=_PATH, metavar="FILE.toml",
                 help="Values that replace the recipe's; the options below replace both."),
    click.option("-s", "--scale", type=int, help="2, 4 or 8.  [default: that of --init, or the recipe's]"),
    click.option("--iterations", type=int, help="Steps of the whole run.  [default: the recipe's, as all below]"),
    click.option("--batch", type=int, help="Crops a step."),
    click.option("--patch", type=int, help="Side of a crop, in pixels."),
    click.option("--lr", type=float, help="Peak learning rate."),
    click.option("--seed", type=int, help="What all random numbers depend on."),
    click.option("--vgg", type=_PATH, metavar="FILE",
                 help="VGG19 weights for irn-plus, in torchvision's layout (.pth or .safetensors)."),
    click.option("--vgg-input", type=click.Choice(["torchvision", "oxford"]), default="torchvision",
                 help="What they expect: normalised RGB, or BGR levels less a mean."),
)  # fmt: skip
@section(
    "Run",
    click.option("-o", "--output", "run", metavar="RUN", type=_PATH,
                 help="The run's directory.  [default: runs/RECIPE-xSCALE]"),
    click.option("--init", type=_NAME, metavar="WEIGHTS", help="Start from these weights: a name or a path."),
    click.option("--resume", is_flag=True, help="Continue the run in its directory, with its own recipe."),
    click.option("--force", is_flag=True, help="Start anew where the directory holds a run."),
    click.option("--stop-after", type=click.IntRange(1), metavar="N", help="End cleanly after N steps in this call."),
    click.option("--time-limit", metavar="9m", help="End cleanly after so much work (90s, 9m, 1h30m)."),
    click.option("--dry-run", is_flag=True, help="Check everything, print the recipe as it would run, and stop."),
    click.option("-q", "--quiet", is_flag=True, help="Show only what went wrong."),
)  # fmt: skip
@section("Device", *_DEVICE)
def train(
    run: Path | None, time_limit: str | None, stop_after: int | None, dry_run: bool, quiet: bool, **options: Any
) -> int:
    """Train IRN, then IRN+, on folders of pictures.

    It runs on a CPU, a GPU, or under torchrun on several. The run's directory gets weights.safetensors (for `irn -m`),
    a checkpoint that --resume continues, log.jsonl, curve.svg and preview.png. Ctrl-C saves and leaves; a second one
    leaves at once.

    \b
    Example:
      irn train --data DIV2K -s 4 -o runs/mine
      irn train --data photos --init irn-x2 --recipe irn-shipped --time-limit 9m
    """
    from irn_cli.device import tune_allocator, tune_convolutions
    from irn_cli.monitor import RunConsole, follow, stopping
    from irn_cli.train.job import Request, parse_duration, prepare, processes
    from irn_cli.train.recipe import recipe_toml
    from irn_cli.train.trainer import Limits, train

    limits = Limits(parse_duration(time_limit) if time_limit else None, stop_after)
    overrides = {key: options.pop(key) for key in ("scale", "iterations", "batch", "patch", "lr", "seed")}
    tune_allocator()
    tune_convolutions(options["precision"])
    with processes(options.pop("device")) as device:
        job = prepare(Request(run=run, overrides=overrides, device=device, **options))
        for line in job.remarks[1 if quiet else 0 :] if job.step.process == 0 else ():
            click.echo(f"irn: {line}", err=True)
        if dry_run:
            click.echo(recipe_toml(job.step.recipe), nl=False)
            return 0
        if job.step.process == 0:
            job.open()
        console = RunConsole(stderr=True) if job.step.process == 0 else None
        with stopping() as interrupted:
            events = train(
                job.step,
                job.run,
                job.notes,
                validation=job.validation,
                checkpoint=job.checkpoint,
                limits=limits,
                interrupted=interrupted,
            )
            reason = follow(events, job.run, job.step.recipe, console, quiet=quiet)
    return 130 if reason == "interrupted" else 0
