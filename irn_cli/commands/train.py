"""`irn train`."""

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from irn_cli.commands.options import (
    NAME,
    PATH,
    SCALES,
    THREADS,
    Device,
    Weights,
    command,
    option,
    require_folders,
    require_weights,
    searching,
)
from irn_cli.errors import UsageError
from irn_cli.streams import standard_output

if TYPE_CHECKING:
    from irn_cli.train.request import Request


@dataclass(frozen=True, kw_only=True)
class _Train(Device):
    data: tuple[Path, ...] = option("Pictures", "--data", multiple=True, type=PATH, metavar="DIR",
        help="Folder of training pictures, searched at any depth.  [repeatable]")  # fmt: skip
    validation: Path | None = option("Pictures", "--val", type=PATH, metavar="DIR",
        show_default="a few training pictures, held out", help="Folder of validation pictures.")  # fmt: skip
    include_own: bool = option("Pictures", "--include-own", is_flag=True, help="Use pictures that irn made too.")
    recipe: str | None = option("Recipe", "--recipe", type=click.Choice(["irn", "irn-plus", "irn-shipped"]),
        show_default="irn", help="The paper's first stage, its second, or what made the shipped weights.")  # fmt: skip
    config: Path | None = option("Recipe", "--config", type=PATH, metavar="FILE.toml",
        help="Settings that override the recipe's; the options below override both.")  # fmt: skip
    scale: int | None = option("Recipe", "-s", "--scale", type=SCALES, show_default="that of --init, or the recipe's",
        help="How many times smaller.")  # fmt: skip
    iterations: int | None = option("Recipe", "--iterations", type=int, metavar="N",
        show_default="the recipe's, as all below", help="Steps of the whole run.")  # fmt: skip
    batch: int | None = option("Recipe", "--batch", type=int, metavar="N", help="Crops per step.")
    patch: int | None = option("Recipe", "--patch", type=int, metavar="N", help="Side of a crop, in pixels.")
    lr: float | None = option("Recipe", "--lr", type=float, metavar="R", help="Peak learning rate.")
    seed: int | None = option("Recipe", "--seed", metavar="S", type=int, help="Seed of all random numbers.")
    vgg: Path | None = option("Recipe", "--vgg", type=PATH, metavar="FILE",
        help="VGG19 weights for irn-plus, in torchvision's layout (.pth or .safetensors).")  # fmt: skip
    vgg_input: Literal["torchvision", "oxford"] | None = option("Recipe", "--vgg-input",
        type=click.Choice(["torchvision", "oxford"]), show_default="torchvision",
        help="What they expect: normalised RGB, or BGR levels minus a mean.")  # fmt: skip
    run: Path | None = option("Run", "-o", "--output", metavar="RUN", type=PATH, show_default="runs/RECIPE-xSCALE",
        help="The run's directory.")  # fmt: skip
    init: str | None = option("Run", "--init", type=Weights(), metavar="WEIGHTS",
        help="Start from these weights: a name or a path.")  # fmt: skip
    resume: str | None = option("Run", "--resume", is_flag=False, flag_value="", type=NAME, metavar="RUN",
        help="Continue this run with its own recipe and pictures; without a name, the one of -o.")  # fmt: skip
    anneal: str | None = option("Run", "--anneal", metavar="40m",
        help="Leave the run of --resume as it is; continue it in -o, with a rate that falls to zero in this time."
    )  # fmt: skip
    force: bool = option("Run", "--force", is_flag=True, help="Start over where the directory already holds a run.")
    stop_after: int | None = option("Run", "--stop-after", type=click.IntRange(1), metavar="N",
        help="End cleanly after N steps in this call.")  # fmt: skip
    time_limit: str | None = option("Run", "--time-limit", metavar="9m",
        help="End cleanly after this much work (90s, 9m, 1h30m).")  # fmt: skip
    dry_run: bool = option("Run", "--dry-run", is_flag=True,
        help="Check everything, print the recipe as it would run, and stop.")  # fmt: skip
    tensorboard: bool = option("Run", "--tensorboard", is_flag=True,
        help="Log for TensorBoard too, in the run's directory; needs irn-cli[tensorboard].")  # fmt: skip
    quiet: bool = option("Run", "-q", "--quiet", is_flag=True, help="Show only what went wrong.")
    memory: str | None = option("Network", "--memory", metavar="SIZE", show_default="a third of what there is",
        help="Keep at most this much of the training pictures in RAM, such as 2GB; the rest in a file.")  # fmt: skip
    threads: int | None = option("Network", "--threads", type=THREADS, metavar="N",
        show_default="one per core that other programs leave free", help="Threads to compute with on the CPU."
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume == "" and self.run is None:
            raise UsageError("--resume needs a run: name its directory")
        if self.anneal and self.time_limit:
            raise UsageError("--anneal is a time limit of its own: leave out --time-limit")
        if self.dry_run:
            standard_output()
        require_folders((*self.data, self.validation) if self.validation else self.data)

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
        require_weights([self.init] if self.init else [])
        request.changes()  # what is wrong with its file is said before torch loads
        return request.repeated()


@command(_Train)
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
    from irn_cli.train.job import processes

    if (remark := set_threads(options.threads, cores)) and not options.quiet:
        click.echo(f"irn: {remark}", err=True)
    tune_allocator()
    tune_convolutions(options.precision)
    with processes(options.device) as device:
        return _run(replace(request, device=device), options)


def _run(request: "Request", options: _Train) -> int:
    """Train as asked; the exit status. Nothing of the run is left when this returns, as `processes` needs it."""
    from irn_cli.train.job import prepare
    from irn_cli.train.monitor import RunConsole, how_to_stop, stopping, watch
    from irn_cli.train.recipe import recipe_toml
    from irn_cli.train.trainer import train

    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    with searching("finding and reading pictures", quiet=options.quiet or not first):
        job = prepare(request)
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
