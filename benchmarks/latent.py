"""What `--keep-latent` takes: `python benchmarks/latent.py DIR MODEL`.

In percent of the original as a lossless WebP: the small picture, as a PNG and as a WebP; what is kept beside it; and,
in its place, the difference between the original and what the small picture is restored to, modulo 256, as a lossless
WebP. The sums are with the PNG.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import irn_cli


def main(directory: str, model: str) -> None:
    """Measure and print."""
    scaler = irn_cli.Rescaler(irn_cli.load_model(model), precision="fp32")
    sizes = []
    with TemporaryDirectory() as place:

        def size(name: str, picture: irn_cli.Picture) -> int:
            path = Path(place) / name
            irn_cli.write(path, picture, overwrite=True)
            return path.stat().st_size

        for path in sorted(Path(directory).iterdir()):
            if path.suffix not in (".png", ".jpg", ".webp"):
                continue
            pixels = irn_cli.read(path).pixels
            small = scaler.downscale(pixels, keep_latent=True)
            restored = scaler.upscale(irn_cli.Picture(small.pixels, record=small.record)).pixels
            row = [
                size("original.webp", irn_cli.Picture(pixels)),
                size("small.png", small),
                size("small.webp", small),
                irn_cli.latent_path(Path(place) / "small.webp").stat().st_size,
                size("difference.webp", irn_cli.Picture(pixels - restored + np.uint8(128))),
            ]
            show(path.name, row)
            sizes.append(row)
    show(f"all {len(sizes)}", np.sum(sizes, 0))


def show(name: str, sizes: list[int]) -> None:
    """Print one row."""
    whole, png, webp, kept, difference = sizes
    shares = (f"{100 * part / whole:6.1f}" for part in (png, webp, kept, png + kept, difference, png + difference))
    print(f"{name:16}", *shares)


if __name__ == "__main__":
    print(f"{'':16}    png   webp   kept    sum difference  sum")
    main(*sys.argv[1:])
