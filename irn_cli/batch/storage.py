"""Where the picture of a job comes from and its results go: files, object stores, the standard streams."""

import io
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from irn_cli.batch.jobs import Job
from irn_cli.batch.outputs import Outputs
from irn_cli.batch.work import Copy, Product
from irn_cli.canvas import HUGE
from irn_cli.device import trim_memory
from irn_cli.errors import Code, OutputError
from irn_cli.files import atomic_write
from irn_cli.image import MAX_PIXELS, read, write
from irn_cli.inputs import STREAM
from irn_cli.latent import latent_path
from irn_cli.paths import byte_count, exists, is_remote, open_file, remove, same_file
from irn_cli.picture import Picture
from irn_cli.record import Record
from irn_cli.streams import standard_input, standard_output

Stamp = tuple[int, int] | None  # of a file: bytes, and nanoseconds


@dataclass(frozen=True)
class Written:
    """What writing a picture did."""

    files: tuple[Path, ...] = ()  # none, where another run has made them
    told: tuple[str, ...] = ()  # what the format cannot hold, and what else there is to tell, one line each
    size: int = 0  # bytes, as far as known
    latent: int | None = None  # bytes, of these, of the file beside the picture


@dataclass(frozen=True)
class Storage:
    """Reads pictures and writes results."""

    outputs: Outputs  # what may be overwritten
    strip: bool = False  # leave metadata out
    max_pixels: int = MAX_PIXELS  # refuse larger pictures

    def read(self, job: Job) -> Picture:
        """Read the picture that a job is about."""
        source = io.BytesIO(standard_input().read()) if job.source == STREAM else job.source
        picture = read(source, max_pixels=self.max_pixels)
        if job.pixels > HUGE:
            trim_memory()
        if self.strip:
            picture = replace(picture, icc=None, exif=None, xmp=None, dpi=None, chunks=(), name="")
            if isinstance(picture.record, Record):
                picture = replace(picture, record=replace(picture.record, name=""))
        return picture

    def store(self, made: Product | Copy, job: Job) -> Written:
        """Write one result; where it is one of several that might have been, it replaces the others, too."""
        skip = self.outputs.existing == "skip" and made.target != STREAM
        try:
            if skip and exists(made.target):
                return Written()
            written = self._copy(made) if isinstance(made, Copy) else self._write(made.target, made.picture)
        except OutputError as error:
            if skip and error.code is Code.EXISTS:  # another run was quicker
                return Written()
            raise
        if not (job.one_of and self.outputs.overwrite):
            return written
        others = [other for other in dict.fromkeys(job.targets) if other != made.target and exists(other)]
        return replace(written, told=(*written.told, *(_removed(other, made.target) for other in others)))

    def _write(self, target: Path, picture: Picture) -> Written:
        if picture.pixels.size // 3 > HUGE:
            trim_memory()
        outputs = self.outputs
        if target == STREAM:
            stream = standard_output().buffer
            lost = write(stream, picture, format=outputs.format, quality=outputs.quality)
            stream.flush()  # else a full disk shows only when the picture has been told to be done
            return Written((target,), lost)
        lost = write(target, picture, overwrite=outputs.overwrite, quality=outputs.quality)
        size = size_of(target) or 0
        if not picture.latent:
            return Written((target,), lost, size)
        beside = latent_path(target)
        kept = size_of(beside) or 0
        return Written((beside, target), lost, size + kept, kept)

    def _copy(self, copy: Copy) -> Written:
        with open_file(copy.source) as source, atomic_write(copy.target, overwrite=self.outputs.overwrite) as target:
            shutil.copyfileobj(source, target)
        return Written((copy.target,), size=size_of(copy.target) or 0)


def _removed(old: Path, new: Path) -> str:
    """Remove a file that another replaces, unless both are the same; returns a line about it for the user."""
    try:
        if not same_file(old, new):
            remove(old)
            return f"removed {old}, which {new} replaces"
    except OSError as error:
        return f"cannot remove {old}, which {new} replaces: {error.strerror or error}"
    return ""


def stamp_of(source: Path) -> Stamp:
    """What a change of a file changes; None where it is gone, or a store's, whose answer would take its time."""
    with suppress(OSError):
        if source != STREAM and not is_remote(source):
            status = source.stat()
            return status.st_size, status.st_mtime_ns
    return None


def size_of(source: Path) -> int | None:
    """Bytes of a file; None where they are not known."""
    with suppress(OSError):
        return None if source == STREAM else byte_count(source)
    return None
