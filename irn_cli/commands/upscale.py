"""`irn upscale`: make them large again."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import click

from irn_cli.commands.batch import BatchOptions, find_inputs, run_plan
from irn_cli.commands.options import NAME, SCALES, Finite, Size, Weights, command, option
from irn_cli.errors import UsageError

if TYPE_CHECKING:
    from irn_cli.batch.outputs import Outputs
    from irn_cli.batch.work import Work
    from irn_cli.formats.known import FormatName


@dataclass(frozen=True, kw_only=True)
class _Upscale(BatchOptions):
    samples: int = option("Latent", "--samples", type=click.IntRange(1, 9999), default=1, metavar="N",
        help="How many restorations to make of each picture.")  # fmt: skip
    seed: int | None = option("Latent", "--seed", metavar="S", type=int, show_default="0",
        help="Which latents to draw.")  # fmt: skip
    temperature: float | None = option("Latent", "--temperature", metavar="T", type=Finite(0), show_default="1",
        help="Standard deviation of the latents; a warning says so if MODEL was not trained for it.")  # fmt: skip
    latent: str | None = option("Latent", "--latent", type=NAME, metavar="FILE",
        show_default="the one beside it, unless an option above is given",
        help="What --keep-latent kept of the one input: it comes back bit for bit.")  # fmt: skip
    spread: bool = option("Latent", "--spread", is_flag=True,
        help="Also write a picture of where the samples differ: 20 times the difference, darker is more.")  # fmt: skip
    scale: int | None = option("Network", "-s", "--scale", type=SCALES, help="For pictures without a record of irn.")
    size: tuple[int, int] | None = option("Network", "--size", type=Size(), metavar="WxH",
        help="For such pictures: the original's size, which need not be a multiple of the scale.")  # fmt: skip
    model: str | None = option("Network", "-m", "--model", type=Weights(), metavar="MODEL",
        show_default="those that made the small picture", help="Weights: a name or a path.")  # fmt: skip

    format: "FormatName | None" = option("Outputs", "--format",
        type=click.Choice(["png", "jpg", "webp", "avif", "tiff", "jxl"]), show_default="that of OUT's name, or png",
        help="Format of the restored pictures; jxl needs the extra irn-cli[formats].")  # fmt: skip
    quality: int | None = option("Outputs", "--quality", type=click.IntRange(1, 100), metavar="N",
        show_default="lossless; jpg 95, avif 90", help="Quality of jpg, webp, avif and jxl, 1 to 100.")  # fmt: skip
    original_names: bool = option("Outputs", "--original-names", is_flag=True,
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


@command(_Upscale)
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
    inputs = find_inputs(options)
    if options.latent and len(inputs) != 1:
        raise UsageError(f"--latent belongs to one picture, but there are {len(inputs)}")
    plan = plan_upscale(
        inputs,
        options.outputs(),
        options.scale,
        samples=options.samples,
        spread=options.spread,
        max_pixels=options.max_pixels,
    )
    return run_plan(plan, partial(_upscaler, options), options)


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
