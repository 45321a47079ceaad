"""One run over thousands of mixed files, interrupted and resumed: `python -m tests.many [COUNT]`.

Tiny pictures of many formats and names, broken ones among them, are made small by a tiny network, in a run that is
ended three times (twice by Ctrl-C, once by force) and started again. Then every file must be accounted for as its kind
demands, nothing may be done twice, lost or half-written, and memory may not grow with what is done.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from irn_cli.weights import save_model
from tests.helpers import make_tiny_model, photo_like

GROWTH = 32 << 20  # bytes of memory that a run may add between its first tenth and its end


def _saver(suffix: str, mode: str = "RGB", **options: Any) -> Callable[[Path, random.Random], Path]:
    def save(stem: Path, draw: random.Random) -> Path:
        size = draw.choice([(1, 1), (3, 50), (16, 16), (24, 37), (40, 30), (33, 33)])
        path, data = stem.with_name(stem.name + suffix), io.BytesIO()  # libtiff refuses names that are no UTF-8
        picture = Image.fromarray(photo_like(*size, seed=draw.randrange(100))).convert(mode)
        picture.save(data, Image.registered_extensions()[suffix.lower()], **options)
        path.write_bytes(data.getvalue())
        return path

    return save


def _deep(stem: Path, draw: random.Random) -> Path:
    path = stem.with_name(stem.name + ".png")
    Image.fromarray(photo_like(20, 30, seed=draw.randrange(100))[..., 0].astype(np.uint16) * 257).save(path)
    return path


def _bytes(suffix: str, content: bytes) -> Callable[[Path, random.Random], Path]:
    def save(stem: Path, _draw: random.Random) -> Path:
        path = stem.with_name(stem.name + suffix)
        path.write_bytes(content)
        return path

    return save


def _cut(stem: Path, draw: random.Random) -> Path:
    path = _saver(draw.choice([".png", ".jpg", ".webp"]))(stem, draw)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def _link(to: str) -> Callable[[Path, random.Random], Path]:
    def save(stem: Path, _draw: random.Random) -> Path:
        path = stem.with_name(stem.name + ".png")
        path.symlink_to(to or path.name)
        return path

    return save


def _long(stem: Path, draw: random.Random) -> Path:
    """A name that its result's would exceed."""
    name = stem.name + "x" * (250 - len(os.fsencode(stem.name)))
    return _saver(".png")(stem.with_name(name), draw)


# How each kind of file is made, how often, and what must become of it.
KINDS: list[tuple[Callable[[Path, random.Random], Path], int, str]] = [
    (_saver(".png"), 20, "done"),
    (_saver(".png", "L"), 4, "done"),
    (_saver(".png", "LA"), 4, "done"),
    (_saver(".png", "RGBA"), 4, "done"),
    (_saver(".PNG", "P"), 4, "done"),
    (_saver(".png", "1"), 2, "done"),
    (_deep, 2, "done"),
    (_saver(".jpg"), 20, "done"),
    (_saver(".jpeg", "CMYK"), 2, "done"),
    (_saver(".JPG", "L"), 4, "done"),
    (_saver(".webp", "RGBA"), 6, "done"),
    (_saver(".tif", compression="tiff_lzw"), 4, "done"),
    (_saver(".bmp"), 4, "done"),
    (_saver(".gif"), 4, "done"),
    (_saver(".avif"), 2, "done"),
    (_cut, 4, "failed"),
    (_bytes(".png", b""), 2, "failed"),
    (_bytes(".jpg", b"no picture at all\n"), 2, "failed"),
    (_bytes(".dng", b"II*\0"), 2, "skipped"),
    (_link("nowhere"), 1, "failed"),
    (_link(""), 1, "failed"),
    (_long, 1, "failed"),
]
NAMES = ["p", "a b", "Zürich ü", "日本の写真", "-dash", "it's", 'q"uote', "[a]*?", "new\nline", "dot.s", "\udce9latin"]


def make(folder: Path, count: int, seed: int = 0) -> dict[str, str]:
    """Make mixed files in a tree; what must become of each, by name."""
    draw = random.Random(seed)
    wanted: dict[str, str] = {}
    weights = [weight for _, weight, _ in KINDS]
    for number in range(count):
        save, _, status = draw.choices(KINDS, weights)[0]
        place = folder / draw.choice(NAMES) / f"{number % 7}"
        place.mkdir(parents=True, exist_ok=True)
        path = save(place / f"{draw.choice(NAMES)}{number}", draw)
        wanted[str(path)] = status
        if number % 10 == 0 and path.suffix == ".jpg":  # the same name in another format
            wanted[str(_saver(".webp")(path.with_suffix(""), draw))] = "done"
    return wanted


