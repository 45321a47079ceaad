"""How natural restored pictures look, in two numbers that PSNR does not tell: what stage 2 of training (IRN+) is for.

    python weights/perceptual.py irn-x4 irn-plus-x4 --baseline bicubic --data DIR --vgg VGG19

VGG distance: mean absolute difference of the original's and the restored picture's VGG19 features (conv5_4), which the
perceptual loss makes small, as a share of the mean size of the original's. Finest band: energy of the luma's finest
Haar detail, as a share of the original's: below 1 is too smooth, above too rough. Means over the pictures; one draw.
"""

import statistics
from pathlib import Path

import click
import torch
from torch import Tensor

from irn_cli.errors import IrnError
from irn_cli.evaluation.dataset import find_data_set, load
from irn_cli.evaluation.methods import BASELINES, load_methods
from irn_cli.metrics import luma, psnr
from irn_cli.model import Haar
from irn_cli.picture import Picture
from irn_cli.train.losses import VGGFeatures, VGGInput


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--baseline", "baselines", type=click.Choice(sorted(BASELINES)), multiple=True)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="A folder of pictures.")
@click.option("--vgg", type=click.Path(path_type=Path), required=True, help="VGG19 weights in torchvision's layout.")
@click.option("--vgg-input", type=click.Choice(["torchvision", "oxford"]), default="torchvision")
@click.option("--seed", type=int, default=0, help="Which latents to draw.")
def compare(
    models: tuple[str, ...], baselines: tuple[str, ...], data: Path, vgg: Path, vgg_input: VGGInput, seed: int
) -> None:
    """Print a Markdown table of MODELS, all of one scale."""
    try:
        methods = load_methods(models, baselines)
        features = VGGFeatures(vgg, vgg_input, 1.0)
        dataset = find_data_set(data)
        rows: dict[str, list[tuple[float, float, float]]] = {method.name: [] for method in methods}
        for path in dataset.pictures:
            original = load(dataset, path, methods[0].scale, 0)
            picture = original.picture
            wanted, energy = features(_tensor(picture)), _finest(picture)
            for method in methods:
                restored = method.upscale(method.downscale(original), seed=seed, temperature=1.0, sample=0)
                distance = (features(_tensor(restored)) - wanted).abs().mean() / wanted.abs().mean()
                decibels = psnr(picture.pixels, restored.pixels, of=luma)
                rows[method.name].append((float(distance), _finest(restored) / energy, decibels))
    except IrnError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"| {dataset.name} ({len(dataset.pictures)}) | VGG distance | finest band | PSNR on Y |")
    click.echo("|---|---|---|---|")
    for name, found in rows.items():
        distance, energy, decibels = map(statistics.fmean, zip(*found, strict=True))
        click.echo(f"| {name} | {distance:.3f} | {energy:.2f} | {decibels:.2f} dB |")


def _tensor(picture: Picture) -> Tensor:
    """(1, 3, H, W), in [0, 1]."""
    return torch.from_numpy(picture.pixels).permute(2, 0, 1)[None].float() / 255


def _finest(picture: Picture) -> float:
    """Mean square of the luma's three finest Haar bands, squared levels."""
    y = torch.from_numpy(luma(picture.pixels))[None, None]
    return float(Haar().downscale(y)[:, 1:].square().mean())


if __name__ == "__main__":
    compare()
