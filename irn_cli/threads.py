"""How many threads compute: as many as are asked for, or no more than there are cores that other programs leave free.

A training step is thousands of short operations, each shared by all threads, which wait for one another after each. If
one of them has to share its core with another program, the others wait for as long as the system lets that program
run, and a step takes many times as long as one thread alone would need. Torch is not imported before it is needed:
loading it is when the other programs are watched.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

_SHORTEST = 0.2  # seconds: the kernel counts in hundredths


class Cores:
    """Watches, from its creation on, what other programs take of the cores that this process may use; Linux only."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._begin = time.monotonic()
        self._others = self._taken_by_others()

    def free(self) -> float | None:
        """How many cores others left free on average; None where that cannot be known, or not yet."""
        taken, elapsed = self._taken_by_others(), time.monotonic() - self._begin
        if taken is None or self._others is None or elapsed < _SHORTEST:
            return None
        return len(os.sched_getaffinity(0)) - max(taken - self._others, 0.0) / elapsed

    def _taken_by_others(self) -> float | None:
        """Seconds of these cores that others have used so far; programs of lower priority do not count."""
        try:
            names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
            lines = [line.split() for line in self._stat.read_text(encoding="ascii").splitlines()]
            per_second = os.sysconf("SC_CLK_TCK")
            # user, nice, system, idle, waiting, interrupts (two kinds), and what a virtual machine's host took
            ticks = sum(sum(map(int, (line[1], line[3], *line[6:9]))) for line in lines if line and line[0] in names)
        except (OSError, ValueError, IndexError, AttributeError):
            return None
        return ticks / per_second - sum(os.times()[:4])


class TorchPool(ThreadPoolExecutor):
    """Threads in each of which torch computes with `each` threads of its own; the caller's setting stays."""

    def __init__(self, workers: int, name: str, each: int = 1) -> None:
        import torch

        super().__init__(workers, name, torch.set_num_threads, (each,))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        import torch

        super().shutdown(wait, cancel_futures=cancel_futures)
        # A thread's own setting is also what torch gives to threads that start later: put back the caller's.
        torch.set_num_threads(torch.get_num_threads())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=True)


def set_threads(asked: int | None, cores: Cores | None = None) -> str | None:
    """Set how many threads torch computes with, in this thread and those that it starts.

    Args:
        asked: how many; None leaves it to torch, or to OMP_NUM_THREADS, or to `cores`.
        cores: where torch would have more threads than others leave free cores, take no more than those.

    Returns:
        A line for the user, if there are fewer than torch would take.
    """
    import torch

    if asked is not None:
        torch.set_num_threads(asked)
        return None
    free = cores.free() if cores and "OMP_NUM_THREADS" not in os.environ else None
    most = torch.get_num_threads()
    if free is None or (count := max(round(free), 1)) >= most:
        return None
    torch.set_num_threads(count)
    others = f"other programs are using {max(most - free, 0):.1f} of {most} cores"
    return f"{others}: computing with {count} of {most} threads (--threads {most} takes all)"
