"""What this machine has, and what a command line asks of it, as far as that can be said without torch."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from irn_cli.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, of AMD, and in Windows' Linux


@cache
def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; elsewhere it is emulated, slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False  # not Linux: no way to know, and float32 is right everywhere
    return re.search(r"^flags\s*:.*\b(avx512_bf16|amx_bf16)\b", flags, re.MULTILINE) is not None


def may_have_gpu() -> bool:
    """Whether there may be a GPU that torch can use: only torch can say that there is."""
    return not sys.platform.startswith("linux") or any(Path(driver).exists() for driver in _DRIVERS)


def check_device(name: str) -> None:
    """Refuse what is not the name of a device; whether it is there, `device.resolve_device` says.

    Raises:
        UsageError: the name means nothing.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?|mps", name):
        raise UsageError(f"unknown device {name!r}: expected auto, cpu, cuda, cuda:N or mps")


def parse_memory(text: str) -> int:
    """Turn `2GB`, `500 MB`, `1.5GiB` or plain bytes into a number of bytes.

    Raises:
        UsageError: the text is no size.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not match or match[2] not in _UNITS:
        raise UsageError(f"{text!r} is not a memory size: expected something like 2GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may take: the machine's, or less in a container or a job of a batch system.

    Args:
        root: where Linux says so; another directory is for tests.

    Returns:
        4 GB where nobody says.
    """
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        machine = 4 * 10**9
    return min([machine, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """The limits of the control groups that this process is in, and of those that these are in."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for _, controllers, name in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        place, file = (controllers, "memory.limit_in_bytes") if controllers else ("", "memory.max")  # version 1, or 2
        for group in (Path(name), *Path(name).parents):  # in a container, its own may be what is seen as the root
            with suppress(OSError, ValueError):  # not seen from here; or "max"
                yield int((root / "sys/fs/cgroup" / place / str(group).lstrip("/") / file).read_text(encoding="ascii"))
