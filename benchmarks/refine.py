"""What refining gains from iteration to iteration: `python benchmarks/refine.py FOLDER -m irn-x4` prints it.

One run of the most iterations gives the figures of all fewer: each is of the best small picture so far, but for the
check with a second draw of the latent, which only the last passes. A picture's row comes as soon as it is done, the
smallest picture first, so that a run that is ended early has a table, too.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irn_cli.metrics import Psnr
    from irn_cli.picture import Refinement

ITERATIONS = 0, 3, 5, 10, 20, 30


def main() -> None:
    """Refine all pictures of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model", default="irn-x4")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--iterations", type=int, default=ITERATIONS[-1], help="at most")
    options = parser.parse_args()

    from irn_cli import load_model, read
    from irn_cli.device import tune_allocator
    from irn_cli.inputs import walk
    from irn_cli.metrics import Psnr
    from irn_cli.rescale import Rescaler

    tune_allocator()
    scaler = Rescaler(load_model(options.model), precision=options.precision)
    counts = [count for count in ITERATIONS if count <= options.iterations]
    print(f"| {options.model}, PSNR Y / RGB, dB |", " | ".join([*map(str, counts), "CPU s"]), "|")
    print("|---" * (len(counts) + 2) + "|", flush=True)
    gains: list[list[Psnr]] = []
    pictures = {path: read(path) for path in walk(options.folder)}
    for path, picture in sorted(pictures.items(), key=lambda item: item[1].pixels.size):
        reached: list[Refinement] = []
        begin = time.process_time()
        scaler.downscale(picture, refine=counts[-1], refining=reached.append)
        seconds = time.process_time() - begin
        found = [reached[count].after for count in counts]
        before = found[0]
        gains.append([Psnr(one.luma - before.luma, one.rgb - before.rgb) for one in found])
        row(path.stem, [f"{before.luma:.2f} / {before.rgb:.2f}", *map(gain, gains[-1][1:])], f"{seconds:.0f}")
    mean = [
        Psnr(statistics.fmean(one.luma for one in column), statistics.fmean(one.rgb for one in column))
        for column in zip(*gains, strict=True)
    ]
    row(f"mean of {len(gains)}", ["", *map(gain, mean[1:])], "")
    worse = sum(min(last.luma, last.rgb) < 0 for *_, last in gains)
    print(f"{worse} pictures worse on Y or in RGB", file=sys.stderr)


def gain(found: "Psnr") -> str:
    """A gain on Y and over all samples."""
    return f"{found.luma:+.2f} / {found.rgb:+.2f}"


def row(name: str, cells: list[str], last: str) -> None:
    print(f"| {name} |", " | ".join([*cells, last]), "|", flush=True)


if __name__ == "__main__":
    main()
