"""Draw the README's picture: a detail of a photo, the small picture, and what bicubic and irn make of it.

Usage: python examples/comparison.py PHOTO LEFT TOP SIDE OUTPUT.png
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from irn_cli import Picture, Rescaler, load_model, luma, psnr
from irn_cli.evaluation.dataset import DataSet, Original, load
from irn_cli.evaluation.methods import Baseline, Method, Network
from irn_cli.metrics import crop_border

SCALE = 4
ZOOM = 3
GAP = 12
CAPTION = 46


def there_and_back(method: Method, original: Original) -> tuple[Picture, Picture, float]:
    """The small picture, the restored one, and its PSNR on Y, as the papers measure it."""
    small = method.downscale(original)
    assert small.picture
    restored = method.upscale(small, seed=0, temperature=1.0, sample=0)
    a, b = (crop_border(luma(picture.pixels), SCALE) for picture in (original.picture, restored))
    return small.picture, restored, psnr(a, b)


def main(photo: str, left: int, top: int, side: int, output: str) -> None:
    """Draw the detail of `side` pixels at (`left`, `top`), all multiples of four."""
    path = Path(photo)
    original = load(DataSet(path.parent.name, path.parent, (path,)), path, SCALE, SCALE)
    _, plain, plain_score = there_and_back(Baseline("bicubic", SCALE), original)
    small, restored, score = there_and_back(Network("irn-x4", Rescaler(load_model("irn-x4"))), original)

    box = np.s_[top : top + side, left : left + side]
    small_box = np.s_[top // SCALE : (top + side) // SCALE, left // SCALE : (left + side) // SCALE]
    panels = [
        ("the original", original.picture.pixels[box]),
        ("4 times smaller", small.pixels[small_box]),
        (f"restored by irn: {score:.1f} dB", restored.pixels[box]),
        (f"bicubic there and back: {plain_score:.1f} dB", plain.pixels[box]),
    ]
    font = ImageFont.load_default(size=19)
    shown = side * ZOOM
    sheet = Image.new("RGB", (len(panels) * (shown + GAP) - GAP, shown + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for k, (caption, pixels) in enumerate(panels):
        x = k * (shown + GAP)
        # Each pixel as a square, so that what is shown is what is there.
        sheet.paste(Image.fromarray(pixels).resize((shown, shown), Image.Resampling.NEAREST), (x, 0))
        draw.text((x + shown / 2, shown + CAPTION / 2), caption, fill="black", font=font, anchor="mm")
    sheet.save(output, optimize=True)


if __name__ == "__main__":
    photo, left, top, side, output = sys.argv[1:]
    main(photo, int(left), int(top), int(side), output)
