"""How many threads compute where other programs keep cores busy."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Timer

import pytest
import torch

from irn_cli import threads
from irn_cli.threads import Cores, TorchPool, set_threads

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Machine:
    """Four cores, a clock, and what the kernel counted."""

    def __init__(self, stat: Path) -> None:
        self.stat, self.now, self.own, self.seconds = stat, 0.0, 0.0, [[0.0] * 10 for _ in range(4)]
        self.write()

    def write(self) -> None:
        lines = ["cpu  1 2 3"] + [
            f"cpu{number} " + " ".join(str(round(value * TICKS)) for value in values)
            for number, values in enumerate(self.seconds)
        ]
        self.stat.write_text("\n".join([*lines, "intr 1 2 3", ""]), encoding="ascii")

    def run(self, elapsed: float, own: float, **others: float) -> None:
        fields = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"]
        self.now += elapsed
        self.own += own
        self.seconds[0][0] += own
        for name, seconds in others.items():
            self.seconds[1][fields.index(name)] += seconds
        self.write()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "times", lambda: (made.own, 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_what_others_take_is_not_free(machine: Machine) -> None:
    cores = Cores(machine.stat)
    machine.run(2.0, own=1.5, user=1.0, system=0.4, softirq=0.2, steal=0.4, idle=9, iowait=9)
    assert cores.free() == pytest.approx(3.0)


def test_own_work_and_programs_of_low_priority_leave_all_free(machine: Machine) -> None:
    cores = Cores(machine.stat)
    machine.run(2.0, own=7.5, nice=2.0)
    assert cores.free() == pytest.approx(4.0)


def test_too_short_a_look_tells_nothing(machine: Machine) -> None:
    cores = Cores(machine.stat)
    machine.run(0.1, own=0.0, user=0.1)
    assert cores.free() is None


@pytest.mark.parametrize("text", [None, "", "cpu0 1 2\n", "cpu0 a b c d e f g h\n"])
def test_without_the_kernels_counts_nothing_is_known(tmp_path: Path, machine: Machine, text: str | None) -> None:
    if text is not None:
        (tmp_path / "other").write_text(text, encoding="ascii")
    cores = Cores(tmp_path / "other")
    machine.now += 1
    assert cores.free() in (None, 4.0)
    set_threads(None, cores)
    assert torch.get_num_threads() == 4


def test_threads_are_no_more_than_free_cores_and_that_is_told(machine: Machine) -> None:
    cores = Cores(machine.stat)
    machine.run(1.0, own=1.0, user=1.1)
    remark = set_threads(None, cores)
    assert torch.get_num_threads() == 3
    assert remark == "other programs are using 1.1 of 4 cores: computing with 3 of 4 threads (--threads 4 takes all)"


def test_one_thread_remains_however_busy_the_machine(machine: Machine) -> None:
    cores = Cores(machine.stat)
    machine.run(1.0, own=0.1, user=3.9)
    assert set_threads(None, cores)
    assert torch.get_num_threads() == 1


def test_what_is_asked_for_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = Cores(machine.stat)
    machine.run(1.0, own=1.0, user=3.0)
    assert set_threads(2, cores) is None
    assert torch.get_num_threads() == 2
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert set_threads(None, cores) is None
    assert torch.get_num_threads() == 4


@pytest.mark.skipif(not threads.Path("/proc/stat").exists(), reason="the kernel's counts are Linux's")
def test_the_real_counts_can_be_read() -> None:
    cores = Cores()
    time.sleep(0.25)
    free = cores.free()
    assert free is not None
    assert 0 <= free + 0.1 <= len(os.sched_getaffinity(0)) + 0.2


@pytest.mark.parametrize("each", [1, 3])
def test_a_pools_threads_have_their_share_and_the_caller_and_later_threads_keep_theirs(each: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with TorchPool(2, "irn-test", each) as pool:
            assert pool.submit(torch.get_num_threads).result() == each
        with ThreadPoolExecutor(1) as later:
            assert (torch.get_num_threads(), later.submit(torch.get_num_threads).result()) == (2, 2)
    finally:
        torch.set_num_threads(before)


def test_what_a_pool_has_not_begun_when_it_is_left_is_cancelled() -> None:
    begun, go_on = Event(), Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)

    with TorchPool(1, "irn-test") as pool:
        working, waiting = pool.submit(work), pool.submit(work)
        begun.wait(10)
        Timer(0.05, go_on.set).start()
    assert (working.done(), waiting.cancelled()) == (True, True)
