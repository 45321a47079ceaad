"""What `irn downscale --orientations` gains: `python benchmarks/orientations.py Set14 -m irn-x4`.

Each picture is made small upright and in the best of four and of eight orientations; what these gain, PSNR on Y and on
RGB, is shown by the draw of the latent that chose and by another, which had no part in the choice.
"""

import argparse
from pathlib import Path

import numpy as np
from engine import header, row

import irn_cli
from irn_cli.inputs import walk
from irn_cli.metrics import Psnr, crop_border
from irn_cli.picture import Pixels
from irn_cli.rescale import Orientations


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("-m", "--model", default="irn-x4")
    parser.add_argument("--crop", type=int, default=0, help="pixels to leave out at each border")
    options = parser.parse_args()
    scaler = irn_cli.Rescaler(irn_cli.load_model(options.model))
    header(f"{options.model}, gain in dB on Y / RGB", "best of 4", "another draw", "best of 8", "another draw")
    gains = []
    pictures = {path: irn_cli.read(path).pixels for path in walk(options.directory)}
    for path, pixels in sorted(pictures.items(), key=lambda item: item[1].size):
        upright, four, eight = (restored(scaler, pixels, options.crop, count) for count in (1, 4, 8))
        gains.append(np.concatenate([four - upright, eight - upright]))
        row(path.stem, *(f"{on_y:+.2f} / {on_rgb:+.2f}" for on_y, on_rgb in gains[-1]))
    row(f"mean of {len(gains)}", *(f"{on_y:+.2f} / {on_rgb:+.2f}" for on_y, on_rgb in np.mean(gains, 0)))


def restored(scaler: irn_cli.Rescaler, pixels: Pixels, crop: int, count: Orientations) -> np.ndarray:
    """PSNR on Y and on RGB, dB, of two draws, of a picture made small in the best of so many orientations."""
    small = scaler.downscale(pixels, orientations=count)
    original, *large = (
        crop_border(each, crop) for each in (pixels, *(scaler.upscale(small, seed=seed).pixels for seed in (0, 1)))
    )
    found = [Psnr.of(original, one) for one in large]
    return np.array([[one.luma, one.rgb] for one in found])


if __name__ == "__main__":
    main()
