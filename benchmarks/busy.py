"""What other programs cost `irn`: `python benchmarks/busy.py` prints a table in Markdown.

Each row is a command in processes of its own: while the machine is idle, while a loop keeps one core busy, and then
again with other numbers of threads. Run it on an idle machine of two cores or more.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import mirrored
from engine import describe_machine, header, row

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="training steps, of which the last half counts")
    parser.add_argument("--size", type=int, nargs=2, default=(1356, 2040), metavar=("H", "W"), help="of the picture")
    parser.add_argument("--repeat", type=int, default=3, help="runs, interleaved; the table has the fastest")
    options = parser.parse_args()
    print(describe_machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        mirrored(*options.size).save(place / "photo.png", compress_level=1)
        header("seconds", "idle", "one core busy", "speed kept", "busy, --threads 1", "busy, --threads 2")
        for what, measure in (("a training step", training), ("irn downscale, one picture", downscaling)):
            idle, busy, *others = [], [], [], []
            for _ in range(options.repeat):
                idle.append(measure(place, options.steps))
                with busy_core():
                    busy.append(measure(place, options.steps))
                    for seconds, count in zip(others, ("1", "2"), strict=True):
                        seconds.append(measure(place, options.steps, "--threads", count))
            kept = f"{min(idle) / min(busy):.0%}"
            row(what, f"{min(idle):.2f}", f"{min(busy):.2f}", kept, *(f"{min(seconds):.2f}" for seconds in others))


@contextmanager
def busy_core() -> Iterator[None]:
    """A program that never rests beside what is measured."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def training(place: Path, steps: int, *options: str) -> float:
    """Seconds a step, as README's one-minute training takes them: 4 crops of 64x64 at 2x."""
    run = place / "run"
    irn("train", "--data", str(PHOTOS), "--recipe", "irn-shipped", "--init", "irn-x2", "-o", str(run), "--force", "-q",
        "--batch", "4", "--patch", "64", "--stop-after", str(steps), "--config", config(place), *options)  # fmt: skip
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    times = [line["ms_per_step"] for line in lines if "ms_per_step" in line]
    return statistics.median(times[len(times) // 2 :]) / 1000


def config(place: Path) -> str:
    """A recipe that logs each step and does not stop to validate."""
    path = place / "recipe.toml"
    path.write_text("log_every = 1\nvalidate_every = 100000\nvalidation = 0\n", encoding="utf-8")
    return str(path)


def downscaling(place: Path, _: int, *options: str) -> float:
    """Seconds for the whole command."""
    begin = time.perf_counter()
    irn("downscale", str(place / "photo.png"), "--force", "-q", *options)
    return time.perf_counter() - begin


def irn(*arguments: str) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", "irn_cli", *arguments], check=True)


if __name__ == "__main__":
    main()
