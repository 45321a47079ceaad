"""The `irn` command: options in, one call into the package, results out.

Bodies are thin and import what they need, so that `irn --help` is quick and loads no torch. This is the one place that
turns errors into exit statuses: 0 all done, 1 some input failed, 2 wrong usage, 130 interrupted.
"""

import gc
import json
import math
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial, wraps
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from irn_cli.errors import Code, InputError, UsageError, explain, one_line
from irn_cli.streams import standard_input, standard_output

if TYPE_CHECKING:
    from click.types import OptionHelpExtra

    from irn_cli.batch.line import Events
    from irn_cli.batch.plan import Existing, Job, Outcome, Outputs
    from irn_cli.batch.work import Work
    from irn_cli.cluster import Cluster
    from irn_cli.dataset import DataSet
    from irn_cli.formats import FormatName
    from irn_cli.inputs import Input
    from irn_cli.methods import Method
    from irn_cli.metrics import Metric
    from irn_cli.report import Results
    from irn_cli.train.request import Request

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
_NAME = click.Path(readable=False)  # lets names of files be completed; whoever reads one says what is wrong with it
_PATH = click.Path(readable=False, path_type=Path)
_SCALES = click.Choice([2, 4, 8])
_METRICS: dict[str, Any] = {
    "type": click.Choice(["lpips", "dists", "arniqa"]), "multiple": True,
    "callback": lambda _context, _parameter, names: tuple(dict.fromkeys(names)),
    "help": "Also measure how alike pictures look to people, or (arniqa) how good a restored one does.  [repeatable; "
            "needs irn-cli[metrics]]",
}  # fmt: skip
_REFINE: dict[str, Any] = {  # 10 iterations give most of what 30 do (benchmarks/README.md)
    "type": click.IntRange(0), "is_flag": False, "flag_value": 10, "default": 0, "metavar": "[N]",
}  # fmt: skip


