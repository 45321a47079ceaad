"""The papers' numbers, and measured methods beside them.

The published numbers are those of Xiao et al., "Invertible Image Rescaling" (ECCV 2020): Table 1 of its appendix at 4x,
the main paper's at 2x.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from irn_cli.console import PsnrSsim
from irn_cli.evaluation.scores import Results, Summary

SETS = ("Set5", "Set14", "BSD100", "Urban100", "DIV2K")
_ALIASES = {"b100": "BSD100", "bsds100": "BSD100", "div2kval": "DIV2K", "div2kvalid": "DIV2K", "div2kvalidhr": "DIV2K"}

# Each row: the method, millions of parameters, and PSNR / SSIM on the sets above. The figures marked RGB are on RGB,
# not on Y: the paper took them from another one, which measured so.
_PUBLISHED = {
    2: """
Bicubic & Bicubic |      | 33.66 .9299 | 30.24 .8688 | 29.56 .8431 | 26.88 .8403 | 31.01 .9393 RGB
IRN               | 1.67 | 43.99 .9871 | 40.79 .9778 | 41.32 .9876 | 39.92 .9865 | 44.32 .9908
""",
    4: """
Bicubic & Bicubic |      | 28.42 .8104 | 26.00 .7027 | 25.96 .6675 | 23.14 .6577 | 26.66 .8521 RGB
Bicubic & SRCNN   | .057 | 30.48 .8628 | 27.50 .7513 | 26.90 .7101 | 24.52 .7221 |
Bicubic & EDSR    | 43.1 | 32.62 .8984 | 28.94 .7901 | 27.79 .7437 | 26.86 .8080 | 29.38 .9032 RGB
Bicubic & RDN     | 22.3 | 32.47 .8990 | 28.81 .7871 | 27.72 .7419 | 26.61 .8028 |
Bicubic & RCAN    | 15.6 | 32.63 .9002 | 28.87 .7889 | 27.77 .7436 | 26.82 .8087 | 30.77 .8460
Bicubic & ESRGAN  | 16.3 | 32.74 .9012 | 29.00 .7915 | 27.84 .7455 | 27.03 .8152 | 30.92 .8486
Bicubic & SAN     | 15.7 | 32.64 .9003 | 28.92 .7888 | 27.78 .7436 | 26.79 .8068 |
TAD & TAU         |      | 31.81       | 28.63       | 28.51       | 26.63       | 31.16
CAR & EDSR        | 52.8 | 33.88 .9174 | 30.31 .8382 | 29.15 .8001 | 29.28 .8711 | 32.82 .8837
IRN               | 4.35 | 36.19 .9451 | 32.67 .9015 | 31.64 .8826 | 31.41 .9157 | 35.07 .9318
IRN+              | 4.35 | 33.59 .9147 | 29.97 .8444 | 28.94 .8189 | 28.24 .8684 | 32.24 .8921
""",
}

# What other programs' rows are held against, by a word of their names.
_OTHERS = {name.lower(): f"Bicubic & {name}" for name in ("SRCNN", "EDSR", "RDN", "RCAN", "ESRGAN", "SAN")}
_OTHERS |= {"tad": "TAD & TAU", "car": "CAR & EDSR"}
_OTHERS |= {"rrdb": "Bicubic & ESRGAN"}  # what its authors call the network that the paper measured

ON_RGB = "* on RGB, not on Y: the paper took this figure from another one"
FEWER = "(n) on n pictures only: the others could not be measured"


@dataclass(frozen=True)
class Row:
    """A line of the comparison."""

    kind: Literal["measured", "difference", "published"]
    method: str  # for a difference: the published method that the line above it is held against
    parameters: float | None
    seconds: float | None  # a picture
    pairs: tuple[PsnrSsim | None, ...]  # on Y, data set by data set
    on_rgb: tuple[bool, ...] = ()  # for a published row: which of them are figures on RGB
    pictures: tuple[int | None, ...] = ()  # for a measured row: how many, where others were measured on more

    @property
    def marks(self) -> tuple[str, ...]:
        """What is put behind each figure; `remarks` explains it."""
        if self.kind == "published":
            return tuple("*" if on_rgb else "" for on_rgb in self.on_rgb)
        counts = self.pictures or (None,) * len(self.pairs)
        return tuple("" if count is None else f" ({count})" for count in counts)


def comparison(results: Results) -> list[Row]:
    """Lay out methods by data sets: each method measured, its difference to its published row, then all of those."""
    summary = {(row.method, row.dataset): row for row in results.summary}
    sets = [dataset["name"] for dataset in results.protocol["datasets"]]
    most = picture_counts(results)
    published = published_rows(results.protocol["scale"], sets)
    rows = []
    for method in results.protocol["methods"]:
        found = [summary.get((method["name"], name)) for name in sets]
        pairs: tuple[PsnrSsim | None, ...] = tuple((row.psnr_y, row.ssim_y) if row else None for row in found)
        seconds = _mean_seconds([row for row in found if row])
        counts = tuple(row.pictures if row and row.pictures < most[row.dataset] else None for row in found)
        rows.append(Row("measured", method["name"], method["parameters"], seconds, pairs, pictures=counts))
        reference = next((row for row in published if row.method == counterpart(method)), None)
        if reference:
            differences = tuple(map(_difference, pairs, reference.pairs, reference.on_rgb))
            if any(differences):
                rows.append(Row("difference", reference.method, None, None, differences))
    return rows + published


def picture_counts(results: Results) -> dict[str, int]:
    """How many pictures of each data set were measured, by the method that failed on the fewest."""
    counts = {dataset["name"]: 0 for dataset in results.protocol["datasets"]}
    for row in results.summary:
        counts[row.dataset] = max(counts[row.dataset], row.pictures)
    return counts


def remarks(results: Results) -> list[str]:
    """What the marks in a comparison mean, and which means leave pictures out, one line each."""
    rows = comparison(results)
    found = {
        ON_RGB: any(any(row.on_rgb) for row in rows),
        FEWER: any(any(row.pictures) for row in rows),
    }
    return [remark for remark, needed in found.items() if needed] + [
        f"{row.method} on {row.dataset}: PSNR is infinite for {count} of {row.pictures}, which its mean leaves out"
        for row in results.summary
        if 0 < (count := row.infinite.get("psnr_y", 0)) < row.pictures
    ]


def published_rows(scale: int, sets: Sequence[str]) -> list[Row]:
    """The papers' rows at a scale, for the data sets at hand; none where none of these is a known one."""
    known = [_ALIASES.get(key := re.sub("[^a-z0-9]", "", name.lower()), key) for name in sets]
    columns = {name.lower(): column for column, name in enumerate(SETS)}
    wanted = [columns.get(name.lower()) for name in known]
    rows = []
    for line in _PUBLISHED.get(scale, "").strip().splitlines():
        method, parameters, *cells = (cell.strip() for cell in line.split("|"))
        found = [cells[column] if column is not None else "" for column in wanted]
        pairs = tuple(map(_pair, found))
        if any(pairs):
            count = float(parameters) * 1e6 if parameters else None
            rows.append(Row("published", method, count, None, pairs, tuple(cell.endswith("RGB") for cell in found)))
    return rows


