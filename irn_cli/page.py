"""The page of `irn eval --report`: one file that opens anywhere, with the tables, and with pictures to look at.

`page.html` is the page; this module puts the numbers and pictures into it. For the worst, the median and the best
picture of each model on each data set, and for the one whose small picture strays farthest from the bicubic one, the
page carries original, restored, bicubic and small picture without loss; it draws differences and enlargements itself.
"""

import base64
import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irn_cli.artifact import PATCH, find_artifact
from irn_cli.dataset import DataSet, load
from irn_cli.evaluate import Score, flat
from irn_cli.image import write
from irn_cli.methods import Baseline, Method, Small
from irn_cli.metrics import finite
from irn_cli.picture import Picture
from irn_cli.report import Results, caption, comparison

_PART = (1280, 960)  # width and height: of a larger picture the page carries this much, around the worst spot
_SPOT = 64  # side of the enlarged spot, pixels
_STRAYED = "worst small picture"
_CORE = 16  # side of the square, in the spot's middle, that holds the largest error

Pixels = NDArray[np.uint8]


def render(results: Results, methods: Sequence[Method], datasets: Sequence[DataSet]) -> str:
    """Make the page. The pictures that it shows are made once more, exactly as they were measured.

    Args:
        results: what was measured.
        methods: the methods, as they were given to `evaluate`.
        datasets: the data sets, likewise.

    Returns:
        HTML.
    """
    images: dict[str, str] = {}
    shown = [method for method in methods if method.draws] or methods
    exhibits = [
        _exhibit(role, score, method, dataset, results.protocol, images)
        for dataset in datasets
        for method in shown
        for role, score in _chosen([s for s in results.scores if (s.method, s.dataset) == (method.name, dataset.name)])
    ]
    summary = results.summary
    data = {
        "caption": caption(results.protocol),
        "protocol": results.protocol,
        "sets": [
            {
                "name": dataset.name,
                "pictures": max((s.pictures for s in summary if s.dataset == dataset.name), default=0),
            }
            for dataset in datasets
        ],
        "comparison": [dataclasses.asdict(row) for row in comparison(results)],
        "summary": [flat(row) for row in summary],
        "pictures": [flat(row) for row in results.scores],
        "failures": [dataclasses.asdict(row) for row in results.failures],
        "exhibits": exhibits,
        "images": images,
    }
    text = json.dumps(finite(data), allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")  # a file may be called </script>
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return template.replace("{{data}}", text, 1)


def _chosen(scores: list[Score]) -> list[tuple[str, Score]]:
    """The worst, the median and the best picture, fewer where there are fewer; and the one with the worst patch."""
    if not scores:
        return []
    ranked = sorted(scores, key=lambda score: score.psnr_y)
    by_rank = {len(ranked) // 2: "median", len(ranked) - 1: "best", 0: "worst"}
    strayed = max(scores, key=lambda score: score.lr_worst_patch or 0)
    return [(by_rank[rank], ranked[rank]) for rank in sorted(by_rank)] + [(_STRAYED, strayed)]


def _exhibit(
    role: str, score: Score, method: Method, dataset: DataSet, protocol: dict[str, Any], images: dict[str, str]
) -> dict[str, Any]:
    """Everything that the page needs to show one picture; its pictures go into `images`, by their hash."""
    scale = method.scale
    original = load(dataset, dataset.directory / score.name, scale, protocol["crop"])
    kept = method.downscale(original)
    small = kept.picture
    assert small
    restored = method.upscale(kept, seed=protocol["seed"], temperature=protocol["temperature"], sample=0)
    guide = Picture(original.guide, mode=original.picture.mode)
    bicubic = Baseline("bicubic", scale).upscale(Small(guide))

    height, width = original.picture.size
    if role == _STRAYED:
        artifact = find_artifact(small.pixels, original.guide.astype(np.float32))
        row, column = ((start + PATCH // 2) * scale for start in (artifact.row, artifact.column))
    else:
        row, column = _worst_spot(original.picture.pixels, restored.pixels)
    part = (min(height, _PART[1] // scale * scale), min(width, _PART[0] // scale * scale))
    top = _around(row, part[0], height) // scale * scale
    left = _around(column, part[1], width) // scale * scale
    spot = (min(_SPOT, part[0]), min(_SPOT, part[1]))

    def embedded(picture: Picture, factor: int) -> str:
        rows, columns = (
            slice(start // factor, (start + size) // factor) for start, size in zip((top, left), part, strict=True)
        )
        stream = io.BytesIO()
        write(stream, Picture(np.ascontiguousarray(picture.pixels[rows, columns])))
        name = hashlib.sha256(stream.getvalue()).hexdigest()[:16]
        images[name] = base64.b64encode(stream.getvalue()).decode()
        return name

    return {
        **flat(score),
        "role": role,
        "views": ("guide", "small") if role == _STRAYED else ("original", "restored"),
        "width": part[1],
        "height": part[0],
        "full": (width, height),
        "spot": {
            "x": _around(column - left, spot[1], part[1]) // scale * scale,
            "y": _around(row - top, spot[0], part[0]) // scale * scale,
            "width": spot[1],
            "height": spot[0],
        },
        "images": {
            "original": embedded(original.picture, 1),
            "restored": embedded(restored, 1),
            "bicubic": embedded(bicubic, 1),
            "small": embedded(small, scale),
            "guide": embedded(guide, scale),
        },
    }


def _worst_spot(a: Pixels, b: Pixels) -> tuple[int, int]:
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
