"""Milliseconds a training step: the plain formulation against ours, each in a process of its own.

    python benchmarks/train_step.py                    # 4x, 16 crops of 144x144, as the paper's
    python benchmarks/train_step.py --batch 4 --patch 96

Plain is what the paper's code does: the network as `irn_cli/model.py` writes it, float32, channels first, eager; on a
GPU with TF32 off and on. Ours is `irn_cli/train/step.py` with everything that a run does in a step, drawing its crops
included. The allocator's settings (`irn_cli.device.tune_allocator`) are a process's, hence the processes. The floor is
the time of the convolutions' multiplications alone, at the rate of a large matrix product measured in the same run.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from irn_cli.config import IRNConfig
from irn_cli.device import ieee_float32, resolve_device, resolve_precision, tune_allocator, tune_convolutions
from irn_cli.model import IRN, quantise
from irn_cli.train import losses
from irn_cli.train.data import Pictures
from irn_cli.train.recipe import load_recipe
from irn_cli.train.step import Step

VARIANTS = {
    "cpu": ("floor", "ours", "ours, recompute", "ours, float32", "plain", "plain, allocator as it is"),
    "cuda": ("floor", "ours", "ours, recompute", "ours, float32", "plain, TF32 on", "plain, TF32 off"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=144)
    parser.add_argument("--steps", type=int, help="timed steps, after one that is not  [default: 3; 30 on a GPU]")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", help="measure one variant, in this process, and print JSON")
    options = parser.parse_args()
    device = resolve_device(options.device)
    options.steps = options.steps or (30 if device.type == "cuda" else 3)
    if options.only:
        print(json.dumps(measure(options.only, options, device)))
        return
    print(f"{options.scale}x, {options.batch} x {options.patch}x{options.patch}, {device}, torch {torch.__version__}")
    results = {}
    for variant in VARIANTS[device.type]:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", variant]
        results[variant] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        row = results[variant]
        print(f"{variant:<28}{row['ms']:>9,.0f} ms a step{row['memory'] / 1e9:>8.2f} GB", flush=True)
    for variant, row in results.items():
        if variant.startswith("plain"):
            print(f"ours is {row['ms'] / results['ours']['ms']:.2f} times as fast as: {variant}")


def measure(variant: str, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    if variant != "plain, allocator as it is":
        tune_allocator()
    tune_convolutions("fp32" if variant in ("ours, float32", "plain, TF32 off") else "auto")
    recipe = replace(load_recipe("irn"), scale=options.scale, batch=options.batch, patch=options.patch)
    torch.manual_seed(0)
    model = IRN(IRNConfig((recipe.blocks,) * (options.scale.bit_length() - 1)))
    if variant == "floor":
        seconds = floor(model, options, device)
    elif variant.startswith("plain"):
        seconds = timed(plain_step(model, options, device), options.steps, device)
    else:
        side = 4 * options.patch
        pictures = Pictures(
            torch.randint(256, (side * side, 3), dtype=torch.uint8), torch.tensor([[0, side, side]]), "", ()
        )
        precision = "fp32" if variant == "ours, float32" else resolve_precision("bf16", device)
        step = Step(model, replace(recipe, recompute=variant == "ours, recompute"), pictures, device, precision)
        numbers = iter(range(10**6))
        seconds = timed(lambda: step.run(next(numbers), recipe.lr), options.steps, device)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_reserved()
    else:
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ms": 1000 * seconds, "memory": memory}


def plain_step(model: IRN, options: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    """The step as the paper's code has it, on one batch that is there already."""
    model = model.to(device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-4, weight_decay=1e-5)
    small = options.patch // options.scale
    x = torch.rand(options.batch, 3, options.patch, options.patch, device=device)
    guide = torch.rand(options.batch, 3, small, small, device=device)

    def step() -> None:
        optimiser.zero_grad()
        y, z = model.downscale(x)
        restored = model.upscale(quantise(y), torch.randn_like(z))
        loss = losses.reconstruction(x, restored) + 16 * losses.guide(y, guide) + losses.distribution(z)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimiser.step()

    return step


def timed(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Seconds a step: on the CPU the median; on a GPU the mean, since a run waits for none but the last of several."""

    def some(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    some(1)
    return some(steps) if device.type == "cuda" else statistics.median(some(1) for _ in range(steps))


def floor(model: IRN, options: argparse.Namespace, device: torch.device) -> float:
    """Seconds for the convolutions' multiplications alone: two passes, each forward and twice as much backward."""
    multiplications, size = 0, options.patch
    for operation in model.operations:
        weights = sum(weight.numel() for weight in operation.parameters() if weight.dim() == 4)
        if not weights:
            size //= 2  # a Haar transform
        multiplications += weights * size * size
    multiplications *= 2 * 3 * options.batch
    side = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if resolve_precision("auto", device) == "bf16" else torch.float32
    a = torch.randn(side, side, device=device).to(dtype)
    with ieee_float32():
        seconds = timed(lambda: torch.mm(a, a), 10, device)
    return multiplications * seconds / side**3


if __name__ == "__main__":
    main()
