"""`irn compare`: how alike pictures are."""

from dataclasses import dataclass
from pathlib import Path

import click

from irn_cli.commands.options import METRICS, PLACE, argument, command, load_metrics, option
from irn_cli.streams import standard_output


@dataclass(frozen=True, kw_only=True)
class _Compare:
    first: Path = argument(type=PLACE, metavar="A")
    second: Path = argument(type=PLACE, metavar="B")
    crop: int = option("Protocol", "--crop", type=click.IntRange(0), default=0, metavar="N",
        help="Pixels left out at each border; irn eval leaves out as many as the scale.")  # fmt: skip
    metrics: tuple[str, ...] = option("Protocol", "--metric", **METRICS)
    as_json: bool = option("Results", "--json", is_flag=True,
        help="Print one JSON object per picture instead of the table.")  # fmt: skip


@command(_Compare)
def compare(options: _Compare) -> int:
    """Measure how alike two pictures, or two folders of them, are.

    Pictures of folders belong together by their names, which in B may end in another format and bear a suffix such as
    _up4, _x4 or _SR. One that has no counterpart, or one of another size, is named and makes the exit status 1.

    \b
    Example:
      irn compare photo.jpg photo_up4.png
      irn compare photos restored --crop 4
    """
    from irn_cli.evaluation import likeness
    from irn_cli.metrics import METRICS

    standard_output()
    pairs, lone = likeness.find_pairs(options.first, options.second)
    metrics = load_metrics(options.metrics)
    rows = []
    compared = likeness.compare(pairs, crop=options.crop, metrics=metrics)
    for row in likeness.track(compared, len(pairs), bar=not options.as_json):
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
