"""Where the network runs and in what precision; and the tuning of allocator and convolutions.

Nothing here acts on import. Commands call `tune_allocator`; libraries that use ours keep their own settings.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch

from irn_cli.errors import DeviceError, UsageError
from irn_cli.hardware import check_device, multiplies_bfloat16

Precision = Literal["fp32", "bf16"]


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `mps` into a device that is there; `auto` is CUDA where there is any.

    `mps`, the GPU of a Mac, is untested, and so only taken where it is asked for. `cuda` is the current one of several,
    by its number: each thread has a current one of its own.

    Raises:
        UsageError: the name is none of these.
        DeviceError: no such device, or torch was built without CUDA.
    """
    check_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("no device mps: it needs a Mac with a GPU, and a torch made for it")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise DeviceError(f"no device {name}: torch sees {count} CUDA device(s)")
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    return device


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Turn `auto`, `fp32` or `bf16` into the precision of the convolutions; the rest is float32 always.

    `auto` is bfloat16 only where the processor multiplies it natively: elsewhere it is emulated, slower than float32.

    Raises:
        UsageError: another word, or bfloat16 on `mps`.
    """
    if name == "bf16" and device.type == "mps":
        raise UsageError("on mps the precision is fp32: leave out bf16")
    if name == "auto":
        return "bf16" if _multiplies_bfloat16(device) else "fp32"
    if name == "fp32":
        return "fp32"
    if name == "bf16":
        return "bf16"
    raise UsageError(f"unknown precision {name!r}: expected auto, fp32 or bf16")


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere brought it; emulation does not count
    return device.type == "cpu" and multiplies_bfloat16()


def multiplied_as(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """As what a convolution's operands, of a dtype, are multiplied: as float32 where a CPU has no products of bfloat16.

    There torch's emulation takes several times as long. The product of two bfloat16 is exact in float32, in which
    processors that multiply bfloat16 add up too: what then is rounded to bfloat16 is what they give.
    """
    emulated = dtype == torch.bfloat16 and device.type == "cpu" and not multiplies_bfloat16()
    return torch.float32 if emulated else dtype


class _Exact:
    """How many scopes of `ieee_float32` are open, in all threads, and what was set before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.scopes = 0
        self.before: list[str] = []


_exact = _Exact()


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Within this scope float32 means IEEE float32: shortcuts by TF32 or bfloat16 are off, and as before afterwards.

    These settings are the whole process's. Of several scopes, in whatever threads, the last one to end restores them.
    """
    backends: Any = torch.backends
    switches = [backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv]
    with _exact.lock:
        if not _exact.scopes:
            _exact.before = [switch.fp32_precision for switch in switches]
            for switch in switches:
                switch.fp32_precision = "ieee"
        _exact.scopes += 1
    try:
        yield
    finally:
        with _exact.lock:
            _exact.scopes -= 1
            if not _exact.scopes:
                for switch, before in zip(switches, _exact.before, strict=True):
                    switch.fp32_precision = before


def tune_allocator() -> None:
    """Keep glibc from returning large buffers to the system between operations; does nothing elsewhere.

    Each convolution on the CPU makes buffers of many megabytes; by default glibc maps and unmaps them every time, which
    costs a large part of the time (`benchmarks/README.md`). There is an arena for each core and no more: each keeps
    what was freed in it for itself.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library (musl)
        return
    m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8
    mallopt(m_arena_max, os.cpu_count() or 1)
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 64 * 2**20)


def tune_convolutions(precision: str) -> None:
    """Let cuDNN try which algorithms are fastest, and TF32 only where float32 was not asked for by name."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


@contextmanager
def untuned_convolutions() -> Iterator[None]:
    """Within this scope cuDNN does not try what is fastest, which costs more than it saves where sizes do not recur."""
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, False
    try:
        yield
    finally:
        cudnn.benchmark = before


def trim_memory() -> None:
    """Give memory that was freed back to the system, which `tune_allocator` makes glibc keep; does nothing elsewhere.

    Worth its milliseconds between the stages of a huge picture: what the decoder freed is of no use to the network.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library (musl)
            ctypes.CDLL(None).malloc_trim(0)