def main() -> None:
    """Run the command line; every failure ends in one line on standard error."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries have to say reaches the user as our warnings and failures
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
    except Exception as error:
        if _debugging():
            traceback.print_exc()
        code, message = explain(error)
        if code is Code.MEMORY:
            message += ": --memory bounds what pictures take, a smaller --batch or --patch what training takes"
        click.echo(f"irn: {one_line(message)}", err=True)
        status = getattr(error, "exit_status", 1)
    if "WORLD_SIZE" not in os.environ:  # under torchrun, what such cycles hold has threads to be ended
        gc.freeze()  # else the interpreter, ending, searches all of torch for cycles: a quarter of a second
    sys.exit(_flushed(status or 0))


def _flushed(status: int) -> int:
    """Write out what standard output still holds; the exit status, given that so far."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        if not status:
            click.echo(f"irn: {explain(error)[1]}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter, ending, tries again
        return status or 1
    return status


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    from irn_cli.hardware import may_have_gpu, multiplies_bfloat16
    from irn_cli.weights import list_weights

    device, precision = "cpu", "bf16" if multiplies_bfloat16() else "fp32"
    if may_have_gpu():
        from irn_cli.device import resolve_device, resolve_precision

        device = str(found := resolve_device("auto"))
        precision = resolve_precision("auto", found)
    names = ", ".join(f"{info.name} (revision {info.revision})" for info in list_weights()) or "none"
    click.echo(f"irn {version('irn-cli')}")
    click.echo(f"torch {version('torch')}, device {device}, precision {precision}")
    click.echo(f"weights: {names}")
    context.exit()


def _debugging() -> bool:
    return os.environ.get("IRN_DEBUG", "0") not in ("", "0")


def _start_debugging(_context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        os.environ["IRN_DEBUG"] = "1"
        warnings.simplefilter("default")


_DEBUG: dict[str, Any] = {
    "is_flag": True, "is_eager": True, "expose_value": False, "callback": _start_debugging, "envvar": "IRN_DEBUG",
    "help": "Show a traceback with each error, and what libraries warn of; so does IRN_DEBUG=1.",
}  # fmt: skip

# Options --------------------------------------------------------------------------------------------------------------


class _Finite(click.FloatRange):
    """A number within a range; NaN, which is below and above nothing, and infinity are in none."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, parameter, context)
        return number if math.isfinite(number) else self.fail(f"{number} is not a finite number.", parameter, context)


class _Size(click.ParamType[tuple[int, int]]):
    """WIDTHxHEIGHT, as (height, width)."""

    name = "size"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not (found := re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", str(value))):
            self.fail(f"expected WIDTHxHEIGHT, as 640x427, not {value!r}.", parameter, context)
        return int(found[2]), int(found[1])


class _Scales(click.ParamType[tuple[int, ...]]):
    """Factors with commas between, the largest first."""

    name = "scales"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if isinstance(value, tuple):  # the default
            return value
        chosen = [_SCALES.convert(text, parameter, context) for text in value.split(",")]
        return tuple(sorted(set(chosen), reverse=True))


class _Weights(click.Path):
    """Weights by name or path; a shell completes names, and files where none begins so."""

    def __init__(self) -> None:
        super().__init__(readable=False)

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from irn_cli.locations import weights_names

        names = [CompletionItem(name) for name in weights_names() if name.startswith(incomplete)]
        return names or super().shell_complete(context, parameter, incomplete)


class _Option(click.Option):
    """An option that the help shows in a section, with a default in words as it stands, and without its range."""

    def __init__(self, *arguments: Any, section: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.section = section

    def get_help_extra(self, ctx: click.Context) -> "OptionHelpExtra":
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)  # the message about a number outside says it
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default  # else in parentheses
        return extra


class _Command(click.Command):
    """A command whose help shows its options in their sections, and last those that all commands have."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(click.Option(["--debug"], **_DEBUG))

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Let `--refine photo.png` be an option without its number, and a picture."""
        bare = {name: one.flag_value for one in self.params if isinstance(one, _Option) for name in one.opts
                if not one.is_flag and isinstance(one.flag_value, int)}  # fmt: skip
        numbers = [following.isdecimal() for following in [*args[1:], ""]]
        end = args.index("--") if "--" in args else len(args)
        for index, name in enumerate(args[:end]):
            if name in bare and not numbers[index]:
                args[index] = f"{name}={bare[name]}"
        return super().parse_args(context, args)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(context):
            if isinstance(option, click.Option) and (row := option.get_help_record(context)):
                sections.setdefault(option.section if isinstance(option, _Option) else "Help", []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class _Group(click.Group):
    command_class = _Command
    group_class = type

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not context.resilient_parsing:
            context.fail(f"No such command {args[0]!r}; there are: {', '.join(sorted(self.commands))}.")
        return super().resolve_command(context, args)


def _argument(**attributes: Any) -> Any:
    """Declare an argument as a field of a command's options."""
    return field(metadata={"parameter": partial(click.Argument, **attributes)})


def _section(title: str) -> Callable[..., Any]:
    """How to declare the options of one section of the help as fields: the arguments are those of `click.option`."""

    def declare(*flags: str, **attributes: Any) -> Any:
        return field(metadata={"parameter": lambda names: _Option([*names, *flags], section=title, **attributes)})

    return declare


Options = TypeVar("Options")


def _command(
    group: click.Group, kind: type[Options], name: str | None = None
) -> Callable[[Callable[[Options], int | None]], click.Command]:
    """Make a command whose options are the fields of a dataclass (a derived class's first), and its body's argument."""
    declared = {one.name: one.metadata["parameter"]([one.name]) for one in fields(kind)}  # type: ignore[arg-type]
    order = dict.fromkeys(name for base in kind.__mro__ for name in get_annotations(base))
    parameters = [declared[name] for name in order]

    def decorate(body: Callable[[Options], int | None]) -> click.Command:
        return group.command(name, params=parameters)(wraps(body)(lambda **values: body(kind(**values))))

    return decorate


_inputs, _outputs, _messages = _section("Inputs"), _section("Outputs"), _section("Messages")
_running = _section("Runner")
_network, _checks, _latent = _section("Network"), _section("Checks"), _section("Latent")


@dataclass(frozen=True, kw_only=True)
class _Device:
    """Where a network runs, and how."""

    device: str = _network("--device", metavar="auto|cpu|cuda[:N]|mps", default="auto",
        help="Where the network runs; mps, a Mac's GPU, in float32 and untested.")  # fmt: skip
    precision: str = _network("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto",
        help="Arithmetic of the convolutions; auto is bf16 where the hardware has it.")  # fmt: skip
    memory: str | None = _network("--memory", metavar="SIZE", show_default="what there is",
        help="Use at most this much memory, such as 2GB or 500MB.")  # fmt: skip
    threads: int | None = _network("--threads", type=click.IntRange(1), metavar="N", show_default="one per core",
        help="Threads to compute with on the CPU.")  # fmt: skip

    def __post_init__(self) -> None:
        from irn_cli.hardware import check_device, parse_memory

        check_device(self.device)  # now, not after the second that torch takes to load
        if self.memory:
            parse_memory(self.memory)


@dataclass(frozen=True, kw_only=True)
class _Runner(_Device):
    """What runs the work: this machine, or a cluster's workers."""

    runner: Literal["local", "ray"] = _running("--runner", type=click.Choice(["local", "ray"]), default="local",
        help="Run on this machine, or on the workers of a Ray cluster.")  # fmt: skip
    ray_address: str | None = _running("--ray-address", metavar="HOST:PORT", envvar="RAY_ADDRESS",
        show_envvar=True, show_default="start Ray here", help="The cluster's head; auto is the one that runs here.",
    )  # fmt: skip
    workers: int | None = _running("--workers", type=click.IntRange(1), metavar="N", show_default="as many as fit",
        help="How many pictures to work on at once, on all machines.")  # fmt: skip
    cpus_per_worker: float | None = _running("--cpus-per-worker", type=_Finite(0, min_open=True), metavar="N",
        show_default="2", help="How many threads each worker has.")  # fmt: skip
    gpus_per_worker: float | None = _running("--gpus-per-worker", type=_Finite(0), metavar="N",
        show_default="1 where there are any", help="Its share of GPUs; 0.5 puts two workers on each.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runner == "ray" and ":" in self.device:
            raise UsageError(f"--device {self.device} names one GPU; a cluster gives each worker its own: use cuda")
        if self.runner == "ray" and self.threads:
            raise UsageError("--threads is for this machine: --cpus-per-worker says how many each worker has")
        for name in ("workers", "cpus_per_worker", "gpus_per_worker"):
            if self.runner == "local" and getattr(self, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} needs --runner ray")

    def cluster(self) -> "Cluster | None":
        """Where workers run; None is in this process."""
        from irn_cli.cluster import Cluster

        if self.runner == "local":
            return None
        gpus = 0.0 if self.device == "cpu" else self.gpus_per_worker
        return Cluster(
            address=self.ray_address or None,
            workers=self.workers,
            cpus_per_worker=self.cpus_per_worker,
            gpus_per_worker=gpus,
        )


@dataclass(frozen=True, kw_only=True)
class _Batch(_Runner):
    """Options that `downscale` and `upscale` share."""

    sources: tuple[str, ...] = _argument(nargs=-1, type=_NAME, metavar="SRC...")
    output: str | None = _outputs("-o", "--output", type=_NAME, metavar="OUT", show_default="beside SRC",
        help="A file for one input, a directory for more; - is standard output.")  # fmt: skip
    force: bool = _outputs("--force", is_flag=True, help="Replace existing files.")
    skip_existing: bool = _outputs("--skip-existing", is_flag=True, help="Skip inputs whose outputs exist.")
    update: bool = _outputs("--update", is_flag=True,
        help="The same, but renew outputs that are older than their inputs.")  # fmt: skip
    name: str | None = _outputs("--name", metavar="TEMPLATE",
        help="What each result is called; {stem}, {scale} and {suffix} are filled in.")  # fmt: skip
    strip: bool = _outputs("--strip", is_flag=True,
        help="Leave out EXIF, XMP, colour profile, resolution and the original's name.")  # fmt: skip
    files_from: str | None = _inputs("--files-from", type=_NAME, metavar="FILE",
        help="Read more inputs from FILE, one per line; - is standard input.")  # fmt: skip
    zeros: bool = _inputs("-0", "--null", is_flag=True, help="Names in --files-from end with a zero byte.")
    shard: str | None = _inputs("--shard", metavar="I/N|slurm",
        help="Take the I-th of N shares of the inputs; slurm reads both from a job array's task.")  # fmt: skip
    max_pixels: int = _inputs("--max-pixels", type=click.IntRange(1), default=500_000_000, metavar="N",
        help="Refuse larger pictures.")  # fmt: skip
    as_json: bool = _messages("--json", is_flag=True, help="Print one JSON object per picture on standard output.")
    quiet: bool = _messages("-q", "--quiet", is_flag=True, help="Show only warnings and failures.")
    verbose: bool = _messages("-v", "--verbose", is_flag=True, help="Name each picture that is skipped, too.")
    dry_run: bool = _messages("--dry-run", is_flag=True,
        help="Write nothing; say how much there is to do, and how long it takes, from a measured second.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources and not self.files_from:
            raise click.UsageError("Missing argument 'SRC...'.")
        if "-" in self.sources and self.files_from == "-":
            raise UsageError("standard input cannot be both a picture and the list of --files-from")
        if self.as_json and (self.output == "-" or (self.output is None and "-" in self.sources)):
            raise UsageError("standard output cannot take both a picture and --json; -o names a file")
        if self.force + self.skip_existing + self.update > 1:
            raise UsageError("--force, --skip-existing and --update exclude each other")
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose exclude each other")
        if self.output == "":
            raise UsageError("-o '': expected a file or a directory")
        if self.as_json or self.output == "-":
            standard_output()

    def outputs(self) -> "Outputs":
        from irn_cli.batch.plan import Outputs

        chosen: dict[Existing, bool] = {"replace": self.force, "skip": self.skip_existing, "update": self.update}
        existing: Existing = next((existing for existing, asked in chosen.items() if asked), "refuse")
        return Outputs(self.output, existing, name=self.name)


@click.group(cls=_Group, context_settings=CONTEXT)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the versions of irn and torch, the device and the weights found.")  # fmt: skip
@click.option("--debug", **_DEBUG)
def irn() -> None:
    """Make pictures 2 or 4 times smaller so that they can be made large again.

    The small picture is an ordinary PNG. The network that made it also makes it large again, with detail that
    interpolation cannot bring back.

    \b
    Example:
      irn downscale photo.jpg        # writes photo_down4.png
      irn upscale photo_down4.png    # writes photo_up4.png
    """


# Pictures -------------------------------------------------------------------------------------------------------------

_network, _checks, _latent = _section("Network"), _section("Checks"), _section("Latent")


@dataclass(frozen=True, kw_only=True)
class _Downscale(_Batch):
    scale: int | None = _network("-s", "--scale", type=_SCALES, show_default="4, or that of --model",
        help="How many times smaller.")  # fmt: skip
    model: str | None = _network("-m", "--model", type=_Weights(), metavar="MODEL",
        show_default="the shipped ones of the scale", help="Weights: a name or a path.")  # fmt: skip
    border: Literal["auto", "zero", "mirror", "edge"] = _network("--border",
        type=click.Choice(["auto", "zero", "mirror", "edge"]), default="auto",
        help="What surrounds a picture in the network; auto is zero, and what restores best where a side is below "
             "64 pixels.")  # fmt: skip
    refine: int = _network("--refine", **_REFINE,
        help="Improve each small picture N times (10 where no N is given), so that it restores better. Each time takes "
             "about as long as making it and restoring it twice.")  # fmt: skip
    format: "FormatName | None" = _outputs("--format", type=click.Choice(["png", "webp", "tiff", "jxl"]),
        show_default="that of OUT's name, or png",
        help="Format of the small pictures, all lossless; jxl needs the extra irn-cli[formats].")  # fmt: skip
    keep_latent: bool = _outputs("--keep-latent", is_flag=True,
        help="Also write what the small picture cannot hold: with it the original comes back bit for bit. It takes "
             "about 6 bytes per pixel of the original, more than the original as a PNG.")  # fmt: skip
    on_artifact: Literal["warn", "fail", "bicubic"] = _checks("--on-artifact",
        type=click.Choice(["warn", "fail", "bicubic"]), default="warn",
        help="What to do about coloured blotches in the small picture; bicubic blends them away.")  # fmt: skip
    verify: bool = _checks("--verify", is_flag=True, help="Restore each small picture at once and show its PSNR.")
    min_psnr: float | None = _checks("--min-psnr", type=_Finite(0), metavar="DB",
        help="Fail, and write nothing, if the PSNR on Y is lower.")  # fmt: skip
    scales: tuple[int, ...] = _checks("--scales", type=_Scales(), metavar="4,2", show_default=False, default=(),
        help="Make each picture small by the largest of these factors at which it reaches --min-psnr.")  # fmt: skip
    otherwise: Literal["fail", "skip", "copy", "keep"] = _checks("--otherwise",
        type=click.Choice(["fail", "skip", "copy", "keep"]), default="fail",
        help="What becomes of a picture that does not reach --min-psnr: left out, copied as it is, or made small by "
             "the least factor all the same.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_psnr is None and (self.scales or self.otherwise != "fail"):
            raise UsageError("--scales and --otherwise say what to do about --min-psnr: give that, too")
        if self.scales and (self.scale or self.model):
            raise UsageError("--scales takes the shipped weights of each factor: leave out --scale and --model")
        if self.keep_latent and (self.scales or self.otherwise != "fail"):
            raise UsageError("--keep-latent restores every bit: it excludes --scales and --otherwise")

    @property
    def weights(self) -> tuple[str, ...]:
        """Names or paths of what makes pictures small: more than one with `--scales`, the largest factor first."""
        from irn_cli.weights import DEFAULT_MODELS

        scales = self.scales or (self.scale or 4,)
        for scale in scales:
            if not self.model and scale not in DEFAULT_MODELS:
                raise UsageError(f"no weights for {scale}x are shipped: --model names yours")
        return (self.model,) if self.model else tuple(DEFAULT_MODELS[scale] for scale in scales)

    def outputs(self) -> "Outputs":
        return replace(super().outputs(), format=self.format)


@_command(irn, _Downscale)
def downscale(options: _Downscale) -> int:
    """Make pictures small, for `irn upscale` to make large again.

    SRC are pictures, directories (searched to the bottom) or glob patterns; - is standard input.

    \b
    Example:
      irn downscale photo.jpg              # writes photo_down4.png
      irn downscale photos -o small        # mirrors the tree of photos in small
      irn downscale photo.jpg --refine     # takes longer, restores better
    """
    from irn_cli.batch.plan import plan_downscale
    from irn_cli.weights import find_weights, read_scale

    inputs = _find(options)
    sources = [find_weights(name) for name in options.weights]
    scale, *smaller = map(read_scale, sources)
    if options.scale not in (None, scale):
        raise UsageError(f"{sources[0].stem} makes pictures {scale} times smaller, not {options.scale}")
    plan = plan_downscale(
        inputs,
        options.outputs(),
        scale,
        keep_latent=options.keep_latent,
        smaller=smaller,
        copy=options.otherwise == "copy",
    )
    return _run(plan, partial(_downscaler, options), options)


def _downscaler(options: _Downscale) -> "Work":
    """Load what makes pictures small; also called in the workers of a cluster."""
    from irn_cli.batch.work import Chooser, Downscaler
    from irn_cli.rescale import Rescaler
    from irn_cli.weights import load_model

    downscalers = tuple(
        Downscaler(
            scaler=Rescaler(load_model(name), options.device, options.precision, options.memory),
            keep_latent=options.keep_latent,
            on_artifact=options.on_artifact,
            border=options.border,
            refine=options.refine,
            verify=options.verify,
            min_psnr=options.min_psnr,
        )
        for name in options.weights
    )
    if options.scales or options.otherwise != "fail":
        return Chooser(downscalers=downscalers, otherwise=options.otherwise)
    return downscalers[0]


@dataclass(frozen=True, kw_only=True)
class _Upscale(_Batch):
    samples: int = _latent("--samples", type=click.IntRange(1), default=1, metavar="N",
        help="How many restorations to draw of each.")  # fmt: skip
    seed: int | None = _latent("--seed", metavar="S", type=int, show_default="0", help="Which latents to draw.")
    temperature: float | None = _latent("--temperature", metavar="T", type=_Finite(0), show_default="1",
        help="Their standard deviation; a warning says where MODEL was not trained for it.")  # fmt: skip
    latent: str | None = _latent("--latent", type=_NAME, metavar="FILE",
        show_default="the one beside it, unless an option above is given",
        help="The kept latent of the one input.")  # fmt: skip
    spread: bool = _latent("--spread", is_flag=True,
        help="Also write a picture of where the samples differ: 20 times the difference, darker is more.")  # fmt: skip
    scale: int | None = _network("-s", "--scale", type=_SCALES, help="For pictures without a record of irn.")
    size: tuple[int, int] | None = _network("--size", type=_Size(), metavar="WxH",
        help="For such pictures: the original's size, which need not be a multiple of the scale.")  # fmt: skip
    model: str | None = _network("-m", "--model", type=_Weights(), metavar="MODEL",
        show_default="those that made the small picture", help="Weights: a name or a path.")  # fmt: skip

    format: "FormatName | None" = _outputs("--format", type=click.Choice(["png", "jpg", "webp", "avif", "tiff", "jxl"]),
        show_default="that of OUT's name, or png",
        help="Format of the restored pictures; jxl needs the extra irn-cli[formats].")  # fmt: skip
    quality: int | None = _outputs("--quality", type=click.IntRange(1, 100), metavar="N",
        show_default="lossless; jpg 95, avif 90", help="Quality of jpg, webp, avif and jxl, 1 to 100.")  # fmt: skip
    original_names: bool = _outputs("--original-names", is_flag=True,
        help="Call restored pictures as their originals were, in the formats that those had.")  # fmt: skip

    @property
    def draw(self) -> bool:
        """Whether drawn latents are asked for, also where a kept one lies beside the picture."""
        return self.samples > 1 or self.seed is not None or self.temperature is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.original_names and self.output in (None, "-"):
            raise UsageError("--original-names needs a directory of its own, apart from the originals: -o names it")
        if self.original_names and self.name:
            raise UsageError("--original-names and --name exclude each other")
        if self.size and not self.scale:
            raise UsageError("--size is for pictures without a record: it needs --scale")
        if self.spread and self.samples < 2:
            raise UsageError("--spread shows how samples differ: it needs --samples 2 or more")
        if self.latent and self.draw:
            raise UsageError("--latent excludes --samples, --seed and --temperature: with the latent nothing is drawn")

    def outputs(self) -> "Outputs":
        outputs = replace(super().outputs(), format=self.format)
        return replace(outputs, quality=self.quality, original_names=self.original_names)


@_command(irn, _Upscale)
def upscale(options: _Upscale) -> int:
    """Restore pictures that `irn downscale` made small.

    SRC are pictures, directories (searched to the bottom) or glob patterns; - is standard input.

    \b
    Example:
      irn upscale photo_down4.png             # writes photo_up4.png
      irn upscale small -o large --samples 3  # three restorations of each picture
    """
    from irn_cli.batch.plan import plan_upscale
    from irn_cli.weights import find_weights

    if options.model:
        find_weights(options.model)  # once, not for each picture
    inputs = _find(options)
    if options.latent and len(inputs) != 1:
        raise UsageError(f"--latent belongs to one picture, but there are {len(inputs)}")
    plan = plan_upscale(inputs, options.outputs(), options.scale, samples=options.samples, spread=options.spread)
    return _run(plan, partial(_upscaler, options), options)


def _upscaler(options: _Upscale) -> "Work":
    """Prepare what makes pictures large; also called in the workers of a cluster."""
    from irn_cli.batch.work import Upscaler
    from irn_cli.paths import to_path
    from irn_cli.rescale import Rescaler
    from irn_cli.weights import load_model

    return Upscaler(
        load=lambda source: Rescaler(load_model(source), options.device, options.precision, options.memory),
        model=options.model,
        scale=options.scale,
        size=options.size,
        samples=options.samples,
        seed=options.seed or 0,
        temperature=1.0 if options.temperature is None else options.temperature,
        latent=to_path(options.latent) if options.latent else None,
        draw=options.draw,
        spread=options.spread,
    )


@dataclass(frozen=True, kw_only=True)
class _Info:
    sources: tuple[str, ...] = _argument(nargs=-1, type=_NAME, metavar="SRC...", required=True)
    scale: int = _inputs("-s", "--scale", type=_SCALES, default=4, help="How many times smaller they are to be made.")
    max_pixels: int = _inputs("--max-pixels", type=click.IntRange(1), default=500_000_000, metavar="N",
        help="Do not decode larger pictures.")  # fmt: skip
    as_json: bool = _messages("--json", is_flag=True, help="Print one JSON object per picture.")


@_command(irn, _Info)
def info(options: _Info) -> int:
    """Show what irn made of pictures, or would make of them.

    SRC are pictures, directories or glob patterns, as for `irn downscale`. For a small picture it says which
    weights restore it, whether they are installed, and whether its pixels are still as irn wrote them.

    \b
    Example:
      irn info photo_down4.png
      irn info small --json
    """
    from irn_cli.info import describe
    from irn_cli.inputs import find_pictures

    standard_output()
    failed = False
    for source in find_pictures(options.sources):
        found = describe(source, options.scale, max_pixels=options.max_pixels)
        failed |= bool(found.error)
        for line in [json.dumps(found.as_json())] if options.as_json else found.lines():
            click.echo(line if options.as_json else one_line(line))
    return int(failed)


def _wait_asleep() -> None:
    """Let OpenMP's threads sleep between operations; heeded where torch loads after this.

    By default they wait in a loop, which pays in training: there, fewer threads are the answer to other programs that
    want the cores. Pictures are shared out to threads of our own, which need not wait for each other, and the few
    operations around them would take many times as long (`benchmarks/README.md`).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _find(options: _Batch) -> "list[Input]":
    """The inputs that a command line means."""
    from irn_cli.inputs import find_pictures, read_list
    from irn_cli.paths import open_file, to_path

    listed: list[str] = []
    if options.files_from == "-":
        listed = read_list(standard_input(), zeros=options.zeros)
    elif options.files_from:
        try:
            with open_file(to_path(options.files_from)) as stream:
                listed = read_list(stream, zeros=options.zeros)
        except OSError as error:
            raise InputError(f"cannot read {options.files_from}: {error.strerror}") from error
    return find_pictures(options.sources, listed)


def _run(plan: "Sequence[Job | Outcome]", work: "Callable[[], Work]", options: _Batch) -> int:
    """Work through a plan and show it; the exit status. Torch is loaded only where there is something left to do."""
    from irn_cli.batch.plan import Job, Outcome, decide, share
    from irn_cli.batch.progress import follow
    from irn_cli.inputs import parse_shard

    if options.shard:
        plan = share(plan, *parse_shard(options.shard, os.environ))
    plan = decide(plan, options.outputs())
    if options.dry_run:
        return _forecast(plan, work, options)
    pixels = {item.source: item.pixels for item in plan if isinstance(item, Job)}
    events = _events(plan, work, options) if pixels else (item for item in plan if isinstance(item, Outcome))
    return follow(
        events,
        len(plan),
        pixels=pixels,
        quiet=options.quiet,
        verbose=options.verbose,
        as_json=options.as_json,
        debug=_debugging(),
    )


def _events(plan: "Sequence[Job | Outcome]", work: "Callable[[], Work]", options: _Batch) -> "Events":
    """What happens while a plan is worked through, here or on a cluster."""
    if cluster := options.cluster():
        from irn_cli.batch.cluster import run_on_cluster

        common: dict[str, Any] = {"strip": options.strip, "max_pixels": options.max_pixels}
        return run_on_cluster(plan, work, options.outputs(), cluster, **common)
    return _line(work, options)(plan, outputs=options.outputs())


def _line(work: "Callable[[], Work]", options: _Batch) -> "Callable[..., Events]":
    """What works through a plan on this machine."""
    _wait_asleep()
    import torch

    from irn_cli.batch.line import run
    from irn_cli.device import resolve_device, tune_allocator
    from irn_cli.threads import set_threads

    set_threads(options.threads)
    tune_allocator()
    # Small pictures have a core each; a GPU is one, and --memory is said of one picture's network.
    several = not options.memory and resolve_device(options.device).type == "cpu"
    at_once = torch.get_num_threads() if several else 1
    return partial(run, work=work(), at_once=at_once, strip=options.strip, max_pixels=options.max_pixels)


def _forecast(plan: "Sequence[Job | Outcome]", work: "Callable[[], Work]", options: _Batch) -> int:
    """Say what a plan would do, and take; the exit status."""
    from irn_cli.batch.estimate import count, describe, estimate
    from irn_cli.batch.plan import Job, Outcome, Outputs

    jobs = [item for item in plan if isinstance(item, Job)]
    failed = [item for item in plan if isinstance(item, Outcome) and item.status == "failed"]
    for outcome in failed:
        click.echo(one_line(f"{outcome.source}: failed: {outcome.reason}"), err=True)
    estimated = estimate(jobs, partial(_line(work, options), outputs=Outputs())) if jobs else None
    if options.as_json:
        click.echo(json.dumps(count(plan, estimated)))
    else:
        for line in describe(plan, estimated):
            click.echo(line)
    return 1 if failed else 0


# Measuring, weights and training --------------------------------------------------------------------------------------

_pictures, _methods, _protocol, _results = (_section(title) for title in ("Pictures", "Methods", "Protocol", "Results"))


def _require_folders(directories: Sequence[Path]) -> None:
    for directory in directories:
        if not directory.is_dir():
            raise UsageError(f"no folder {directory}")


def _require_weights(sources: Sequence[str]) -> None:
    from irn_cli.weights import find_weights

    for source in sources:
        find_weights(source)


@dataclass(frozen=True, kw_only=True)
class _Eval(_Runner):
    directories: tuple[Path, ...] = _pictures("--data", type=_PATH, multiple=True, metavar="DIR",
        help="A folder of pictures, sub-folders included: a data set named after it.  [repeatable]")  # fmt: skip
    include_own: bool = _pictures("--include-own", is_flag=True, help="Measure pictures that irn made too.")
    models: tuple[str, ...] = _methods("-m", "--model", multiple=True, type=_Weights(), metavar="MODEL",
        show_default="the shipped one of the scale",
        help="Weights: a name, a path, or an official .pth.  [repeatable]")  # fmt: skip
    scale: int | None = _methods("-s", "--scale", type=_SCALES, show_default="the models', or 4",
        help="How many times smaller.")  # fmt: skip
    refine: int = _methods("--refine", **_REFINE,
        help="Measure each model a second time, its small pictures improved N times (10 where no N is given), as "
             "downscale --refine does.")  # fmt: skip
    baselines: tuple[str, ...] = _methods("--baseline", multiple=True,
        type=click.Choice(["bicubic", "lanczos", "area", "jpeg", "webp", "avif"]),
        help="Measure plain interpolation too; or a codec, which gets the full picture into as many bytes as the first "
             "method's small one takes.  [repeatable]")  # fmt: skip
    upscalers: tuple[Path, ...] = _methods("--upscaler", type=_PATH, multiple=True, metavar="FILE",
        help="Measure a super-resolution network on bicubic small pictures: weights of any architecture that spandrel "
             "knows.  [repeatable; needs irn-cli[spandrel]]")  # fmt: skip
    others: tuple[str, ...] = _methods("--results", multiple=True, metavar="NAME=DIR[,LRDIR]",
        help="Measure pictures that another program restored, found in DIR by the originals' names (and suffixes such "
             "as _x4 or _SR), and its small ones in LRDIR.  [repeatable]")  # fmt: skip
    metrics: tuple[str, ...] = _protocol("--metric", **_METRICS)
    samples: int = _protocol("--samples", type=click.IntRange(1), default=1, metavar="N",
        help="Draws of the latent; scores are means.")  # fmt: skip
    seed: int = _protocol("--seed", metavar="S", type=int, default=0, help="Which latents to draw.")
    temperature: float = _protocol("--temperature", metavar="T", type=_Finite(0), default=1.0,
        help="Standard deviation of the latent; 0 is its mean.")  # fmt: skip
    crop: int | None = _protocol("--crop", type=click.IntRange(0), metavar="N", show_default="the scale",
        help="Pixels left out at each border.")  # fmt: skip
    page: Path | None = _results("--report", type=_PATH, metavar="FILE.html",
        help="Write a page with the tables and with pictures to compare.")  # fmt: skip
    json_file: str | None = _results("--json", type=_NAME, metavar="FILE|-",
        help="Write everything as JSON; infinite PSNR is null.")  # fmt: skip
    csv_file: str | None = _results("--csv", type=_NAME, metavar="FILE|-",
        help="Write one line per picture and method.")  # fmt: skip
    force: bool = _results("--force", is_flag=True, help="Replace existing files.")
    quiet: bool = _results("-q", "--quiet", is_flag=True, help="Show no progress and no table.")
    compared: tuple[Path, Path] | None = _results("--compare", type=_PATH, nargs=2, metavar="A.json B.json",
        help="Measure nothing: show what changed from one --json to another, with 95 % intervals.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.directories and not self.compared:
            raise click.UsageError("Missing option '--data'.")
        if self.json_file == self.csv_file == "-":
            raise click.UsageError("--json and --csv cannot both write to standard output")
        if "-" in (self.json_file, self.csv_file):
            standard_output()  # now, not after minutes of measuring
        if self.compared and (self.directories or self.page or self.json_file or self.csv_file):
            raise click.UsageError("--compare reads two results of --json; it measures and writes nothing")
        _require_folders(self.directories)
        _require_weights(self.models)


@_command(irn, _Eval, "eval")
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
        from irn_cli import changes

        changes.show(changes.compare(*map(changes.read_results, options.compared)))
        return 0
    from irn_cli.files import require_writable

    for path in (options.page, options.json_file, options.csv_file):
        if path and path != "-":
            require_writable(path, overwrite=options.force)  # now, not after minutes of measuring
    _wait_asleep()
    from irn_cli import report
    from irn_cli.dataset import find_data_sets
    from irn_cli.device import tune_allocator
    from irn_cli.evaluation import evaluate
    from irn_cli.evaluation_cluster import evaluate_on_cluster
    from irn_cli.methods import load_methods
    from irn_cli.threads import set_threads

    datasets = find_data_sets(options.directories, include_own=options.include_own)
    for remark in filter(None, (dataset.remark for dataset in datasets)):
        click.echo(f"irn: {remark}", err=True)
    set_threads(options.threads)
    tune_allocator()
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
    protocol: dict[str, Any] = {name: getattr(options, name) for name in ("crop", "seed", "temperature", "samples")}
    metrics = _load_metrics(options.metrics)
    told = report.protocol(methods, datasets, metrics=metrics, **protocol, **placed)
    cluster = options.cluster()
    results = report.follow(
        evaluate_on_cluster(load_all, datasets, cluster, metrics=options.metrics, **protocol)
        if cluster
        else evaluate(methods, datasets, metrics=metrics, **protocol),
        told,
        quiet=options.quiet,
    )
    if not options.quiet:
        report.show(results, stderr="-" in (options.json_file, options.csv_file))
    _write_results(results, methods, datasets, options)
    return 1 if results.failures else 0


def _write_results(
    results: "Results", methods: "Sequence[Method]", datasets: "Sequence[DataSet]", options: _Eval
) -> None:
    from irn_cli import report
    from irn_cli.page import render

    if options.json_file:
        report.write_text(options.json_file, report.to_json(results), overwrite=options.force)
    if options.csv_file:
        report.write_text(options.csv_file, report.to_csv(results), overwrite=options.force)
    if options.page:
        page = render(results, methods, datasets)
        report.write_text(str(options.page), page, overwrite=options.force)
        if not options.quiet:
            click.echo(f"irn: wrote {options.page} ({len(page) / 1e6:.1f} MB)", err=True)


@dataclass(frozen=True, kw_only=True)
class _Compare:
    first: Path = _argument(type=_PATH, metavar="A")
    second: Path = _argument(type=_PATH, metavar="B")
    crop: int = _protocol("--crop", type=click.IntRange(0), default=0, metavar="N",
        help="Pixels left out at each border; irn eval leaves out as many as the scale.")  # fmt: skip
    metrics: tuple[str, ...] = _protocol("--metric", **_METRICS)
    as_json: bool = _results("--json", is_flag=True, help="Print one JSON object per picture instead of the table.")


@_command(irn, _Compare)
def compare(options: _Compare) -> int:
    """Measure how alike two pictures, or two folders of them, are.

    Pictures of folders belong together by their names, which in B may end in another format and bear a suffix such as
    _up4, _x4 or _SR. One that has no counterpart, or one of another size, is named and makes the exit status 1.

    \b
    Example:
      irn compare photo.jpg photo_up4.png
      irn compare photos restored --crop 4
    """
    from irn_cli import likeness
    from irn_cli.metrics import METRICS

    standard_output()
    pairs, lone = likeness.find_pairs(options.first, options.second)
    metrics = _load_metrics(options.metrics)
    rows = []
    compared = likeness.compare(pairs, crop=options.crop, metrics=metrics)
    for row in likeness.follow(compared, len(pairs), bar=not options.as_json):
        if isinstance(row, likeness.Likeness):
            rows.append(row)
        if options.as_json:
            click.echo(likeness.to_json(row))
    failed = len(pairs) - len(rows)
    if lone:
        click.echo(f"irn: only in {options.second}: {len(lone)}, the first is {lone[0]}", err=True)
    if rows and not options.as_json:
        likeness.show(rows, (*METRICS, *metrics))
    if failed and len(pairs) > 1:
        click.echo(f"irn: {failed} of {len(pairs)} could not be compared", err=True)
    return 1 if failed else 0


def _load_metrics(names: Sequence[str]) -> "list[Metric]":
    if not names:
        return []
    from irn_cli.perceptual import load_metric

    return [load_metric(name) for name in names]


@irn.group()
def weights() -> None:
    """List, show and import pretrained weights.

    \b
    Example:
      irn weights list
    """


@weights.command("list")
def weights_list() -> None:
    """List the weights that can be used by name, with their scores.

    A line has scale, PSNR on Y of test sets, revision, hash, and where the file is.

    \b
    Example:
      irn weights list
    """
    from irn_cli.locations import weights_directories
    from irn_cli.weights import list_weights

    found = list_weights()
    rows = [
        (
            info.name,
            f"{info.config.scale}x",
            ", ".join(f"{name} {text.partition(' /')[0]}" for name, text in info.scores.items()) or "no scores",
            f"revision {info.revision}",
            info.hash[:12],
            str(info.path),
        )
        for info in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not found:
        click.echo(f"irn: no weights in {', '.join(map(str, weights_directories()))}", err=True)


@weights.command("show")
@click.argument("name", type=_Weights())
def weights_show(name: str) -> None:
    """Show what a weights file says about itself: data, scores, licence.

    NAME is a name from `irn weights list` or the path of a file.

    \b
    Example:
      irn weights show irn-x4
    """
    from irn_cli.weights import find_weights, read_info

    for key, value in read_info(find_weights(name)).described().items():
        click.echo(f"{key + ':':<15} {value}")


@dataclass(frozen=True, kw_only=True)
class _Import:
    source: Path = _argument(type=_PATH)
    output: Path | None = _outputs("-o", "--output", type=_PATH, metavar="FILE",
        show_default="SOURCE's name in the user's weights directory", help="The file to write.")  # fmt: skip
    force: bool = _outputs("--force", is_flag=True, help="Replace an existing file.")


@_command(weights, _Import, "import")
def weights_import(options: _Import) -> None:
    """Convert an official IRN checkpoint (.pth) into safetensors.

    SOURCE is read as plain tensors; nothing in it is ever executed.

    \b
    Example:
      irn weights import IRN_x4.pth -o irn-official-x4.safetensors
    """
    from irn_cli.locations import user_directory
    from irn_cli.weights import import_official

    output = options.output or user_directory() / f"{options.source.stem}.safetensors"
    import_official(options.source, output, overwrite=options.force)
    click.echo(str(output))


@dataclass(frozen=True, kw_only=True)
class _Pull:
    source: str = _argument(metavar="hf:OWNER/NAME")
    output: Path | None = _outputs("-o", "--output", type=_PATH, metavar="FILE",
        show_default="its own name in the user's weights directory", help="The file to write.")  # fmt: skip
    force: bool = _outputs("--force", is_flag=True, help="Replace an existing file.")


@_command(weights, _Pull, "pull")
def weights_pull(options: _Pull) -> None:
    """Fetch weights from the Hugging Face Hub, to be used by name.

    They are kept in the user's weights directory. hf:OWNER/NAME is a repository with one weights file; where it has
    several, hf:OWNER/NAME/FILE is one. With @COMMIT behind it, the file stays the same for ever. HF_ENDPOINT names
    another server.

    \b
    Example:
      irn weights pull hf:someone/irn-photos-x4
      irn weights pull hf:someone/irn-photos-x4@v1.0 -o mine.safetensors
    """
    from irn_cli.weights import pull

    info = pull(options.source, options.output, overwrite=options.force)
    click.echo(f"{info.path}: {info.config.scale}x, revision {info.revision}, {info.hash[:12]}")


@dataclass(frozen=True, kw_only=True)
class _Export:
    output: Path = _argument(type=_PATH, metavar="FILE.onnx")
    model: str = _network("-m", "--model", type=_Weights(), metavar="MODEL", default="irn-x4",
        help="Weights: a name or a path.")  # fmt: skip
    direction: Literal["up", "down"] = _network("--direction", type=click.Choice(["up", "down"]), required=True,
        help="Which way: from the small picture to the large one, or back.")  # fmt: skip
    latent: Literal["input", "zero"] = _network("--latent", type=click.Choice(["input", "zero"]), default="input",
        help="Whether the file for up takes z, drawn from N(0, 1), or has its mean inside.")  # fmt: skip
    force: bool = _outputs("--force", is_flag=True, help="Replace an existing file.")

    def __post_init__(self) -> None:
        _require_weights([self.model])
        if self.direction == "down" and self.latent == "zero":
            raise UsageError("--latent zero is for --direction up: down gives the latent")


@_command(irn, _Export)
def export(options: _Export) -> None:
    """Write one direction of a network as ONNX, for other runtimes.

    Pictures may have any size (for down, multiples of the scale). The file holds the plain network: rounding to 8 bits
    is up to whoever runs it. It is run by onnxruntime and compared with torch before it is written.

    \b
    Example:
      irn export -m irn-x4 up.onnx --direction up
      irn export -m irn-x4 down.onnx --direction down
    """
    from irn_cli.export import export
    from irn_cli.weights import load_model

    done = export(
        options.output,
        load_model(options.model),
        options.direction,
        latent=options.latent == "input",
        overwrite=options.force,
    )
    inputs, outputs = (
        ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in shapes.items())
        for shapes in (done.inputs, done.outputs)
    )
    size, difference = done.nbytes / 1e6, f"{done.difference:.0e} at most from torch"
    click.echo(f"{options.output}: {inputs} -> {outputs}; {size:.1f} MB, {difference}")


_recipe, _training = _section("Recipe"), _section("Run")


@dataclass(frozen=True, kw_only=True)
class _Train(_Device):
    data: tuple[Path, ...] = _pictures("--data", multiple=True, type=_PATH, metavar="DIR",
        help="Folder of training pictures, searched at any depth.  [repeatable]")  # fmt: skip
    validation: Path | None = _pictures("--val", type=_PATH, metavar="DIR",
        show_default="a few training pictures, held out", help="Folder of validation pictures.")  # fmt: skip
    include_own: bool = _pictures("--include-own", is_flag=True, help="Use pictures that irn made too.")
    recipe: str | None = _recipe("--recipe", type=click.Choice(["irn", "irn-plus", "irn-shipped"]), show_default="irn",
        help="The paper's first stage, its second, or what made the shipped weights.")  # fmt: skip
    config: Path | None = _recipe("--config", type=_PATH, metavar="FILE.toml",
        help="Settings that override the recipe's; the options below override both.")  # fmt: skip
    scale: int | None = _recipe("-s", "--scale", type=_SCALES, show_default="that of --init, or the recipe's",
        help="How many times smaller.")  # fmt: skip
    iterations: int | None = _recipe("--iterations", type=int, metavar="N", show_default="the recipe's, as all below",
        help="Steps of the whole run.")  # fmt: skip
    batch: int | None = _recipe("--batch", type=int, metavar="N", help="Crops per step.")
    patch: int | None = _recipe("--patch", type=int, metavar="N", help="Side of a crop, in pixels.")
    lr: float | None = _recipe("--lr", type=float, metavar="R", help="Peak learning rate.")
    seed: int | None = _recipe("--seed", metavar="S", type=int, help="Seed of all random numbers.")
    vgg: Path | None = _recipe("--vgg", type=_PATH, metavar="FILE",
        help="VGG19 weights for irn-plus, in torchvision's layout (.pth or .safetensors).")  # fmt: skip
    vgg_input: Literal["torchvision", "oxford"] | None = _recipe("--vgg-input",
        type=click.Choice(["torchvision", "oxford"]), show_default="torchvision",
        help="What they expect: normalised RGB, or BGR levels minus a mean.")  # fmt: skip
    run: Path | None = _training("-o", "--output", metavar="RUN", type=_PATH, show_default="runs/RECIPE-xSCALE",
        help="The run's directory.")  # fmt: skip
    init: str | None = _training("--init", type=_Weights(), metavar="WEIGHTS",
        help="Start from these weights: a name or a path.")  # fmt: skip
    resume: str | None = _training("--resume", is_flag=False, flag_value="", type=_NAME, metavar="RUN",
        help="Continue this run with its own recipe and pictures; without a name, the one of -o.")  # fmt: skip
    anneal: str | None = _training("--anneal", metavar="40m",
        help="Leave the run of --resume as it is; continue it in -o, with a rate that falls to zero in this time."
    )  # fmt: skip
    force: bool = _training("--force", is_flag=True, help="Start over where the directory already holds a run.")
    stop_after: int | None = _training("--stop-after", type=click.IntRange(1), metavar="N",
        help="End cleanly after N steps in this call.")  # fmt: skip
    time_limit: str | None = _training("--time-limit", metavar="9m",
        help="End cleanly after this much work (90s, 9m, 1h30m).")  # fmt: skip
    dry_run: bool = _training("--dry-run", is_flag=True,
        help="Check everything, print the recipe as it would run, and stop.")  # fmt: skip
    tensorboard: bool = _training("--tensorboard", is_flag=True,
        help="Log for TensorBoard too, in the run's directory; needs irn-cli[tensorboard].")  # fmt: skip
    quiet: bool = _training("-q", "--quiet", is_flag=True, help="Show only what went wrong.")
    memory: str | None = _network("--memory", metavar="SIZE", show_default="a third of what there is",
        help="Keep at most this much of the training pictures in RAM, such as 2GB; the rest in a file.")  # fmt: skip
    threads: int | None = _network("--threads", type=click.IntRange(1), metavar="N",
        show_default="one per core that other programs leave free", help="Threads to compute with on the CPU."
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume == "" and self.run is None:
            raise UsageError("--resume needs a run: name its directory")
        if self.anneal and self.time_limit:
            raise UsageError("--anneal is a time limit of its own: leave out --time-limit")
        _require_folders((*self.data, self.validation) if self.validation else self.data)

    def request(self) -> "Request":
        """What is asked for, with what a run to continue remembers; what cannot be, as far as torch is not needed."""
        from irn_cli.train.board import require_tensorboard
        from irn_cli.train.request import Request, parse_duration

        if self.tensorboard:
            require_tensorboard()
        request = Request(
            data=self.data,
            validation=self.validation,
            include_own=self.include_own,
            recipe=self.recipe,
            config=self.config,
            overrides={name: getattr(self, name) for name in ("scale", "iterations", "batch", "patch", "lr", "seed")},
            run=self.run,
            init=self.init,
            resume=self.run if self.resume == "" else Path(self.resume) if self.resume else None,
            anneal=parse_duration(self.anneal) if self.anneal else None,
            force=self.force,
            time_limit=parse_duration(self.time_limit) if self.time_limit else None,
            stop_after=self.stop_after,
            vgg=self.vgg,
            vgg_input=self.vgg_input,
            device=self.device,
            precision=self.precision,
            memory=self.memory,
        )
        _require_weights([self.init] if self.init else [])
        request.changes()  # what is wrong with its file is said before torch loads
        return request.repeated()


@_command(irn, _Train)
def train(options: _Train) -> int:
    """Train IRN, then IRN+, on folders of pictures.

    It runs on a CPU, a GPU, or under torchrun on several. The run's directory gets weights.safetensors (for `irn -m`),
    a checkpoint that --resume continues, log.jsonl, curve.svg and preview.png. Ctrl-C saves and leaves; a second one
    leaves at once.

    \b
    Example:
      irn train --data DIV2K -s 4 -o runs/mine
      irn train --data photos --init irn-x2 --recipe irn-shipped --time-limit 9m
      irn train --resume runs/mine
    """
    from irn_cli.threads import Cores, set_threads

    cores = Cores()  # before torch loads, which takes long enough to see what other programs do
    request = options.request()
    from irn_cli.device import tune_allocator, tune_convolutions
    from irn_cli.train.job import prepare, processes
    from irn_cli.train.monitor import RunConsole, how_to_stop, stopping, watch
    from irn_cli.train.recipe import recipe_toml
    from irn_cli.train.trainer import train

    if (remark := set_threads(options.threads, cores)) and not options.quiet:
        click.echo(f"irn: {remark}", err=True)
    tune_allocator()
    tune_convolutions(options.precision)
    with processes(options.device) as device:
        job = prepare(replace(request, device=device))
        for line in (*(() if options.quiet else job.facts), *job.remarks) if job.step.process == 0 else ():
            click.echo(f"irn: {line}", err=True)
        if options.dry_run:
            click.echo(recipe_toml(job.step.recipe), nl=False)
            return 0
        console = RunConsole(stderr=True) if job.step.process == 0 else None
        if console and (remark := how_to_stop()) and not options.quiet:
            click.echo(f"irn: {remark}", err=True)
        with job.open() if console else nullcontext(), stopping() as interrupted:
            events = train(
                job.step,
                job.run,
                job.notes,
                validation=job.validation,
                checkpoint=job.checkpoint,
                limits=job.limits,
                interrupted=interrupted,
            )
            reason = watch(
                events,
                job.run,
                job.step.recipe,
                console,
                quiet=options.quiet,
                tensorboard=options.tensorboard,
            )
    return 130 if reason == "interrupted" else 0