@dataclass
class Runs:
    """What the runs have told so far."""

    folder: Path
    told: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))  # by source
    seconds: float = 0.0

    def run(self, *arguments: str, end_after: int = 0, by: signal.Signals = signal.SIGINT) -> tuple[int, list[int]]:
        """Run until all is done, or until so many are.

        Returns:
            The exit status; the memory in use, bytes, after each 50 pictures that were done.
        """
        begin, done, memory = time.monotonic(), 0, []
        command = [sys.executable, "-m", "irn_cli", *arguments, "-m", "tiny.safetensors", "--json"]
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                outcome = json.loads(line)
                self.told[outcome["source"]].append(outcome)
                done += outcome["status"] == "done"
                if outcome["status"] == "done" and done % 50 == 0:
                    memory.append(_memory(process.pid))
                if outcome["status"] == "done" and done == end_after:
                    process.send_signal(by)
        self.seconds += time.monotonic() - begin
        return process.returncode, [used for used in memory if used]


def _memory(process: int) -> int:
    """Bytes in use, shared files left out; 0 where the process has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def check(count: int, folder: Path) -> Iterator[str]:
    """Make files, run and interrupt; yields what was found, raises AssertionError where it is not as it must be."""
    save_model(folder / "tiny.safetensors", make_tiny_model(4, growth=4))
    wanted = {str(Path(name).relative_to(folder)): status for name, status in make(folder / "in", count).items()}
    kinds = Counter(wanted.values())
    yield f"{len(wanted)} files: " + ", ".join(f"{kinds[kind]} to be {kind}" for kind in sorted(kinds))
    runs = Runs(folder)
    for by, status in [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (None, 1)]:
        ending = {"end_after": kinds["done"] // 4, "by": by} if by else {}
        found, memory = runs.run("downscale", "in", "-o", "out", "--skip-existing", **ending)
        assert found == status, found
        yield _flat("downscale", memory)
    yield f"downscale, three times interrupted: {runs.seconds:.0f} s"
    yield f"{_untold(runs, wanted)} done by the run that was killed, which could not tell"

    there = {path.relative_to(folder) for path in (folder / "out").rglob("*") if path.is_file()}
    made = {Path(path) for told in runs.told.values() for one in told for path in one["outputs"]}
    assert made <= there, made - there
    assert len(there) == kinds["done"], there - made
    restored = Runs(folder)
    found, memory = restored.run("upscale", "out", "-o", "large")
    assert found == 0
    assert {Path(source) for source in restored.told} == there
    assert all(outcomes[0]["status"] == "done" for outcomes in restored.told.values())
    assert sum(path.is_file() for path in (folder / "large").rglob("*")) == len(there)
    yield _flat("upscale", memory)
    yield f"upscale: {restored.seconds:.0f} s"


def _untold(runs: Runs, wanted: dict[str, str]) -> int:
    """How many pictures were made by a run that ended before it could tell, all others being accounted for."""
    assert runs.told.keys() == wanted.keys()
    untold = 0
    for source, status in wanted.items():
        outcomes = runs.told[source]
        if status != "done":
            assert {outcome["status"] for outcome in outcomes} == {status}, outcomes
            continue
        assert {outcome["code"] for outcome in outcomes} <= {"done", "exists"}, outcomes
        done = [outcome["code"] for outcome in outcomes].count("done")
        assert done <= 1, outcomes
        untold += not done
    assert untold <= 50, untold
    return untold


def _flat(command: str, memory: list[int]) -> str:
    """What memory a run took, if it did not grow from the first tenth of its pictures to the last."""
    first, last = memory[len(memory) // 10], memory[-1]
    assert last - first < GROWTH, memory
    return f"{command}: memory {first / 1e6:.0f} MB after a tenth, {last / 1e6:.0f} MB at the end"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored, which is inherited
    with tempfile.TemporaryDirectory() as directory:
        for line in check(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, Path(directory)):
            print(line, flush=True)
