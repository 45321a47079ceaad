"""`irn downscale`: make pictures small."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import click

from irn_cli.commands.batch import BatchOptions, find_inputs, run_plan
from irn_cli.commands.options import REFINE, SCALES, Finite, Scales, Weights, command, option
from irn_cli.errors import UsageError

if TYPE_CHECKING:
    from irn_cli.batch.outputs import Outputs
    from irn_cli.batch.work import Work
    from irn_cli.formats.known import FormatName


@dataclass(frozen=True, kw_only=True)
class _Downscale(BatchOptions):
    scale: int | None = option("Network", "-s", "--scale", type=SCALES, show_default="4, or that of --model",
        help="How many times smaller.")  # fmt: skip
    model: str | None = option("Network", "-m", "--model", type=Weights(), metavar="MODEL",
        show_default="the shipped ones of the scale", help="Weights: a name or a path.")  # fmt: skip
    border: Literal["auto", "zero", "mirror", "edge"] = option("Network", "--border",
        type=click.Choice(["auto", "zero", "mirror", "edge"]), default="auto",
        help="What surrounds a picture in the network; auto is zero, and what restores best where a side is below "
             "64 pixels.")  # fmt: skip
    orientations: Literal[1, 4, 8] = option("Network", "--orientations", type=click.Choice([1, 4, 8]), default=1,
        help="Try each picture in the network also flipped (4), or flipped and on its side (8), and keep what restores "
             "best. Each takes as long as making and restoring it. Where that is not upright, earlier versions of irn "
             "refuse the small picture.")  # fmt: skip
    refine: int = option("Network", "--refine", **REFINE,
        help="Improve each small picture N times (10 where no N is given), so that it restores better. Each time takes "
             "about as long as making it and restoring it twice.")  # fmt: skip
    format: "FormatName | None" = option("Outputs", "--format", type=click.Choice(["png", "webp", "tiff", "jxl"]),
        show_default="that of OUT's name, or png",
        help="Format of the small pictures, all lossless; jxl needs the extra irn-cli[formats].")  # fmt: skip
    keep_latent: bool = option("Outputs", "--keep-latent", is_flag=True,
        help="Also keep the original's pixels, in a file beside the small picture: with it `irn upscale` gives the "
             "original back bit for bit. It takes as much space as the original does as a lossless WebP.")  # fmt: skip
    no_mark: bool = option("Outputs", "--no-mark", is_flag=True,
        help="Leave out the mark in the lowest bits of 64 pixels, which restores a small picture that has lost its "
             "record.")  # fmt: skip
    on_artifact: Literal["warn", "fail", "bicubic"] = option("Checks", "--on-artifact",
        type=click.Choice(["warn", "fail", "bicubic"]), default="warn",
        help="What to do about coloured blotches in the small picture; bicubic blends them away.")  # fmt: skip
    verify: bool = option("Checks", "--verify", is_flag=True,
        help="Restore each small picture at once and show its PSNR.")  # fmt: skip
    min_psnr: float | None = option("Checks", "--min-psnr", type=Finite(0), metavar="DB",
        help="Fail, and write nothing, if the PSNR on Y is lower.")  # fmt: skip
    scales: tuple[int, ...] = option("Checks", "--scales", type=Scales(), metavar="4,2", show_default=False, default=(),
        help="Make each picture small by the largest of these factors at which it reaches --min-psnr; with --force and "
             "--update, that replaces what another factor gave.")  # fmt: skip
    otherwise: Literal["fail", "skip", "copy", "keep"] = option("Checks", "--otherwise",
        type=click.Choice(["fail", "skip", "copy", "keep"]), default="fail",
        help="What becomes of a picture that does not reach --min-psnr: left out, copied as it is, or made small by "
             "the smallest factor anyway.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_psnr is None and (self.scales or self.otherwise != "fail"):
            raise UsageError("--scales and --otherwise say what to do about --min-psnr: give that, too")
        if self.scales and (self.scale or self.model):
            raise UsageError("--scales takes the shipped weights of each factor: leave out --scale and --model")
        if self.otherwise == "copy" and self.strip:
            raise UsageError("--otherwise copy keeps files as they are: it excludes --strip")
        if self.keep_latent and (self.scales or self.otherwise != "fail"):
            raise UsageError("--keep-latent restores every bit: it excludes --scales and --otherwise")

    @property
    def weights(self) -> tuple[str, ...]:
        """Names or paths of what makes pictures small: more than one with `--scales`, the largest factor first."""
        from irn_cli.weights import DEFAULT_MODELS

        scales = self.scales or (self.scale or 4,)
        for scale in scales:
            if not self.model and scale not in DEFAULT_MODELS:
                raise UsageError(f"no weights for {scale}x are shipped: --model names yours")
        return (self.model,) if self.model else tuple(DEFAULT_MODELS[scale] for scale in scales)

    def outputs(self) -> "Outputs":
        return replace(super().outputs(), format=self.format)


@command(_Downscale)
def downscale(options: _Downscale) -> int:
    """Make pictures small, for `irn upscale` to make large again.

    SRC are pictures, directories (searched to the bottom) or glob patterns; - is standard input.

    \b
    Example:
      irn downscale photo.jpg              # writes photo_down4.png
      irn downscale photos -o small        # mirrors the tree of photos in small
      irn downscale photo.jpg --refine     # takes longer, restores better
    """
    from irn_cli.batch.plan import plan_downscale
    from irn_cli.weights import find_weights, read_scale

    inputs = find_inputs(options)
    sources = [find_weights(name) for name in options.weights]
    scale, *smaller = map(read_scale, sources)
    if options.scale not in (None, scale):
        raise UsageError(f"{sources[0].stem} makes pictures {scale} times smaller, not {options.scale}")
    plan = plan_downscale(
        inputs,
        options.outputs(),
        scale,
        keep_latent=options.keep_latent,
        smaller=smaller,
        copy=options.otherwise == "copy",
    )
    return run_plan(plan, partial(_downscaler, options), options)


def _downscaler(options: _Downscale) -> "Work":
    """Load what makes pictures small; also called in the workers of a cluster."""
    from irn_cli.batch.work import Chooser, Downscaler
    from irn_cli.rescale import Rescaler
    from irn_cli.weights import load_model

    downscalers = tuple(
        Downscaler(
            scaler=Rescaler(load_model(name), options.device, options.precision, options.memory),
            keep_latent=options.keep_latent,
            mark=not options.no_mark,
            on_artifact=options.on_artifact,
            border=options.border,
            orientations=options.orientations,
            refine=options.refine,
            verify=options.verify,
            min_psnr=options.min_psnr,
        )
        for name in options.weights
    )
    if options.scales or options.otherwise != "fail":
        return Chooser(downscalers=downscalers, otherwise=options.otherwise)
    return downscalers[0]
