"""Atomic writing: a file is there whole or not at all, whatever kills the process."""

import errno
import hashlib
import os
import platform
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, BinaryIO

from irn_cli.errors import Code, OutputError
from irn_cli.paths import is_remote, to_path, upload

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

# Whose locks we can see: other machines' only on some network file systems.
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_DAY = 86400  # seconds; no write pauses for so long


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Open `path` for writing so that it appears complete, or not at all, when the block ends.

    The bytes go to a temporary file in the same directory (made if absent), which is flushed to disk and then put in
    place under its name in one step. When the block raises, the temporary file is removed and `path` is as it was; when
    the process is killed, it stays until another one writes into this directory. What goes to an object store lies on
    this machine's disk meanwhile, and is uploaded when it is finished.

    Args:
        path: the file to make.
        overwrite: replace an existing file; otherwise an existing file is an error, even one that appeared meanwhile.

    Raises:
        OutputError: `path` exists (without `overwrite`), is a directory, cannot be written, or the disk is full.
    """
    target = to_path(path)
    try:
        if is_remote(target):
            with _uploaded(target, overwrite) as stream:
                yield stream
            return
        _require_free(target, overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent.absolute())
        with _temporary(target.parent) as (temporary, stream):
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


@contextmanager
def _uploaded(target: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """A new file on this machine, which goes into a store when the block ends."""
    with tempfile.TemporaryDirectory(prefix="irn-") as place:
        finished = Path(place) / "finished"
        with finished.open("xb") as stream:
            yield stream
        try:
            upload(finished, target, overwrite=overwrite)
        except FileExistsError:
            raise _taken(target) from None


@contextmanager
def _temporary(directory: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file, locked until the block ends (so that nobody sweeps it), and removed then if it is still there."""
    while True:
        # Not by `tempfile`: its files are private, and how public others are is asked by setting the process's umask.
        path = directory / f".irn-{_HOST}-{secrets.token_hex(8)}.part"
        stream = path.open("xb")
        lock = os.dup(stream.fileno()) if fcntl else None  # outlasts the stream
        try:
            if fcntl and lock is not None:
                with suppress(OSError):  # a file system without locks: nothing is swept there
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not os.fstat(lock).st_nlink:  # swept before it was locked
                    continue
            yield path, stream
            return
        finally:
            stream.close()
            path.unlink(missing_ok=True)
            if lock is not None:
                os.close(lock)


@cache
def _sweep(directory: Path) -> None:
    """Remove what killed processes left half-written here; once for each directory and process."""
    for path in directory.glob(".irn-*.part"):
        here = fcntl is not None and path.name.startswith(f".irn-{_HOST}-")
        with suppress(OSError), path.open("r+b") as stream:
            if fcntl:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if here or path.stat().st_mtime < time.time() - _DAY:
                path.unlink()


def lock(stream: IO[bytes], *, shared: bool = False) -> bool:
    """Lock an open file for as long as it stays open; the lock of a process that is killed ends with it.

    Args:
        stream: the file.
        shared: whether others may hold such a lock beside ours.

    Returns:
        Whether we have it. Where there are no locks (Windows, some network file systems) we do.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def require_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Check, before long work, that `atomic_write` will likely succeed; nothing is written.

    Raises:
        OutputError: `path` exists (without `overwrite`), is a directory, or lies where nothing can be made.
    """
    target = to_path(path)
    if is_remote(target):  # only an upload shows
        return
    try:
        _require_free(target, overwrite)
        there = next(parent for parent in target.absolute().parents if _is_there(parent))
        if not there.is_dir():
            raise OutputError(f"cannot write {target}: {there} is not a directory")
    except OSError as error:
        raise _output_error(target, error) from error
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {target}: no permission to write in {there}")


def _require_free(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a directory")
    # Root would replace /dev/null for every program, or the link /dev/stdout, which may lead to a file.
    if (target.exists() and not target.is_file()) or (target.is_symlink() and "/proc/" in str(target.readlink())):
        raise OutputError(f"cannot write {target}: it is a device, a pipe or a socket, not a file")
    if not overwrite and _is_there(target):
        raise _taken(target)


def _is_there(path: Path) -> bool:
    """Whether something has this name, even a link that leads nowhere; `os.path.lexists` denies too long names."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _taken(target: Path) -> OutputError:
    return OutputError(f"{target} exists already", Code.EXISTS)


def _put_new(temporary: Path, target: Path) -> None:
    """Give `temporary` the name `target`, which must not exist; a hard link is the one such step that cannot race."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        # Some file systems (FAT, some network mounts) know no hard links: there an empty file claims the name.
        try:
            target.open("xb").close()
        except FileExistsError:
            raise _taken(target) from None
        temporary.replace(target)


def _output_error(target: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {target}: {error.strerror or error}")