def _pair(cell: str) -> PsnrSsim | None:
    numbers = [float(number) for number in cell.removesuffix("RGB").split()]
    return (numbers[0], numbers[1] if len(numbers) > 1 else None) if numbers else None


def counterpart(method: dict[str, Any]) -> str | None:
    """The published method that one of ours is to be held against."""
    if method["kind"] == "model":
        return "IRN+" if re.search(r"plus|irn\+", method["name"], re.IGNORECASE) else "IRN"
    if method["kind"] == "baseline":
        return "Bicubic & Bicubic" if method["name"] == "bicubic" else None
    words = re.split("[^a-z0-9]+", method["name"].lower())
    return next((_OTHERS[word] for word in words if word in _OTHERS), None)


def _difference(ours: PsnrSsim | None, theirs: PsnrSsim | None, theirs_on_rgb: bool) -> PsnrSsim | None:
    if not ours or not theirs or theirs_on_rgb:
        return None
    return ours[0] - theirs[0], None if ours[1] is None or theirs[1] is None else ours[1] - theirs[1]


def _mean_seconds(rows: Sequence[Summary]) -> float | None:
    timed = [(row.seconds_per_picture, row.pictures) for row in rows if row.seconds_per_picture is not None]
    pictures = sum(count for _, count in timed)
    return sum(seconds * count for seconds, count in timed) / pictures if timed else None
