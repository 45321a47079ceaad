"""Paths as users write them: of this machine, or of an object store (`s3://`, `gs://` ...) through fsspec.

A store's path is a `UPath` of universal_pathlib, which has pathlib's methods and passes for a `Path` here. Whatever
asks a store goes through the functions of this module, which raise `OSError` where that fails: clients of stores raise
what they like.
"""

import errno
import io
import os
import posixpath
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from irn_cli.errors import UsageError

_AT_ONCE = 32  # requests to a store, each of which takes its time
_AHEAD = 1 << 18  # bytes fetched at once of a file of which only the beginning is wanted

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def to_path(text: str | os.PathLike[str]) -> Path:
    """The path that a text means: `photos/a.jpg`, `file:///photos/a.jpg`, `s3://bucket/photos/a.jpg`.

    Raises:
        UsageError: nothing is installed that opens such a URL.
    """
    if not isinstance(text, str):
        return cast("Path", text) if is_remote(text) else Path(text)
    scheme, colon, rest = text.partition("://")
    if not colon or not scheme.isalnum():
        return Path(text)
    if scheme in ("file", "local"):
        return Path(rest)
    try:
        from upath import UPath

        path = UPath(text, use_listings_cache=False)  # others write there meanwhile
        path.fs  # noqa: B018  # imports the store's client
    except (ImportError, ValueError) as error:
        raise UsageError(f"cannot open {text}: {error}; pip install 'irn-cli[remote]' opens s3:// and gs://") from error
    return cast("Path", path)


def is_remote(path: object) -> bool:
    """Whether a path is an object store's; an open file of fsspec's, which knows its store too, is none."""
    return hasattr(path, "fs") and not hasattr(path, "read")


def exists(path: Path) -> bool:
    """Whether anything has that name, even a link that leads nowhere."""
    return _ask(path, "exists") if is_remote(path) else os.path.lexists(path)


def is_file(path: Path) -> bool:
    """Whether a path is a file."""
    return _ask(path, "isfile") if is_remote(path) else path.is_file()


def is_directory(path: Path) -> bool:
    """Whether a path is a directory; in a store, whether any name begins with it."""
    return _ask(path, "isdir") if is_remote(path) else path.is_dir()


def require_folder(path: Path) -> None:
    """Make sure that a path is a directory.

    Raises:
        UsageError: it is not, or the store does not answer.
    """
    try:
        if not is_directory(path):
            raise UsageError(f"no folder {path}")
    except OSError as error:
        raise UsageError(f"no folder {path}: {error.strerror or error}") from error


def modified(path: Path, *, follow_links: bool = True) -> float:
    """When a file was changed last, in seconds; where its date is still to come, when the file system saw a change."""
    if is_remote(path):
        return float(_ask(path, "modified").timestamp())
    status = path.stat(follow_symlinks=follow_links)
    return status.st_mtime if status.st_mtime <= time.time() else min(status.st_mtime, status.st_ctime)


def byte_count(path: Path) -> int:
    """Bytes of a file."""
    return int(_ask(path, "size")) if is_remote(path) else path.stat().st_size


def find(directory: Path, pattern: str | None = None) -> list[Path]:
    """All files at any depth below a store's directory, or those that match a pattern below it, by name."""
    place = directory.path  # type: ignore[attr-defined]
    if pattern is None:
        keys = _ask(directory, "find")
    else:
        matches = _ask(directory, "glob", at=posixpath.join(place, pattern), detail=True)
        keys = [key for key, about in matches.items() if about["type"] == "file"]
    return [directory / posixpath.relpath(key, place) for key in sorted(keys)]


def below(path: Path, directory: Path) -> Path:
    """A path as seen from a directory above it: a local one, by which another tree can be made."""
    return Path(posixpath.relpath(str(path), str(directory))) if is_remote(path) else path.relative_to(directory)


def real_path(path: Path) -> Path:
    """A path without links and without `..`; where links lead in circles, as far as that goes."""
    return Path(os.path.realpath(path))  # `Path.resolve` raises RuntimeError on circles, before Python 3.13


def require_file(path: Path) -> None:
    """Refuse to read what may never end, or never begin: a device, or a pipe that waits for a program to write into it.

    A shell's `<(command)` is a pipe too, but one that is open already.

    Raises:
        OSError: the path is none that can be read as a file, or does not exist.
    """
    mode = path.stat().st_mode
    is_open = os.path.realpath(path).startswith(("/proc/", "/dev/fd/"))
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (stat.S_ISFIFO(mode) and is_open)):
        raise OSError(errno.EINVAL, "it is a device, a pipe or a socket, not a file", str(path))


def open_file(path: Path, *, whole: bool = True) -> BinaryIO:
    """Open a file for reading: `whole` if all of it will be read, which a store then gives at one request."""
    if not is_remote(path):
        require_file(path)
        return path.open("rb")
    if whole:
        return io.BytesIO(_ask(path, "cat_file"))
    return cast("BinaryIO", _ask(path, "open", mode="rb", block_size=_AHEAD))


@contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """A file of this machine with a path's content: the file itself, or a copy for as long as the block lasts."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="irn-") as place:
        copy = Path(place) / "fetched"
        copy.write_bytes(_ask(path, "cat_file"))
        yield copy


def upload(file: Path, path: Path, *, overwrite: bool) -> None:
    """Put a finished file into a store, where it appears whole or not at all.

    Raises:
        FileExistsError: there is one already, and `overwrite` is false.
    """
    if not overwrite and exists(path):  # not every store's client looks
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _os_errors(path):
        fs, place = path.fs, path.path  # type: ignore[attr-defined]
        fs.put_file(str(file), place, mode="overwrite" if overwrite else "create")


def same_file(a: Path, b: Path) -> bool:
    """Whether two names that exist are one file's: by a link, or where case does not tell names apart."""
    return a == b if is_remote(a) or is_remote(b) else os.path.samestat(a.lstat(), b.lstat())


def remove(path: Path) -> None:
    """Remove a file."""
    if is_remote(path):
        _ask(path, "rm_file")
    else:
        path.unlink()


def map_paths(function: Callable[[ItemT], ResultT], items: Sequence[ItemT], *, remote: bool) -> list[ResultT]:
    """Call a function with each item; where it asks a store, for many at the same time."""
    if not remote:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, items))


def _ask(path: Path, method: str, *, at: str | None = None, **options: Any) -> Any:
    """What a store says of a path, or of another in it."""
    with _os_errors(path):
        return getattr(path.fs, method)(at or path.path, **options)  # type: ignore[attr-defined]


@contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, str(error) or type(error).__name__, str(path)) from error
