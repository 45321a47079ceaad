"""Make one run's export of two: the mean of weights that were trained from the same start.

    python weights/mean.py RUN OTHER -o NEW

copies RUN to NEW, with the mean of both runs' weights, rounded to bfloat16 as training in it exports them. The header
keeps RUN's fields and names both. Runs from different starts have no mean: it restores nothing.
"""

import shutil
from pathlib import Path

import click
import torch

from irn_cli.errors import IrnError
from irn_cli.train.trainer import WEIGHTS
from irn_cli.weights import load_model, read_info, save_model


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The directory to make.")
def mean(run: Path, other: Path, output: Path) -> None:
    """Write OUTPUT: RUN with the mean of its weights and OTHER's."""
    try:
        paths = run / WEIGHTS, other / WEIGHTS
        (model, second), (info, second_info) = map(load_model, paths), map(read_info, paths)
        if model.config != second.config:
            raise click.ClickException("the networks are of different shapes")
        with torch.no_grad():
            for weight, beside in zip(model.parameters(), second.parameters(), strict=True):
                weight.copy_(((weight + beside) / 2).bfloat16())
        shutil.copytree(run, output)
        notes = info.notes | {"mean_of": f"{info.hash[:12]}, {second_info.hash[:12]}"}
        save_model(output / WEIGHTS, model, notes=notes, overwrite=True)
    except (IrnError, OSError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    mean()
