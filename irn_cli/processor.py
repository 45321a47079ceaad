"""What this machine's processor can do, said without torch."""

import re
from pathlib import Path


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; elsewhere it is emulated, slower and less exact."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False  # not Linux: no way to know, and float32 is right everywhere
    return re.search(r"^flags\s*:.*\b(avx512_bf16|amx_bf16)\b", flags, re.MULTILINE) is not None
