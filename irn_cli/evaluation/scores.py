"""What an evaluation gives: a row of scores for each picture and method, and their means over a data set."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from irn_cli.metrics import finite_mean


@dataclass(frozen=True)
class _Quality:
    """What a row of a picture and one of a data set have in common."""

    quality: Mapping[str, float]  # of the restored picture, by the keys of the metrics; means over the draws

    @property
    def psnr_y(self) -> float:
        """In dB; infinite where nothing differs."""
        return self.quality["psnr_y"]

    @property
    def ssim_y(self) -> float:
        return self.quality["ssim_y"]

    @property
    def psnr_rgb(self) -> float:
        return self.quality["psnr_rgb"]


@dataclass(frozen=True, kw_only=True)
class Score(_Quality):
    """How well a method did on one picture. What is said of the small picture is None where there is none."""

    method: str
    scale: int
    dataset: str
    name: str  # the picture's path within its data set
    width: int  # as measured: a multiple of the scale
    height: int
    psnr_y_samples: tuple[float, ...]  # draw by draw
    lr_psnr_y: float | None  # the small picture against bicubic: how ordinary it looks
    lr_ssim_y: float | None
    lr_worst_patch: float | None  # largest mean deviation of one of its 8x8 patches from bicubic in any channel, levels
    lr_delta_e: float | None  # CIEDE2000 of its colours from bicubic's, mean over its pixels
    lr_delta_e_95: float | None  # the same, 95th percentile
    lr_bits_per_pixel: float | None  # of its file, by its own pixels
    bytes: int | None  # of the file that is kept
    bits_per_pixel: float | None  # of that file, by the original's pixels
    seconds: float | None  # to make it small and large again, once, without reading and measuring; None if not ours


@dataclass(frozen=True)
class Failure:
    """A picture that could not be measured, and why."""

    dataset: str
    name: str
    method: str | None  # the one that failed on it; None where the picture is at fault
    error: str


@dataclass(frozen=True, kw_only=True)
class Summary(_Quality):
    """How well a method did on a data set: means over its pictures."""

    method: str
    scale: int
    dataset: str
    pictures: int
    infinite: Mapping[str, int]  # how many pictures' PSNR is, by its key; the mean is of the others, if there are any
    lr_psnr_y: float | None
    lr_ssim_y: float | None
    lr_worst_patch: float | None  # the worst of all
    lr_delta_e: float | None
    lr_delta_e_95: float | None
    lr_bits_per_pixel: float | None
    bytes: float | None
    bits_per_pixel: float | None
    psnr_y_std_over_samples: float | None  # standard deviation of the set's mean from draw to draw; None for one draw
    seconds_per_picture: float | None


def flat(row: Score | Summary) -> dict[str, Any]:
    """A row's fields, each metric one of them, as JSON and CSV have them."""
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "quality"}
    return {**fields, **row.quality}


def summarise(rows: Iterable[Score | Failure]) -> list[Summary]:
    """Average the scores of each method over each data set, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in rows:
        if isinstance(score, Score):
            groups.setdefault((score.dataset, score.method), []).append(score)
    return [_summary(group) for group in groups.values()]


def _summary(scores: list[Score]) -> Summary:
    def mean(name: str) -> float | None:
        values = [getattr(score, name) for score in scores]
        return None if None in values else finite_mean(values)

    values = {key: [score.quality[key] for score in scores] for key in scores[0].quality}
    small = [score.lr_psnr_y for score in scores if score.lr_psnr_y is not None]
    infinite = {key: each.count(math.inf) for key, each in {**values, "lr_psnr_y": small}.items()}
    finite = [score.psnr_y_samples for score in scores if score.psnr_y < math.inf]
    draws = [statistics.fmean(draw) for draw in zip(*(finite or [scores[0].psnr_y_samples]), strict=True)]
    patches = [score.lr_worst_patch for score in scores if score.lr_worst_patch is not None]
    return Summary(
        method=scores[0].method,
        scale=scores[0].scale,
        dataset=scores[0].dataset,
        pictures=len(scores),
        infinite={key: count for key, count in infinite.items() if count},
        quality={key: finite_mean(each) for key, each in values.items()},
        lr_psnr_y=mean("lr_psnr_y"),
        lr_ssim_y=mean("lr_ssim_y"),
        lr_worst_patch=max(patches, default=None),
        lr_delta_e=mean("lr_delta_e"),
        lr_delta_e_95=mean("lr_delta_e_95"),
        lr_bits_per_pixel=mean("lr_bits_per_pixel"),
        bytes=mean("bytes"),
        bits_per_pixel=mean("bits_per_pixel"),
        psnr_y_std_over_samples=_spread(draws),
        seconds_per_picture=mean("seconds"),
    )


def _spread(draws: Sequence[float]) -> float | None:
    """The standard deviation between draws, which `statistics.stdev` refuses to take of infinities."""
    if len(draws) < 2:
        return None
    if min(draws) == max(draws):
        return 0.0
    return statistics.stdev(draws) if max(draws) < math.inf else math.inf


@dataclass(frozen=True)
class Results:
    """An evaluation, finished."""

    protocol: dict[str, Any]  # what `report.protocol` gives
    scores: tuple[Score, ...]
    failures: tuple[Failure, ...]

    @property
    def summary(self) -> list[Summary]:
        """A row for each data set and method, in the order in which these were given."""
        sets, methods = ([one["name"] for one in self.protocol[key]] for key in ("datasets", "methods"))
        return sorted(summarise(self.scores), key=lambda row: (sets.index(row.dataset), methods.index(row.method)))
