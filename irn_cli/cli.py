"""The `irn` command: options in, one call into the package, results out.

Bodies are thin and import what they need, so that `irn --help` is quick and loads no torch. This is the one place that
turns errors into exit statuses: 0 all done, 1 some input failed, 2 wrong usage, 130 interrupted.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from irn_cli.errors import IrnError

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


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
        click.echo(f"irn: {error}", err=True)
        status = error.exit_status
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


@click.group(context_settings=CONTEXT)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the versions of irn and torch, the device and the weights found.")  # fmt: skip
def irn() -> None:
    r"""Make pictures 2 or 4 times smaller so that they can be made large again.

    The small picture is an ordinary PNG; the same network that made it restores it far better than any upscaler.

    \b
    Example:
      irn downscale photo.jpg        # writes photo_down4.png
      irn upscale photo_down4.png    # writes photo_up4.png
    """


def device_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where and how the network runs."""
    for option in (
        click.option("--memory", metavar="SIZE", help="Most memory to use, as 2GB or 500MB.  [default: what there is]"),
        click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto",
                     help="Convolutions' arithmetic; auto is bf16 where the hardware has it."),
        click.option("--device", metavar="auto|cpu|cuda[:N]", default="auto", help="Where the network runs."),
    ):  # fmt: skip
        command = option(command)
    return command


@irn.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write.  [default: SOURCE_down4.png]")
@click.option("-s", "--scale", type=click.Choice(["2", "4", "8"]), default="4", help="How many times smaller.")
@click.option("-m", "--model", help="Weights: a name or a path.  [default: the shipped ones of the scale]")
@click.option("--force", is_flag=True, help="Replace existing files.")
@device_options
def downscale(
    source: Path, output: Path | None, scale: str, model: str | None, force: bool,
    device: str, precision: str, memory: str | None,
) -> None:  # fmt: skip
    r"""Make pictures small, so that `irn upscale` can make them large again.

    \b
    Example:
      irn downscale photo.jpg        # writes photo_down4.png
    """
    from irn_cli.device import tune_allocator
    from irn_cli.image import read, write
    from irn_cli.rescale import Rescaler
    from irn_cli.weights import DEFAULT_MODELS, load_model

    tune_allocator()
    scaler = Rescaler(load_model(model or DEFAULT_MODELS[int(scale)]), device, precision, memory)
    target = output or source.with_name(f"{source.stem}_down{scaler.scale}.png")
    write(target, scaler.downscale(read(source)), overwrite=force)
    click.echo(str(target))


@irn.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write.  [default: SOURCE_up4.png]")
@click.option("-m", "--model", help="Weights: a name or a path.  [default: those that made the small picture]")
@click.option("--samples", type=click.IntRange(1), default=1, help="How many restorations to draw.")
@click.option("--seed", type=int, default=0, help="Which latents to draw.")
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=1.0,
    help="Standard deviation of the latent; anything but 1 lies outside what the networks were trained for.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@device_options
def upscale(
    source: Path, output: Path | None, model: str | None, samples: int, seed: int, temperature: float, force: bool,
    device: str, precision: str, memory: str | None,
) -> None:  # fmt: skip
    r"""Make small pictures large again, as they were before `irn downscale`.

    \b
    Example:
      irn upscale photo_down4.png    # writes photo_up4.png
    """
    from irn_cli.device import tune_allocator
    from irn_cli.image import read, write
    from irn_cli.record import Record
    from irn_cli.rescale import Rescaler
    from irn_cli.weights import find_by_hash, load_model

    tune_allocator()
    picture = read(source)
    record = picture.record if isinstance(picture.record, Record) else None
    weights = model or (record and (find_by_hash(record.weights) or record.model)) or "irn-x4"
    scaler = Rescaler(load_model(weights), device, precision, memory)
    stem = source.stem.removesuffix(f"_down{scaler.scale}")
    for sample in range(samples):
        number = f"_{sample + 1}" if samples > 1 else ""
        target = output or source.with_name(f"{stem}_up{scaler.scale}{number}.png")
        write(target, scaler.upscale(picture, seed=seed, temperature=temperature, sample=sample), overwrite=force)
        click.echo(str(target))


@irn.group()
def weights() -> None:
    r"""List, show and import pretrained weights.

    \b
    Example:
      irn weights list
    """


@weights.command("list")
def weights_list() -> None:
    r"""List the weights that can be used by name, and where they are.

    \b
    Example:
      irn weights list
    """
    from rich.console import Console
    from rich.table import Table

    from irn_cli.weights import list_weights

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "scale", "revision", "hash", "file"):
        table.add_column(column, overflow="fold")
    for info in list_weights():
        table.add_row(info.name, f"{info.config.scale}x", info.revision, info.hash[:12], str(info.path))
    Console().print(table)


