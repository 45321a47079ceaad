"""What a cluster adds: `python benchmarks/cluster.py` prints the tables in Markdown.

`photos` is one folder of small photos made small here and by workers on this machine; `jobs` what Ray and the driver
take for each job, with jobs that do nothing; `plan` what finding and planning takes for each file; `paper` works out
from the last two what one driver can feed. Pictures are cut from the shipped photographs.
"""

import argparse
import math
import operator
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from contextlib import closing
from functools import partial
from pathlib import Path

from commands import scatter
from engine import describe_machine, header, row

from irn_cli.batch.jobs import Job, Outcome
from irn_cli.batch.outputs import Outputs, check_outputs
from irn_cli.batch.plan import plan_downscale
from irn_cli.cluster import Cluster, WorkersChanged, run_jobs
from irn_cli.inputs import find_pictures

NOTHING = partial(partial, operator.is_)  # loads what does a job in no time; of the standard library: workers import it
PHOTOS = 200, 240, 320  # pictures, H, W
JOBS = 4000
FILES, WORKERS = 10_000_000, 1000  # of the sum on paper
SIZES = 4_000_000, 1_100_000  # bytes of a photo of 12 megapixels, and of its small PNG at 4x, about
DEATHS = 1 / (30 * 86400)  # a second, of each worker: one in a month


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all of them by default")
    options = parser.parse_args()
    print(describe_machine())
    for name in options.sections or SECTIONS:
        print(flush=True)
        SECTIONS[name]()


def photos() -> None:
    """Files a second, here and with workers: from the first outcome to the last, so that no start is in it."""
    count, height, width = PHOTOS
    header(f"{count} photos of {width}x{height}, irn downscale", "whole command, s", "files/s once it runs")
    with tempfile.TemporaryDirectory() as place:
        scatter(count, height, width, Path(place) / "photos")
        for name, options in RUNNERS.items():
            whole, rate = command(Path(place), *options)
            row(name, f"{whole:.1f}", f"{rate:.2f}")


RUNNERS = {
    "local": (),
    "1 worker of 1 CPU": ("--runner", "ray", "--workers", "1", "--cpus-per-worker", "1"),
    "1 worker of 2 CPUs": ("--runner", "ray", "--workers", "1", "--cpus-per-worker", "2"),
    "2 workers of 1 CPU": ("--runner", "ray", "--workers", "2", "--cpus-per-worker", "1"),
}


def command(place: Path, *options: str) -> tuple[float, float]:
    """Seconds of the whole command, and files a second between its first outcome and its last."""
    begin = time.perf_counter()
    arguments = [sys.executable, "-m", "irn_cli", "downscale", "photos", "-o", "small", "--force", "--json", *options]
    with subprocess.Popen(arguments, cwd=place, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        times = [time.perf_counter() for _ in process.stdout]
    assert process.returncode == 0
    return time.perf_counter() - begin, (len(times) - 1) / (times[-1] - times[0])


def jobs() -> None:
    """What a job takes that does nothing: the way of its path to a worker, and of an outcome back."""
    header(f"{JOBS} jobs that do nothing", "ms a job by the clock", "CPU ms a job, here and in the driver")
    for workers in (1, 2):
        clock, cpu = cost_of_job(workers)
        row(f"{workers} worker{'s' * (workers > 1)}", f"{clock:.2f}", f"{cpu:.2f}")


def cost_of_job(workers: int) -> tuple[float, float]:
    """Milliseconds from the first result on, when workers have this machine's cores as the driver has; and of CPU."""
    paths = [f"/storage/photos/2026/{number:08}.jpg" for number in range(JOBS)]
    begin = cpu_seconds()
    timed(workers, paths[:1])
    start = cpu_seconds()
    times = timed(workers, paths)
    cpu = (cpu_seconds() - start) - (start - begin)
    return 1e3 * (times[-1] - times[0]) / (JOBS - 1), 1e3 * cpu / (JOBS - 1)


def timed(workers: int, paths: list[str]) -> list[float]:
    """When each result came."""
    with closing(run_jobs(Cluster(workers=workers, cpus_per_worker=1), NOTHING, paths)) as results:
        return [time.perf_counter() for result in results if not isinstance(result, WorkersChanged)]


def cpu_seconds() -> float:
    """What this process and those that it waited for have used: the drivers, not what Ray started."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def plan() -> None:
    """What a file costs before anything runs."""
    header("2,000 photos on this disk", "CPU ms a file", "memory, kB a file")
    row("find, read the header, plan, look for results", f"{cost_of_plan():.2f}", f"{memory_of_plan():.1f}")


def cost_of_plan() -> float:
    """Milliseconds of CPU."""
    with tempfile.TemporaryDirectory() as place:
        scatter(2000, 60, 80, Path(place) / "photos")
        begin = time.process_time()
        planned(place)
        return 1e3 * (time.process_time() - begin) / 2000


def memory_of_plan() -> float:
    """Kilobytes that the driver keeps."""
    with tempfile.TemporaryDirectory() as place:
        scatter(2000, 60, 80, Path(place) / "photos")
        tracemalloc.start()
        kept = planned(place)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size / 1e3 / len(kept)


def planned(place: str) -> list[Job | Outcome]:
    """What becomes of each photo there."""
    outputs = Outputs(f"{place}/small")
    return check_outputs(plan_downscale(find_pictures([f"{place}/photos"]), outputs, 4, keep_latent=False), outputs)


def paper() -> None:
    """Ten million photos on a thousand workers, worked out from what was measured here."""
    job, before = cost_of_job(2)[1], cost_of_plan()
    print(f"Measured: {job:.2f} ms of CPU a job, {before:.2f} ms a file beforehand.\n")
    header(
        "seconds a file in a worker",
        "files/s of 1,000 workers",
        "of one driver at most",
        "read, MB/s",
        "written, MB/s",
        "hours, one driver",
        "drivers for all workers",
        "hours, so many",
        "files lost with a worker",
    )
    for seconds in (0.2, 1, 6, 60):
        wanted, most = WORKERS / seconds, 1e3 / job
        drivers = math.ceil(wanted / most)
        one, several = (
            FILES / min(wanted, most * count) / 3600 + FILES / count * before / 3.6e6 for count in (1, drivers)
        )
        lost = several * 3600 * WORKERS * DEATHS
        storage = (f"{wanted * size / 1e6:,.0f}" for size in SIZES)
        row(f"{seconds:g}", f"{wanted:,.0f}", f"{most:,.0f}", *storage, f"{one:.1f}", str(drivers), f"{several:.1f}",
            f"{lost:.1f}")  # fmt: skip


SECTIONS = {"photos": photos, "jobs": jobs, "plan": plan, "paper": paper}

if __name__ == "__main__":
    main()
