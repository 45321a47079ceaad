"""A run's log for TensorBoard (extra `irn-cli[tensorboard]`), in the folder `tensorboard` of the run's directory."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from irn_cli.errors import UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def require_tensorboard() -> None:
    """Check that TensorBoard is there.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs TensorBoard: pip install 'irn-cli[tensorboard]'")


class Board:
    """Rows of the log as curves, and previews as pictures; steps that are done again replace what they were."""

    def __init__(self, run: Path) -> None:
        self._directory = run / "tensorboard"
        self._writer: SummaryWriter | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row of `log.jsonl`; those that are not finite are left out."""
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                group = "validation" if name.startswith("val_") else "training"
                self._at(row["step"]).add_scalar(f"{group}/{name.removeprefix('val_')}", value, row["step"])

    def show(self, step: int, preview: NDArray[np.uint8]) -> None:
        """Write a picture, (H, W, 3)."""
        self._at(step).add_image("preview", preview, step, dataformats="HWC")

    def _at(self, step: int) -> "SummaryWriter":
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._directory), purge_step=step)
        return self._writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()
