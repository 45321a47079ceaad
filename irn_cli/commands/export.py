"""`irn export`: a network for other runtimes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from irn_cli.commands.options import PATH, Weights, argument, command, option, require_weights
from irn_cli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class _Export:
    output: Path = argument(type=PATH, metavar="FILE.onnx")
    model: str = option("Network", "-m", "--model", type=Weights(), metavar="MODEL", default="irn-x4",
        help="Weights: a name or a path.")  # fmt: skip
    direction: Literal["up", "down"] = option("Network", "--direction", type=click.Choice(["up", "down"]),
        required=True, help="Which way: from the small picture to the large one, or back.")  # fmt: skip
    latent: Literal["input", "zero"] = option("Network", "--latent", type=click.Choice(["input", "zero"]),
        default="input",
        help="What up uses for z: an input, to be drawn from N(0, 1), or its mean, 0.")  # fmt: skip
    force: bool = option("Outputs", "--force", is_flag=True, help="Replace an existing file.")

    def __post_init__(self) -> None:
        require_weights([self.model])
        if self.direction == "down" and self.latent == "zero":
            raise UsageError("--latent zero is for --direction up: down gives the latent")


@command(_Export)
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
