"""Options as fields of a dataclass, commands made of one, and what several commands have in common."""

import logging
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial, wraps
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from irn_cli.errors import UsageError

if TYPE_CHECKING:
    from click.types import OptionHelpExtra

    from irn_cli.cluster import Cluster
    from irn_cli.metrics import Metric


class _NoEmptyPath(click.Path):
    """A path; an empty one would be that of the current directory."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("expected a path, not an empty one.", parameter, context)
        return super().convert(value, parameter, context)


class _Path(_NoEmptyPath):
    """A path of this machine; as one, a URL would be that of a new directory."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if "://" in str(value):
            self.fail(f"expected a path of this machine, not {value}.", parameter, context)
        return super().convert(value, parameter, context)


NAME = click.Path(readable=False)  # lets names of files be completed; whoever reads one says what is wrong with it
PATH = _Path(readable=False, path_type=Path)
SCALES = click.Choice([2, 4, 8])
THREADS = click.IntRange(1, 1024)  # where the system can start no more, torch ends the process
Section = Literal["Inputs", "Pictures", "Outputs", "Network", "Runner", "Latent", "Methods", "Protocol", "Recipe",
                  "Run", "Checks", "Results", "Messages"]  # fmt: skip
MAX_PIXELS: dict[str, Any] = {  # the default is `image.MAX_PIXELS`, which a test compares: importing Pillow takes time
    "type": click.IntRange(1), "default": 500_000_000, "metavar": "N",
}  # fmt: skip
METRICS: dict[str, Any] = {
    "type": click.Choice(["lpips", "dists", "arniqa"]), "multiple": True,
    "callback": lambda _context, _parameter, names: tuple(dict.fromkeys(names)),
    "help": "Also measure how alike pictures look to people, or (arniqa) how good a restored one does.  [repeatable; "
            "needs irn-cli[metrics]]",
}  # fmt: skip
REFINE: dict[str, Any] = {  # 10 iterations give most of what 30 do (benchmarks/README.md)
    "type": click.IntRange(0, 1000), "is_flag": False, "flag_value": 10, "default": 0, "metavar": "[N]",
}  # fmt: skip


_MOMENT = 3.0  # seconds that need no word
_DEVICES = ("auto", "cpu", "cuda", "mps")  # as a shell completes them


def debugging() -> bool:
    return os.environ.get("IRN_DEBUG", "0") not in ("", "0")


@contextmanager
def searching(doing: str = "searching for pictures", *, quiet: bool = False) -> Iterator[None]:
    """Say what is being done, if it takes longer than a moment."""
    told = threading.Timer(_MOMENT, click.echo, [f"irn: {doing} ..."], {"err": True})
    told.daemon = True
    if not quiet:
        told.start()
    try:
        yield
    finally:
        told.cancel()