@weights.command("show")
@click.argument("name")
def weights_show(name: str) -> None:
    r"""Show what the header of weights NAME (a name or a path) says: configuration, data, scores, licence.

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
        click.echo(f"{key + ':':<12} {value}")


@weights.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="The file to write.  [default: SOURCE's name in the user's weights directory]")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing file.")
def weights_import(source: Path, output: Path | None, force: bool) -> None:
    r"""Convert SOURCE, an official IRN checkpoint (.pth), into safetensors.

    The checkpoint is read as plain tensors; nothing in it is ever executed.

    \b
    Example:
      irn weights import IRN_x4.pth -o irn-official-x4.safetensors
    """
    from irn_cli.weights import import_official, user_directory

    output = output or user_directory() / f"{source.stem}.safetensors"
    import_official(source, output, overwrite=force)
    click.echo(str(output))


@irn.command()
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of training pictures, searched at any depth; may be given several times.",
)
@click.option(
    "--val",
    "validation",
    type=click.Path(path_type=Path),
    help="Folder of validation pictures.  [default: a few training pictures are held out]",
)
@click.option("-s", "--scale", type=int, help="2, 4 or 8.  [default: that of --init, or the recipe's]")
@click.option("--recipe", metavar="irn|irn-plus|irn-shipped", help="What to do.  [default: irn]")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file whose values replace the recipe's.")
@click.option(
    "-o",
    "--output",
    "run",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="The run's directory.  [default: runs/RECIPE-xSCALE]",
)
@click.option("--init", metavar="WEIGHTS", help="Start from these weights: a name or a path.")
@click.option("--resume", is_flag=True, help="Continue the run in its directory, with its own recipe.")
@click.option("--force", is_flag=True, help="Start anew where the directory holds a run.")
@click.option("--iterations", type=int, help="Steps of the whole run.  [default: the recipe's, as all below]")
@click.option("--batch", type=int, help="Crops a step.")
@click.option("--patch", type=int, help="Side of a crop, in pixels.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--seed", type=int, help="What all random numbers depend on.")
@click.option("--stop-after", type=click.IntRange(1), metavar="N", help="End cleanly after N steps in this call.")
@click.option("--time-limit", metavar="9m", help="End cleanly after so much work (90s, 9m, 1h30m).")
@click.option("--vgg", type=click.Path(path_type=Path), help="VGG19 weights for irn-plus, in torchvision's layout.")
@click.option(
    "--vgg-input",
    type=click.Choice(["torchvision", "oxford"]),
    default="torchvision",
    help="What they expect: normalised RGB, or BGR levels less a mean.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, print the recipe as it would run, and stop.")
@click.option("-q", "--quiet", is_flag=True, help="Show only what went wrong.")
@device_options
def train(
    run: Path | None, time_limit: str | None, stop_after: int | None, dry_run: bool, quiet: bool, **options: Any
) -> int:
    r"""Train IRN, then IRN+, on folders of pictures, on a CPU, a GPU, or under torchrun on several.

    The run's directory gets weights.safetensors (for `irn -m`), a checkpoint that --resume continues, log.jsonl,
    curve.svg and preview.png. Ctrl-C saves and leaves; a second one leaves at once.

    \b
    Example:
      irn train --data DIV2K -s 4 -o runs/mine
      irn train --data photos --init irn-x2 --recipe irn-shipped --time-limit 9m
    """
    from rich.console import Console

    from irn_cli.device import tune_allocator
    from irn_cli.monitor import follow, stopping
    from irn_cli.train.job import Request, parse_duration, prepare, processes
    from irn_cli.train.recipe import recipe_toml
    from irn_cli.train.trainer import Limits, train

    limits = Limits(parse_duration(time_limit) if time_limit else None, stop_after)
    overrides = {key: options.pop(key) for key in ("scale", "iterations", "batch", "patch", "lr", "seed")}
    tune_allocator()
    with processes(options.pop("device")) as device, stopping() as interrupted:
        job = prepare(Request(run=run, overrides=overrides, device=device, **options))
        for line in job.remarks if job.step.process == 0 else ():
            click.echo(f"irn: {line}", err=True)
        if dry_run:
            click.echo(recipe_toml(job.step.recipe), nl=False)
            return 0
        if job.step.process == 0:
            job.open()
        events = train(
            job.step,
            job.run,
            job.notes,
            validation=job.validation,
            checkpoint=job.checkpoint,
            limits=limits,
            interrupted=interrupted,
        )
        console = Console(stderr=True) if job.step.process == 0 else None
        reason = follow(events, job.run, job.step.recipe, console, quiet=quiet)
    return 130 if reason == "interrupted" else 0
