"""The curve of a training run: its loss and its validations over steps, as an SVG."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irn_cli.files import atomic_write
from irn_cli.train.recipe import Recipe


def write_curve(path: Path, history: Sequence[Mapping[str, Any]], recipe: Recipe) -> None:
    """Draw a run's loss, on a logarithmic scale, and below it the PSNR of its validations, over steps.

    A row's loss is that of one batch: what is drawn is the mean of up to 20 rows.

    Args:
        path: the SVG file to make, or to replace.
        history: the log's rows.
        recipe: the run's.
    """
    # A run that was resumed from an earlier step did some steps again: the later row counts.
    rows = sorted({row["step"]: row["loss"] for row in history if 0 < (row.get("loss") or 0) < math.inf}.items())
    recent = [rows[max(0, k - 19) : k + 1] for k in range(len(rows))]
    losses = [(some[-1][0], math.log10(sum(loss for _, loss in some) / len(some))) for some in recent]
    scores = sorted({row["step"]: row["val_psnr_y"] for row in history if row.get("val_psnr_y") is not None}.items())
    last = max((step for step, _ in (*losses, *scores)), default=1)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 440" font-family="sans-serif" font-size="12">',
        '<rect width="720" height="440" fill="white"/>',
        *_panel(losses, last, 30, "loss", "#8aa", decades=True),
        *_panel(scores, last, 240, "validation PSNR on Y, dB", "#c40", decades=False),
        '<text x="390" y="430" text-anchor="middle">'
        f"steps (batch {recipe.batch}, {recipe.patch} x {recipe.patch})</text>",
        "</svg>\n",
    ]
    with atomic_write(path, overwrite=True) as stream:
        stream.write("\n".join(parts).encode())


def _panel(
    points: Sequence[tuple[int, float]], last: int, top: float, title: str, colour: str, *, decades: bool
) -> list[str]:
    """One diagram, 160 high: a line through points, with the range's ends on its axes."""
    left, width, height = 80.0, 620.0, 160.0
    parts = [
        f'<text x="{left}" y="{top - 8}">{title}</text>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#bbb"/>',
        f'<text x="{left + width}" y="{top + height + 16}" text-anchor="end">{last:,}</text>',
    ]
    if not points:
        return parts
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = high - low or 1.0

    def place(step: int, value: float) -> str:
        return f"{left + width * step / last:.1f},{top + height * (1 - (value - low) / span):.1f}"

    for value, y in ((high, top + 12), (low, top + height)):
        label = f"{10**value:.4g}" if decades else f"{value:.2f}"
        parts.append(f'<text x="{left - 6}" y="{y}" text-anchor="end">{label}</text>')
    line = " ".join(place(*point) for point in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    if len(points) <= 50:
        for point in points:
            x, y_text = place(*point).split(",")
            parts.append(f'<circle cx="{x}" cy="{y_text}" r="2.5" fill="{colour}"/>')
    return parts
