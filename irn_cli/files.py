"""Atomic writing: a file is there whole or not at all, whatever kills the process."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from irn_cli.errors import OutputError


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Open `path` for writing so that it appears complete, or not at all, when the block ends.

    The bytes go to a temporary file in the same directory (made if absent), which is flushed to disk and then put in
    place under its name in one step. When the block raises, the temporary file is removed and `path` is as it was.

    Args:
        path: the file to make.
        overwrite: replace an existing file; otherwise an existing file is an error, even one that appeared meanwhile.

    Raises:
        OutputError: `path` exists (without `overwrite`), is a directory, cannot be written, or the disk is full.
    """
    target = Path(path)
    _require_free(target, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not by `tempfile`: its files are private, and how public others are is asked by setting the process's umask.
        temporary = target.with_name(f".irn-{secrets.token_hex(8)}.part")
        stream = temporary.open("xb")
    except OSError as error:
        raise _output_error(target, error) from error
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if overwrite:
            temporary.replace(target)
        else:
            _put_new(temporary, target)
    except OSError as error:
        raise _output_error(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Check, before long work, that `atomic_write` will likely succeed; nothing is written.

    Raises:
        OutputError: `path` exists (without `overwrite`), is a directory, or lies where nothing can be made.
    """
    target = Path(path)
    _require_free(target, overwrite)
    there = next(parent for parent in target.absolute().parents if os.path.lexists(parent))
    if not there.is_dir():
        raise OutputError(f"cannot write {target}: {there} is no directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {target}: no permission to write in {there}")


def _require_free(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a directory")
    if not overwrite and os.path.lexists(target):
        raise OutputError(f"{target} exists already (use --force to replace it)")


def _put_new(temporary: Path, target: Path) -> None:
    """Give `temporary` the name `target`, which must not exist; a hard link is the one such step that cannot race."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise OutputError(f"{target} exists already (use --force to replace it)") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        # Some file systems (FAT, some network mounts) know no hard links: the check above has to do.
        temporary.replace(target)


def _output_error(target: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {target}: {error.strerror or error}")