def _start_debugging(_context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        os.environ["IRN_DEBUG"] = "1"
        warnings.simplefilter("default")
        logging.basicConfig(force=True)  # in place of what keeps it silent


DEBUG: dict[str, Any] = {
    "is_flag": True, "is_eager": True, "expose_value": False, "callback": _start_debugging, "envvar": "IRN_DEBUG",
    "help": "Show a traceback with each error, and what libraries warn of; so does IRN_DEBUG=1.",
}  # fmt: skip


class Place(_NoEmptyPath):
    """A path of this machine or of an object store."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        from irn_cli.paths import to_path

        return to_path(super().convert(value, parameter, context))


PLACE = Place(readable=False)


class Finite(click.FloatRange):
    """A number within a range; NaN, which is below and above nothing, and infinity are in none."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, parameter, context)
        return number if math.isfinite(number) else self.fail(f"{number} is not a finite number.", parameter, context)


class Size(click.ParamType[tuple[int, int]]):
    """WIDTHxHEIGHT, as (height, width)."""

    name = "size"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not (found := re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", str(value))):
            self.fail(f"expected WIDTHxHEIGHT, as 640x427, not {value!r}.", parameter, context)
        return int(found[2]), int(found[1])


class Scales(click.ParamType[tuple[int, ...]]):
    """Factors with commas between, the largest first."""

    name = "scales"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if isinstance(value, tuple):  # the default
            return value
        chosen = [SCALES.convert(text, parameter, context) for text in value.split(",")]
        return tuple(sorted(set(chosen), reverse=True))


class Weights(click.Path):
    """Weights by name or path; a shell completes names, and files where no name begins that way."""

    def __init__(self) -> None:
        super().__init__(readable=False)

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from irn_cli.locations import weights_names

        names = [CompletionItem(name) for name in weights_names() if name.startswith(incomplete)]
        return names or super().shell_complete(context, parameter, incomplete)


class _Option(click.Option):
    """An option that the help shows in a section, without its range; a default in words is shown as it is.

    An empty value is refused: it comes from a shell's variable that is not set, and would pass for no option at all.
    """

    def __init__(self, *arguments: Any, section: Section, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.section = section

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        if self.flag_value != "" and "" in (value if isinstance(value, list | tuple) else [value]):
            raise click.BadParameter("expected a value, not an empty one.", ctx, self)
        return super().type_cast_value(ctx, value)

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
        self.params.append(click.Option(["--debug"], **DEBUG))

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
        for one in self.get_params(context):
            if isinstance(one, click.Option) and (row := one.get_help_record(context)):
                sections.setdefault(one.section if isinstance(one, _Option) else "Help", []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Group(click.Group):
    """A group of such commands; an unknown one is answered with the list of them."""

    command_class = _Command
    group_class = type

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not context.resilient_parsing:
            context.fail(f"No such command {args[0]!r}; there are: {', '.join(sorted(self.commands))}.")
        return super().resolve_command(context, args)


def argument(**attributes: Any) -> Any:
    """Declare an argument as a field of a command's options."""
    return field(metadata={"parameter": partial(click.Argument, **attributes)})


def option(section: Section, *flags: str, **attributes: Any) -> Any:
    """Declare an option as a field, in a section of the help; the other arguments are those of `click.option`."""
    return field(metadata={"parameter": lambda names: _Option([*names, *flags], section=section, **attributes)})


Options = TypeVar("Options")


def command(kind: type[Options], name: str | None = None) -> Callable[[Callable[[Options], int | None]], click.Command]:
    """Make a command whose options are the fields of a dataclass (a derived class's first), and its body's argument."""
    declared = {one.name: one.metadata["parameter"]([one.name]) for one in fields(kind)}  # type: ignore[arg-type]
    order = dict.fromkeys(name for base in kind.__mro__ for name in get_annotations(base))
    parameters = [declared[name] for name in order]

    def decorate(body: Callable[[Options], int | None]) -> click.Command:
        return click.command(name, cls=_Command, params=parameters)(wraps(body)(lambda **values: body(kind(**values))))

    return decorate


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where a network runs, and how."""

    device: str = option("Network", "--device", metavar="auto|cpu|cuda[:N]|mps", default="auto",
        shell_complete=lambda _context, _parameter, typed: [name for name in _DEVICES if name.startswith(typed)],
        help="Where the network runs; mps, a Mac's GPU, in float32 and untested.")  # fmt: skip
    precision: str = option("Network", "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto",
        help="Arithmetic of the convolutions; auto is bf16 where the hardware has it.")  # fmt: skip
    memory: str | None = option("Network", "--memory", metavar="SIZE", show_default="what there is",
        help="Use at most this much memory, such as 2GB or 500MB.")  # fmt: skip
    threads: int | None = option("Network", "--threads", type=THREADS, metavar="N",
        show_default="one per core", help="Threads to compute with on the CPU.")  # fmt: skip

    def __post_init__(self) -> None:
        from irn_cli.hardware import check_device, parse_memory

        check_device(self.device)  # now, not after the second that torch takes to load
        if self.memory:
            parse_memory(self.memory)


@dataclass(frozen=True, kw_only=True)
class Runner(Device):
    """What runs the work: this machine, or a cluster's workers."""

    runner: Literal["local", "ray"] = option("Runner", "--runner", type=click.Choice(["local", "ray"]), default="local",
        help="Run on this machine, or on the workers of a Ray cluster.")  # fmt: skip
    ray_address: str | None = option("Runner", "--ray-address", metavar="HOST:PORT", envvar="RAY_ADDRESS",
        show_envvar=True, show_default="start Ray here", help="The cluster's head; auto is the one that runs here.",
    )  # fmt: skip
    workers: int | None = option("Runner", "--workers", type=click.IntRange(1), metavar="N",
        show_default="as many as fit", help="How many pictures to work on at once, on all machines.")  # fmt: skip
    cpus_per_worker: float | None = option("Runner", "--cpus-per-worker", type=Finite(0, min_open=True), metavar="N",
        show_default="2", help="How many threads each worker has.")  # fmt: skip
    gpus_per_worker: float | None = option("Runner", "--gpus-per-worker", type=Finite(0), metavar="N",
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


def prepare_torch(threads: int | None) -> None:
    """Load torch for work on pictures: with threads that sleep between operations, and a tuned allocator.

    By default OpenMP's threads wait in a loop. That pays in training, where fewer threads are the answer to other
    programs that want the cores. Pictures are shared out to threads of our own, which need not wait for each other, and
    the few operations around them would take many times as long (`benchmarks/README.md`).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from irn_cli.device import tune_allocator
    from irn_cli.threads import set_threads

    set_threads(threads)
    tune_allocator()


def require_folders(directories: Sequence[Path]) -> None:
    from irn_cli.paths import require_folder

    for directory in directories:
        require_folder(directory)


def require_weights(sources: Sequence[str]) -> None:
    from irn_cli.weights import find_weights

    for source in sources:
        find_weights(source)


def load_metrics(names: Sequence[str]) -> "list[Metric]":
    if not names:
        return []
    from irn_cli.evaluation.learned import load_metric

    return [load_metric(name) for name in names]
