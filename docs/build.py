"""Make the documentation that comes out of the code: `python docs/build.py [DIRECTORY]`.

The command line's page, `docs/commands.md`, comes from each command's `--help`; a test holds it to that. The Python
reference, HTML in DIRECTORY (by default `build/docs`), comes from docstrings, by pdoc (`pip install '.[docs]'`).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

import irn_cli
from irn_cli.cli import CONTEXT, irn

COMMANDS = Path(__file__).parent / "commands.md"
WIDTH = 80  # columns


def _helps(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Each command's name and help, sub-commands after the command that has them."""
    settings = {**CONTEXT, "terminal_width": WIDTH, "max_content_width": WIDTH}
    with click.Context(command, info_name=name, **settings) as context:
        yield name, command.get_help(context)
    for key, one in command.commands.items() if isinstance(command, click.Group) else ():
        yield from _helps(one, f"{name} {key}")


def commands() -> str:
    """The page with every command's help, in Markdown."""
    sections = [f"## {name}\n\n```\n{text}\n```\n" for name, text in _helps(irn, "irn")]
    return "# Command line\n\nWhat `--help` says; made by `python docs/build.py`.\n\n" + "\n".join(sections)


def reference(directory: Path) -> None:
    """The pages with every public name's docstring, in HTML."""
    import pdoc

    for name in irn_cli.__all__:  # pdoc sees only what is loaded
        setattr(irn_cli, name, getattr(irn_cli, name))
    pdoc.render.configure(docformat="google", footer_text=f"irn {irn_cli.__version__}", search=False)
    pdoc.pdoc("irn_cli", output_directory=directory)


if __name__ == "__main__":
    COMMANDS.write_text(commands(), encoding="utf-8")
    reference(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "build" / "docs")
