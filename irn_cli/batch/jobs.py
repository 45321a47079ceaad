"""What a batch is made of: a job for each picture that is to be worked on, and an outcome for each input."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from irn_cli.errors import Code, IrnError, explain
from irn_cli.metrics import finite


@dataclass(frozen=True)
class Job:
    """One picture to be worked on."""

    source: Path
    targets: tuple[Path, ...]  # all that may be written for it
    pixels: int = 0  # of the large pictures, made small or to be made, as far as known
    together: bool = False  # whether the targets are of use only with each other: a picture and its latent
    one_of: bool = False  # whether only one of the targets will be written: that of the factor that is good enough;
    # where results are replaced, it replaces the others, too
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What is known of a picture that was worked on; None is not known, or was not asked for."""

    input_size: tuple[int, int] | None = None  # (width, height), pixels
    output_size: tuple[int, int] | None = None
    psnr_y: float | None = None  # of the restored picture against its original, dB; infinite where nothing differs
    psnr_rgb: float | None = None
    unrefined_psnr_y: float | None = None  # of a refined picture: what it would be without
    unrefined_psnr_rgb: float | None = None
    delta_e: float | None = None  # CIEDE2000 of the small picture from bicubic, mean over its pixels
    delta_e_95: float | None = None  # the same, 95th percentile
    latent_bytes: int | None = None  # of the file with which the original comes back bit for bit
    seconds: float | None = None
    warnings: tuple[str, ...] = ()
    input_bytes: int | None = None  # of the file that was read
    output_bytes: int | None = None  # of all files that were written


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    source: Path
    status: Literal["done", "skipped", "failed"]
    code: Code
    reason: str = ""  # why it was skipped, or failed
    outputs: tuple[Path, ...] = ()  # what was written
    result: Result = Result()
    traceback: str = ""  # of the error by which it failed

    def as_json(self) -> dict[str, Any]:
        """The outcome as one JSON object, which has what is known of the result; an infinite PSNR is null."""
        result = {name: value for name, value in asdict(self.result).items() if value is not None}
        return {
            "source": str(self.source),
            "status": self.status,
            "code": self.code,
            "reason": self.reason,
            "outputs": [str(path) for path in self.outputs],
            **finite(result),
        }


class Skip(IrnError):  # noqa: N818  # not an error: the user asked for it
    """Raised by work on a picture that the user asked to leave out."""


def failure(source: Path, error: Exception) -> Outcome:
    """The outcome of an input that met an error."""
    code, reason = explain(error)
    return Outcome(source, "skipped" if isinstance(error, Skip) else "failed", code, reason)
