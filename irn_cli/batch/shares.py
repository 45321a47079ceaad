"""How much of a batch is done, how fast it goes, and how long the rest will take."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from irn_cli.batch.jobs import Outcome

_OVERHEAD = 1 << 15  # pixels that the network does while a file is opened and another written


class Shares:
    """Each job's share of a batch: it counts by its pixels, also while it is worked on.

    Args:
        pixels: of the large picture of each job, by its source.
    """

    def __init__(self, pixels: Mapping[Path, int]) -> None:
        self.pixels = pixels
        self._under_way: dict[Path, float] = {}  # share done of each job that has begun, until its outcome is known
        self._begin = 0.0  # of the first job
        self._ended = 0  # weight of all jobs that are no more to be done
        self._worked = self._worked_pixels = self._worked_files = 0  # of those, what the network had
        self.total = sum(map(self._weight, pixels))
        self.at_once = 0  # most jobs that were worked on at the same time

    def _weight(self, source: Path) -> int:
        return self.pixels[source] + _OVERHEAD

    def progress(self, source: Path, share: float) -> None:
        """Take note of how far a job is, 0 to 1."""
        self._begin = self._begin or time.monotonic()
        share = max(share, self._under_way.get(source, 0.0))
        if source in self.pixels:
            self._under_way[source] = share
        self.at_once = max(self.at_once, sum(share < 1 for share in self._under_way.values()))

    def end(self, outcome: Outcome) -> None:
        """Take note of what became of a job."""
        if outcome.source not in self.pixels:
            return
        self._under_way.pop(outcome.source, None)
        self._ended += self._weight(outcome.source)
        if outcome.result.output_size:  # else it cost no time: it could not be read, or another run had done it
            self._worked += self._weight(outcome.source)
            self._worked_pixels += self.pixels[outcome.source]
            self._worked_files += 1

    @property
    def done(self) -> float:
        """The weight done, up to `total`."""
        return self._ended + self._begun(self._weight)

    @property
    def pixels_done(self) -> float:
        """Pixels that were worked on."""
        return self._worked_pixels + self._begun(self.pixels.__getitem__)

    def _begun(self, measure: Callable[[Path], float]) -> float:
        return sum(share * measure(source) for source, share in self._under_way.items())

    def rates(self) -> tuple[float, float, float | None]:
        """Megapixels per second, pictures per minute, and the seconds left, where that can be said."""
        seconds = max(time.monotonic() - self._begin, 1e-3) if self._begin else 0.0
        worked = self._worked + self._begun(self._weight)
        if not (seconds and worked):
            return 0.0, 0.0, None
        files = self._worked_files + self._begun(lambda _: 1)
        return self.pixels_done / seconds / 1e6, files / seconds * 60, (self.total - self.done) / worked * seconds
