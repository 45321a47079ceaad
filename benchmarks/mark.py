"""What the mark costs: `python benchmarks/mark.py DIR MODEL SIDE`.

A mosaic of DIR's pictures, SIDE pixels wide and high, is made small and restored from the same latent with and without
a mark.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

import irn_cli
from irn_cli import mark

TILE = 320  # pixels


def mosaic(directory: Path, side: int) -> np.ndarray:
    """Corners of pictures, side by side."""
    names = sorted(path for path in directory.iterdir() if path.suffix in (".png", ".jpg"))
    places = [(row, column) for row in range(0, side, TILE) for column in range(0, side, TILE)]
    whole = np.zeros((side, side, 3), np.uint8)
    for number, (row, column) in enumerate(places):
        part = whole[row : row + TILE, column : column + TILE]
        part[:] = irn_cli.read(names[number % len(names)]).pixels[: part.shape[0], : part.shape[1]]
    return whole


def main(directory: str, model: str, side: str) -> None:
    """Measure and print."""
    original = mosaic(Path(directory), int(side))
    scaler = irn_cli.Rescaler(irn_cli.load_model(model))
    begin = time.process_time()
    small = scaler.downscale(irn_cli.Picture(original))
    without = time.process_time() - begin
    with patch("irn_cli.canvas.hash_pixels", lambda _: small.record.pixels):  # what the latent is drawn by
        plain = irn_cli.psnr(original, scaler.upscale(small).pixels)
        print(f"{model}, {small.size[1]}x{small.size[0]} small: {plain:.3f} dB RGB")
        for seed in range(2):
            weights = f"{np.random.default_rng(seed).integers(1 << 40):064x}"[::-1]  # other bits
            begin = time.process_time()
            marked = mark.put(replace(small, record=replace(small.record, weights=weights)))
            seconds = time.process_time() - begin
            found = irn_cli.psnr(original, scaler.upscale(replace(small, pixels=marked.pixels)).pixels)
            changed = np.count_nonzero(marked.pixels != small.pixels)
            told = f"{1000 * seconds:.1f} ms of CPU time beside {without:.1f} s"
            print(f"  {changed} levels changed: {plain - found:.6f} dB; {told}")


if __name__ == "__main__":
    main(*sys.argv[1:])
