"""The page of `irn eval --report`: one file that opens anywhere, with the tables, and with pictures to look at.

`page.html` is the page; this module puts figures and pictures into it. On each data set it shows the pictures on which
the first method is worst, middling and best, loses most against the best of the others, and whose small picture strays
farthest from the bicubic one. Of each it carries the original and what every method made of it, without loss; the page
draws differences and enlargements itself.
"""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irn_cli.artifact import PATCH, find_artifact
from irn_cli.evaluation.codec import encode_lossless
from irn_cli.evaluation.dataset import DataSet, Original, load
from irn_cli.evaluation.methods import Method
from irn_cli.evaluation.published import comparison, picture_counts, remarks
from irn_cli.evaluation.report import SMALL_CAPTION, caption
from irn_cli.evaluation.scores import Results, Score, flat
from irn_cli.metrics import finite
from irn_cli.picture import Picture, Pixels

_PART = (960, 720)  # width and height: of a larger picture the page carries this much, around the worst spot
_SPOT = 64  # side of the enlarged spot, pixels
_CORE = 16  # side of the square, in the spot's middle, that holds the largest error
_STRAYED = "worst small picture"


def render(results: Results, methods: Sequence[Method], datasets: Sequence[DataSet]) -> str:
    """Make the page. The pictures that it shows are asked for once more, exactly as they were measured.

    Args:
        results: what was measured.
        methods: the methods, as they were given to `evaluate`; `Remembered` ones need not make the pictures again.
        datasets: the data sets, likewise.

    Returns:
        HTML.
    """
    images: dict[str, str] = {}
    scores = {(score.dataset, score.name, score.method): score for score in results.scores}
    exhibits = [
        _exhibit(roles, dataset, name, methods, scores, results.protocol, images)
        for dataset in datasets
        for name, roles in choose(dataset.name, [method.name for method in methods], results.scores).items()
    ]
    rows = comparison(results)
    counts = picture_counts(results)
    data = {
        "caption": caption(results.protocol),
        "smallCaption": SMALL_CAPTION,
        "remarks": remarks(results),
        "protocol": results.protocol,
        "sets": [{"name": dataset.name, "pictures": counts[dataset.name]} for dataset in datasets],
        "comparison": [{**dataclasses.asdict(row), "marks": row.marks} for row in rows],
        "summary": [flat(row) for row in results.summary],
        "pictures": [flat(row) for row in results.scores],
        "failures": [dataclasses.asdict(row) for row in results.failures],
        "exhibits": exhibits,
        "images": images,
    }
    text = json.dumps(finite(data), allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")  # a file may be called </script>
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return template.replace("{{data}}", text, 1)


def choose(dataset: str, methods: Sequence[str], scores: Sequence[Score]) -> dict[str, list[str]]:
    """The pictures of a data set that are shown, in that order, and what each is shown for."""
    by_method = {
        method: {score.name: score for score in scores if (score.method, score.dataset) == (method, dataset)}
        for method in methods
    }
    first = next((found for found in by_method.values() if found), None)
    if not first:
        return {}
    roles: dict[str, list[str]] = {}
    losses = {
        name: (best - score.psnr_y, -score.psnr_y)  # where others are infinite, what is lowest loses most
        for name, score in first.items()
        if (best := max(found[name].psnr_y for found in by_method.values() if name in found)) > score.psnr_y
    }
    if losses:
        roles[max(losses, key=losses.__getitem__)] = ["largest loss"]
    ranked = sorted(first.values(), key=lambda score: score.psnr_y)
    for rank, role in ((0, "worst"), (len(ranked) // 2, "median"), (len(ranked) - 1, "best")):
        if len(ranked) > rank and (rank or role == "worst"):
            roles.setdefault(ranked[rank].name, []).append(role)
    strayed = [score for found in by_method.values() for score in found.values() if score.lr_worst_patch]
    if strayed:
        roles.setdefault(max(strayed, key=lambda score: score.lr_worst_patch or 0).name, []).append(_STRAYED)
    return roles


@dataclass(frozen=True)
class _Part:
    """The part of a picture that the page carries, and in it the spot that it enlarges; pixels of the original."""

    top: int
    left: int
    height: int
    width: int
    spot: dict[str, int]  # x, y, width and height, within the part

    @classmethod
    def around(cls, row: int, column: int, size: tuple[int, int], scale: int) -> "_Part":
        """The part around a place in a picture of (H, W); it begins and ends where a small pixel does."""
        height, width = (min(side, most // scale * scale) for side, most in zip(size, _PART[::-1], strict=True))
        top = _around(row, height, size[0]) // scale * scale
        left = _around(column, width, size[1]) // scale * scale
        spot_height, spot_width = min(_SPOT, height), min(_SPOT, width)
        spot = {
            "x": _around(column - left, spot_width, width) // scale * scale,
            "y": _around(row - top, spot_height, height) // scale * scale,
            "width": spot_width,
            "height": spot_height,
        }
        return cls(top, left, height, width, spot)


def _exhibit(
    roles: Sequence[str],
    dataset: DataSet,
    name: str,
    methods: Sequence[Method],
    scores: Mapping[tuple[str, str, str], Score],
    protocol: Mapping[str, Any],
    images: dict[str, str],
) -> dict[str, Any]:
    """Everything that the page needs to show one picture; the pictures themselves go into `images`, by their hash."""
    scale = methods[0].scale
    original = load(dataset, dataset.directory / name, scale, protocol["crop"])
    asked = ((method.name, scores.get((dataset.name, name, method.name))) for method in methods)
    found = {method: score for method, score in asked if score}  # the others failed on it, as the page says
    first = found.get(methods[0].name)
    original.budget.set_result(first.bytes if first and first.bytes else 0)
    smalls, restored = _made([method for method in methods if method.name in found], original, protocol)
    if list(roles) == [_STRAYED]:
        strayed = max(smalls, key=lambda method: found[method].lr_worst_patch or 0)
        artifact = find_artifact(smalls[strayed].pixels, original.guide.astype(np.float32))
        row, column = ((start + PATCH // 2) * scale for start in (artifact.row, artifact.column))
    else:
        row, column = worst_spot(original.picture.pixels, next(iter(restored.values())).pixels)
    part = _Part.around(row, column, original.picture.size, scale)

    def embedded(picture: Picture, factor: int = 1) -> str:
        rows = slice(part.top // factor, (part.top + part.height) // factor)
        columns = slice(part.left // factor, (part.left + part.width) // factor)
        data = encode_lossless(Picture(np.ascontiguousarray(picture.pixels[rows, columns])))
        key = hashlib.sha256(data).hexdigest()[:16]
        images[key] = base64.b64encode(data).decode()
        return key

    return {
        "dataset": dataset.name,
        "name": name,
        "roles": roles,
        "width": part.width,
        "height": part.height,
        "scale": scale,
        "full": original.picture.size[::-1],
        "spot": part.spot,
        "original": embedded(original.picture),
        "guide": embedded(Picture(original.guide), scale),
        "methods": [
            {
                "name": method,
                "psnr_y": found[method].psnr_y,
                "ssim_y": found[method].ssim_y,
                "restored": embedded(picture),
                "small": embedded(smalls[method], scale) if method in smalls else None,
            }
            for method, picture in restored.items()
        ],
    }


def _made(
    methods: Sequence[Method], original: Original, protocol: Mapping[str, Any]
) -> tuple[dict[str, Picture], dict[str, Picture]]:
    """What each method makes of a picture: the small one, where there is one to look at, and the restored one."""
    smalls, restored = {}, {}
    for method in methods:
        small = method.downscale(original)
        if small.picture:
            smalls[method.name] = small.picture
        restored[method.name] = method.upscale(
            small, seed=protocol["seed"], temperature=protocol["temperature"], sample=0
        )
    return smalls, restored


def worst_spot(a: Pixels, b: Pixels) -> tuple[int, int]:
    """Row and column of the centre of the square in which two pictures, (H, W, 3), are farthest apart."""
    error = ((a.astype(np.float32) - b) ** 2).sum(2, dtype=np.float64)
    height, width = error.shape
    core = min(_CORE, height, width)
    sums = np.zeros((height + 1, width + 1))
    np.cumsum(np.cumsum(error, axis=0), axis=1, out=sums[1:, 1:])
    squares = sums[core:, core:] - sums[:-core, core:] - sums[core:, :-core] + sums[:-core, :-core]
    row, column = np.unravel_index(int(squares.argmax()), squares.shape)
    return int(row) + core // 2, int(column) + core // 2


def _around(centre: int, size: int, whole: int) -> int:
    """Where a stretch of `size` begins that lies around `centre`, within 0 and `whole`."""
    return max(0, min(centre - size // 2, whole - size))
