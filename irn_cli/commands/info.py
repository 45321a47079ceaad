"""`irn info`: what a picture is."""

import json
from dataclasses import dataclass

import click

from irn_cli.commands.options import MAX_PIXELS, NAME, SCALES, argument, command, option, searching
from irn_cli.errors import one_line
from irn_cli.streams import standard_output


@dataclass(frozen=True, kw_only=True)
class _Info:
    sources: tuple[str, ...] = argument(nargs=-1, type=NAME, metavar="SRC...", required=True)
    scale: int = option("Inputs", "-s", "--scale", type=SCALES, default=4,
        help="How many times smaller they are to be made.")  # fmt: skip
    max_pixels: int = option("Inputs", "--max-pixels", **MAX_PIXELS, help="Do not decode larger pictures.")
    as_json: bool = option("Messages", "--json", is_flag=True, help="Print one JSON object per picture.")


@command(_Info)
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
    with searching():
        sources = find_pictures(options.sources)
    for source in sources:
        found = describe(source, options.scale, max_pixels=options.max_pixels)
        failed |= bool(found.error)
        for line in [json.dumps(found.as_json())] if options.as_json else found.lines():
            click.echo(line if options.as_json else one_line(line))
    return int(failed)
