"""What making a picture small in its best orientation would gain: `python benchmarks/orientations.py Set14 -m irn-x4`.

Each picture is flipped and turned, made small, restored and turned back. The best of four orientations (flipped) and
of eight (turned by 90 degrees as well) is chosen by one draw of the latent; what it gains over the picture as it lies,
PSNR on Y, is shown by that draw and by another, which had no part in the choice.
"""

import argparse
from pathlib import Path

import numpy as np
from engine import header, row

import irn_cli
from irn_cli.inputs import walk
from irn_cli.metrics import crop_border, luma, psnr
from irn_cli.picture import Pixels

ORIENTATIONS = [(turns, mirrored) for turns in (0, 2, 1, 3) for mirrored in (False, True)]  # the first four: flips


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("-m", "--model", default="irn-x4")
    parser.add_argument("--crop", type=int, default=0, help="pixels to leave out at each border")
    options = parser.parse_args()
    scaler = irn_cli.Rescaler(irn_cli.load_model(options.model))
    header(f"{options.model}, gain in dB", "best of 4", "another draw", "best of 8", "another draw")
    gains = []
    pictures = {path: irn_cli.read(path).pixels for path in walk(options.directory)}
    for path, pixels in sorted(pictures.items(), key=lambda item: item[1].size):
        reached = np.array([restored(scaler, pixels, options.crop, *each) for each in ORIENTATIONS])  # (8, draws)
        best = [reached[:count, 0].argmax() for count in (4, 8)]
        gains.append(np.concatenate([reached[k] - reached[0] for k in best]))
        row(path.stem, *(f"{gain:+.2f}" for gain in gains[-1]))
    row(f"mean of {len(gains)}", *(f"{gain:+.2f}" for gain in np.mean(gains, 0)))


def restored(scaler: irn_cli.Rescaler, pixels: Pixels, crop: int, turns: int, mirrored: bool) -> list[float]:
    """PSNR on Y of two draws, dB, of a picture made small in an orientation."""
    turned = np.rot90(pixels, turns)
    small = scaler.downscale(irn_cli.Picture(np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)))
    large = [turned_back(scaler.upscale(small, seed=seed).pixels, turns, mirrored) for seed in (0, 1)]
    return [psnr(*(crop_border(luma(each), crop) for each in (pixels, one))) for one in large]


def turned_back(pixels: Pixels, turns: int, mirrored: bool) -> Pixels:
    """A restored picture as its original lies."""
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, -turns))


if __name__ == "__main__":
    main()
