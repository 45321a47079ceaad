"""Where the time of whole commands goes: `python benchmarks/commands.py` prints the tables in Markdown.

Every row is `irn downscale` or `irn upscale` in a process of its own, from its start to its end, with a clock around
the functions that the columns name; what overlaps counts in each. The pictures are cut from the shipped photographs, or
mirrored to a larger size: no figure depends on files that a clone does not have.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from engine import describe_machine, header, row

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
SIZES = {"0.3": (428, 640), "12": (3000, 4000)}  # megapixels: (H, W)
FOLDERS = {"folder": (100, 240, 320), "thumbnails": (200, 96, 128), "tiny": (400, 64, 64)}  # pictures, H, W


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join([*SIZES, *FOLDERS])}; all of them by default")
    parser.add_argument("--trace", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trace:
        started, *arguments = options.trace
        trace(float(started), arguments)
        return
    print(describe_machine())
    for name in options.sections or [*SIZES, *FOLDERS]:
        print(flush=True)
        with tempfile.TemporaryDirectory() as place:
            folder(name, Path(place)) if name in FOLDERS else picture(name, Path(place))


def picture(name: str, place: Path) -> None:
    """One picture, down and up: which stage takes how long."""
    height, width = SIZES[name]
    mirrored(height, width).save(place / "photo.jpg", quality=95)
    columns = ("import", "weights", "decode", "network", "encode", "hash")
    header(f"one picture of {width}x{height}, s", "all", "to the first pixel", *columns, "rest")
    for command, source in (("downscale", "photo.jpg"), ("upscale", "photo_down4.png")):
        found = run(command, str(place / source))
        rest = found["all"] - sum(found[column] for column in columns)
        row(f"irn {command}", *(f"{found[key]:.2f}" for key in ("all", "first pixel", *columns)), f"{rest:.2f}")


def folder(name: str, place: Path) -> None:
    """Many pictures, down and up: how much of the time the network runs."""
    count, height, width = FOLDERS[name]
    scatter(count, height, width, place / "photos")
    header(
        f"{count} pictures of {width}x{height}", "all, s", "until the first tile, s", "s per megapixel from then on",
        "a tile computing", "cores busy with tiles", "decode, s", "encode, s",
    )  # fmt: skip
    for command, source, target in (("downscale", "photos", "small"), ("upscale", "small", "large")):
        found = run(command, str(place / source), "-o", str(place / target), "-q")
        assert len(list((place / target).iterdir())) == count
        running = found["all"] - found["first tile"]
        shares = [f"{100 * part / running:.0f} %" for part in (found["busy"], found["tiles"] / found["cores"])]
        each = running / (count * height * width / 1e6)
        row(f"irn {command}", f"{found['all']:.2f}", f"{found['first tile']:.2f}", f"{each:.2f}", *shares,
            f"{found['decode']:.2f}", f"{found['encode']:.2f}")  # fmt: skip


def run(*arguments: str) -> dict[str, float]:
    """Run a command under the clocks; seconds."""
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}  # as `irn` sets it before it loads torch
    started = time.time()
    command = [sys.executable, __file__, "--trace", str(started), *arguments]
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {**json.loads(printed), "all": time.time() - started}


class Clocks:
    """Seconds spent in functions, summed over threads; and how long at least one thread was in a tile."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._lock = threading.Lock()
        self._tiles = 0
        self._since = 0.0
        self.seconds: dict[str, float] = defaultdict(float)

    def mark(self, name: str) -> None:
        """Note, the first time only, how long after the start this is."""
        with self._lock:
            self.seconds.setdefault(name, time.time() - self._started)

    @contextmanager
    def tile(self) -> Any:
        """A tile computes in this scope."""
        self.mark("first tile")
        with self._lock:
            self._since = self._since if self._tiles else time.perf_counter()
            self._tiles += 1
        try:
            yield
        finally:
            with self._lock:
                self._tiles -= 1
                if not self._tiles:
                    self.seconds["busy"] += time.perf_counter() - self._since

    def wrap(self, where: Any, attribute: str, name: str) -> None:
        """Measure a function wherever `where` calls it by this name."""
        function: Callable[..., Any] = getattr(where, attribute)

        @wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                if name != "tiles":
                    return function(*arguments, **options)
                with self.tile():
                    return function(*arguments, **options)
            finally:
                seconds = time.perf_counter() - begin
                with self._lock:
                    self.seconds[name] += seconds
                if name == "decode":
                    self.mark("first pixel")

        setattr(where, attribute, timed)


def trace(started: float, arguments: list[str]) -> None:
    """Run the command in this process and print what the clocks say, as JSON."""
    clocks = Clocks(started)
    import torch

    import irn_cli.batch.progress  # noqa: F401  # as the command does, later
    from irn_cli import canvas, cli, engine, rescale, weights
    from irn_cli.batch import storage

    clocks.mark("import")
    clocks.wrap(weights, "load_model", "weights")
    clocks.wrap(rescale, "weights_hash", "hash")
    clocks.wrap(rescale, "hash_pixels", "hash")
    clocks.wrap(canvas, "hash_pixels", "hash")
    clocks.wrap(storage, "read", "decode")
    clocks.wrap(storage, "write", "encode")
    clocks.wrap(engine.Engine, "downscale", "network")
    clocks.wrap(engine.Engine, "upscale", "network")
    clocks.wrap(engine.Engine, "_apply", "tiles")
    sys.argv = ["irn", *arguments]
    cores = torch.get_num_threads()
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps({**clocks.seconds, "cores": cores}))


def mirrored(height: int, width: int) -> Any:
    """A photograph, mirrored to this size."""
    import numpy as np
    from PIL import Image

    with Image.open(PHOTOS / "coffee.png") as image:
        photo = np.asarray(image.convert("RGB"))
    margins = [(0, max(want - have, 0)) for want, have in zip((height, width), photo.shape, strict=False)]
    return Image.fromarray(np.pad(photo, (*margins, (0, 0)), "symmetric")[:height, :width])


def scatter(count: int, height: int, width: int, target: Path) -> None:
    """Cut pictures from the photographs here and there."""
    from PIL import Image

    target.mkdir()
    places = random.Random(0)
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.iterdir()) if path.suffix in (".png", ".jpg")]
    for number in range(count):
        photo = photos[number % len(photos)]
        left, top = places.randint(0, photo.width - width), places.randint(0, photo.height - height)
        photo.crop((left, top, left + width, top + height)).save(target / f"{number:03}.jpg", quality=95)


if __name__ == "__main__":
    main()
