"""What a run leaves besides its weights: `log.jsonl`, `curve.svg`, `preview.png`, and a log for TensorBoard."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from irn_cli.evaluation.scores import flat
from irn_cli.image import write
from irn_cli.metrics import finite
from irn_cli.picture import Picture
from irn_cli.train.board import Board
from irn_cli.train.curve import write_curve
from irn_cli.train.recipe import Recipe
from irn_cli.train.trainer import Ended, Event, Logged, Preview, Saved, SetBack, Validated


class Records:
    """Writes a run's events down, within its scope."""

    def __init__(self, run: Path, recipe: Recipe, *, tensorboard: bool = False) -> None:
        """Read the log so far; with `tensorboard`, curves and previews are written for TensorBoard too."""
        self._run, self._recipe = run, recipe
        self._history = read_log(run / "log.jsonl")
        self._stack = ExitStack()
        self._board = self._stack.enter_context(Board(run)) if tensorboard else None
        self._log = self._stack.enter_context((run / "log.jsonl").open("a+b"))
        if self._log.tell():
            self._log.seek(-1, os.SEEK_END)
            self._log.write(b"" if self._log.read() == b"\n" else b"\n")  # a kill cut the last line short

    def add(self, event: Event) -> None:
        """Write an event down."""
        if (row := _row(event)) is not None:
            self._history.append(row)
            self._log.write(f"{json.dumps(row)}\n".encode())
            self._log.flush()
            if self._board:
                self._board.add(row)
        if isinstance(event, Saved | Validated):
            write_curve(self._run / "curve.svg", self._history, self._recipe)
        if isinstance(event, Saved):
            pixels = _side_by_side(event.preview)
            write(self._run / "preview.png", Picture(pixels), overwrite=True)
            if self._board:
                self._board.show(event.step, pixels)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a run's log so far; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _side_by_side(preview: Preview) -> NDArray[np.uint8]:
    """The original, the small one (each pixel a square) and the restored one, with gaps between."""
    scale = preview.original.shape[0] // preview.small.shape[0]
    squares = preview.small.repeat(scale, 0).repeat(scale, 1)
    gap = np.full((len(preview.original), 4, 3), 255, np.uint8)
    return np.hstack([preview.original, gap, squares, gap, preview.restored])


def _row(event: Event) -> dict[str, Any] | None:
    """An event's row in `log.jsonl`."""
    match event:
        case Logged(step, row, _, _):
            return {"step": step, **finite(row)}
        case Validated(step, summary, failures):
            numbers = {name: value for name, value in flat(summary).items() if isinstance(value, int | float)}
            record = {f"val_{name}": value for name, value in finite(numbers).items()}
            return {"step": step, **record, "failures": failures}
        case SetBack(step, factor):
            return {"step": step, "setback": factor}
        case Ended(step, reason):
            return {"step": step, "ended": reason}
    return None
