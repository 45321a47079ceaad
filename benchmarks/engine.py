"""What this machine does with the network: `python benchmarks/engine.py` prints the tables in Markdown.

Every row is a process of its own, so that its peak memory is its own and no row warms up another's allocator. The
picture is the shipped photograph, mirrored to any size: no figure depends on files that a clone does not have.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "coffee.png"
MAIN_SIZE = 1356, 2040  # (H, W); DIV2K's
SIZES = [(256, 384), (704, 1024), MAIN_SIZE, (3000, 4000), (6000, 8000)]


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all of them by default")
    parser.add_argument(
        "--row", nargs=5, metavar=("HOW", "MODEL", "HEIGHT", "WIDTH", "THREADS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.row:
        how, model, *numbers = options.row
        print(json.dumps(measure(how, model, *map(int, numbers))))
        return
    print(describe_machine())
    for name in options.sections or SECTIONS:
        print(f"\n## {name}\n", flush=True)
        SECTIONS[name]()


def ratios(model: str) -> None:
    """The whole-picture network in float32, as PyTorch comes and with the allocator tuned, against the engine."""
    header(f"2040x1356, {model}", "down, s", "up, s", "times as fast as tuned", "peak memory, GB")
    rows = {how: run(how, model, *MAIN_SIZE) for how in NAMES}
    for how, found in rows.items():
        times = (rows["tuned"]["down"] + rows["tuned"]["up"]) / (found["down"] + found["up"])
        row(NAMES[how], f"{found['down']:.2f}", f"{found['up']:.2f}", f"{times:.2f}", f"{found['peak']:.2f}")


def sizes() -> None:
    """What a megapixel costs, from small to huge, and what the process holds."""
    header("irn-x4, bf16", "megapixels", "down, s", "up, s", "s per megapixel, each way", "peak memory, GB")
    for height, width in SIZES:
        found = run("bf16", "irn-x4", height, width)
        each, megapixels = (found["down"] + found["up"]) / 2, height * width / 1e6
        seconds = f"{found['down']:.2f}", f"{found['up']:.2f}", f"{each / megapixels:.2f}"
        row(f"{width}x{height}", f"{megapixels:.1f}", *seconds, f"{found['peak']:.2f}")


def threads() -> None:
    """What more threads give."""
    header("2040x1356, irn-x4", "threads", "down, s", "up, s")
    for how in ("fp32", "bf16"):
        for count in sorted({1, 2, os.cpu_count() or 1}):
            found = run(how, "irn-x4", *MAIN_SIZE, threads=count)
            row(NAMES[how], str(count), f"{found['down']:.2f}", f"{found['up']:.2f}")


SECTIONS = {"4x": partial(ratios, "irn-x4"), "2x": partial(ratios, "irn-x2"), "sizes": sizes, "threads": threads}
NAMES = {
    "plain": "plain network, float32",
    "tuned": "plain network, float32, allocator tuned",
    "fp32": "engine, float32",
    "bf16": "engine, bfloat16",
}


def header(*cells: str) -> None:
    row(*cells)
    row(*["---"] * len(cells))


def row(*cells: str) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def run(how: str, model: str, height: int, width: int, threads: int = 0) -> dict[str, float]:
    """Measure in a process of its own; threads 0 is what torch takes by itself."""
    arguments = [how, model, str(height), str(width), str(threads)]
    process = subprocess.Popen([sys.executable, __file__, "--row", *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {process.returncode}")
    return {**json.loads(output), "peak": usage.ru_maxrss * 1024 / 1e9}  # Linux counts in KiB


def measure(how: str, name: str, height: int, width: int, threads: int) -> dict[str, float]:
    """Take a picture down and up, after a tiny one has loaded what loads late; a small one seven times: the median."""
    import statistics

    import numpy as np
    import torch
    from PIL import Image

    from irn_cli import load_model
    from irn_cli.device import tune_allocator
    from irn_cli.engine import Engine

    if how != "plain":
        tune_allocator()
    if threads:
        torch.set_num_threads(threads)
    with Image.open(PHOTO) as image:
        photo = np.asarray(image.convert("RGB"))
    margins = [(0, max(want - have, 0)) for want, have in zip((height, width), photo.shape, strict=False)]
    pixels = np.pad(photo, (*margins, (0, 0)), "symmetric")[:height, :width]
    x = torch.from_numpy(pixels.astype(np.float32)).div_(255)
    model = load_model(name)
    seconds = {}
    with torch.inference_mode():
        if how in ("plain", "tuned"):
            whole = x.permute(2, 0, 1)[None].contiguous()
            model.downscale(whole[..., :64, :64])
            start = time.perf_counter()
            y, z = model.downscale(whole)
            seconds["down"] = time.perf_counter() - start
            start = time.perf_counter()
            model.upscale(y, z)
            seconds["up"] = time.perf_counter() - start
            return seconds
        engine = Engine(model, torch.device("cpu"), "bf16" if how == "bf16" else "fp32")
        engine.downscale(x[:64, :64].clone())
        times = 7 if height * width < 1_000_000 else 1  # the first at a size is slower: kernels are compiled for it
        for direction, run in {"down": engine.downscale, "up": engine.upscale}.items():
            each = []
            for left in reversed(range(times)):
                given = x.clone() if left else x  # it is consumed
                start = time.perf_counter()
                result = run(given)
                each.append(time.perf_counter() - start)
            seconds[direction] = statistics.median(each)
            x = result
    return seconds


def describe_machine() -> str:
    """Processor, cores, what it multiplies natively, versions."""
    import torch

    try:
        cpu = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        cpu = ""
    model = re.search(r"^model name\s*:\s*(.*)$", cpu, re.MULTILINE)
    flags = sorted(set(re.findall(r"\b(avx2|avx512f|avx512_bf16|amx_bf16)\b", cpu)))
    return (
        f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores, {' '.join(flags)}; "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
