"""What surrounds a picture in the network, and how well its borders come back: a table in Markdown.

    python benchmarks/borders.py Set14 -m irn-x4

PSNR on Y over the outermost 8 pixels of each picture, over the rest, and over all; means over the pictures.
"""

import argparse
from pathlib import Path

import numpy as np
from engine import header, row

import irn_cli
from irn_cli.border import KINDS
from irn_cli.inputs import walk
from irn_cli.metrics import luma

RIM = 8  # pixels


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("-m", "--model", default="irn-x4")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th picture")
    options = parser.parse_args()
    scaler = irn_cli.Rescaler(irn_cli.load_model(options.model))
    paths = list(walk(options.directory))[:: options.every]
    scores: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
    for path in paths:
        read = irn_cli.read(path).pixels
        height, width = (side - side % scaler.scale for side in read.shape[:2])
        original = irn_cli.Picture(np.ascontiguousarray(read[:height, :width]))
        for kind in KINDS:
            restored = scaler.upscale(scaler.downscale(original, border=kind))
            scores[kind].append(measured(original.pixels, restored.pixels))
    header(f"{options.model}, {len(paths)} pictures", f"outermost {RIM} pixels, dB", "the rest, dB", "all, dB")
    for kind in KINDS:
        row(kind, *(f"{mean:.2f}" for mean in np.mean(scores[kind], 0)))


def measured(original: np.ndarray, restored: np.ndarray) -> tuple[float, ...]:
    """PSNR on Y of the rim, of the rest, and of all, dB."""
    squares = (luma(original) - luma(restored)) ** 2
    rim = np.ones(squares.shape, bool)
    rim[RIM:-RIM, RIM:-RIM] = False
    return tuple(float(10 * np.log10(255**2 / part.mean())) for part in (squares[rim], squares[~rim], squares))


if __name__ == "__main__":
    main()
