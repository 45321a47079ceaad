"""`irn weights`: list, show, import and fetch weights."""

from dataclasses import dataclass
from pathlib import Path

import click

from irn_cli.commands.options import PATH, Group, Weights, argument, command, option
from irn_cli.errors import one_line
from irn_cli.streams import standard_output


@click.group(cls=Group)
def weights() -> None:
    """List, show, pull and import pretrained weights.

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
    from irn_cli.weights import look_up

    standard_output()
    found, left_out = look_up()
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
    for error in left_out:
        click.echo(f"irn: left out: {one_line(str(error))}", err=True)
    if not found:
        click.echo(f"irn: no weights in {', '.join(map(str, weights_directories()))}", err=True)


@weights.command("show")
@click.argument("name", type=Weights())
def weights_show(name: str) -> None:
    """Show what a weights file says about itself: data, scores, licence.

    NAME is a name from `irn weights list` or the path of a file.

    \b
    Example:
      irn weights show irn-x4
    """
    from irn_cli.weights import find_weights, read_info

    standard_output()
    for key, value in read_info(find_weights(name)).described().items():
        click.echo(f"{key + ':':<15} {value}")


@dataclass(frozen=True, kw_only=True)
class _Import:
    source: Path = argument(type=PATH)
    output: Path | None = option("Outputs", "-o", "--output", type=PATH, metavar="FILE",
        show_default="SOURCE's name in the user's weights directory", help="The file to write.")  # fmt: skip
    force: bool = option("Outputs", "--force", is_flag=True, help="Replace an existing file.")


@command(_Import, "import")
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
    source: str = argument(metavar="hf:OWNER/NAME")
    output: Path | None = option("Outputs", "-o", "--output", type=PATH, metavar="FILE",
        show_default="its own name in the user's weights directory", help="The file to write.")  # fmt: skip
    force: bool = option("Outputs", "--force", is_flag=True, help="Replace an existing file.")


@command(_Pull, "pull")
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


for _one in (weights_import, weights_pull):
    weights.add_command(_one)
