"""The files that a command line means: names, directories, patterns, lists, standard input; and which share of them."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

from irn_cli.errors import InputError, UsageError, one_line
from irn_cli.formats.known import PICTURES
from irn_cli.image import Header, peek
from irn_cli.paths import below, find, is_directory, is_file, is_remote, map_paths, to_path

STREAM = Path("-")  # standard input; as an output, standard output
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Input:
    """A file, or standard input."""

    path: Path
    place: Path  # its directory below the one that was given; mirrored below the output's
    named: bool  # given by name or list, not found in a directory or by a pattern
    header: Header | None  # None where it cannot be read: its turn will show why
    missing: str = ""  # why there is no such input


def find_pictures(sources: Sequence[str], listed: Iterable[str] = ()) -> list[Input]:
    """Find the files that command-line arguments mean.

    Args:
        sources: files; directories, searched to the bottom for names that look like a picture's (not hidden ones); glob
            patterns that the shell did not expand; `-` for standard input.
        listed: more files, from a list.

    Returns:
        Each file once, however it is spelled: first what was found in directories and by patterns, sorted, then what
        was named; last what is not there. Named files lie relative to the deepest directory that holds all of them.

    Raises:
        InputError: nothing is there: no such file, or a directory or pattern that holds no picture.
    """
    named: list[Path] = []
    found: dict[Path, Path] = {}
    missing: dict[Path, str] = {}
    for source in sources:
        path = to_path(source)
        try:
            files, reason = _in_store(path) if is_remote(path) else _meant(source, path)
        except OSError as error:
            files, reason = {}, f"{path}: {error.strerror}"
        if files is None:
            named.append(path)
        elif files:
            found.update(files)
        else:
            missing[path] = reason
    for name in listed:
        if "\0" in name:
            missing[Path(one_line(name))] = "a name with zero bytes in it: -0 reads lists that `find -print0` writes"
        elif to_path(name) == STREAM:
            missing[STREAM] = "a list names files, not standard input"
        else:
            named.append(to_path(name))
    if missing and not (found or named):
        raise InputError(next(iter(missing.values())))
    identity = identifier()
    first = {identity(path): path for path in reversed([*found, *named])}  # of its spellings
    found = {path: place for path, place in found.items() if first[identity(path)] is path}
    named = [path for path in named if first[identity(path)] is path]
    directories = {path: _directory(identity(path)) for path in named if path != STREAM}
    common = os.path.commonpath(directories.values()) if directories else ""
    places = {path: directories.get(path, Path(common)).relative_to(common) for path in named}
    look = partial(_input, found=found, named=places)
    return [
        *map_paths(look, [*found, *named], remote=any(map(is_remote, [*found, *named]))),
        *(Input(path, Path(), True, None, reason) for path, reason in missing.items()),
    ]


def identifier() -> Callable[[Path], Path]:
    """A function that gives the same for all spellings of a file's name; links to the file are other files.

    It remembers directories: links that change meanwhile it does not see.
    """
    real = cache(os.path.realpath)
    return lambda path: path if path == STREAM or is_remote(path) else Path(real(path.parent), path.name)


def _directory(path: Path) -> Path:
    """Where a file lies, as a place in one tree of all stores and of this machine."""
    return Path(f"/{path.parent}") if is_remote(path) else path.parent


def _meant(source: str, path: Path) -> tuple[dict[Path, Path] | None, str]:
    """The files that an argument means, each with its place; None if it names one file. And why, if there are none."""
    if path == STREAM or path.is_file():
        return None, ""
    if source and path.is_dir():
        return _in_directory(path), f"no pictures in {path}"
    if _WILDCARDS & set(source):
        return _by_pattern(path), f"no file matches {path}"
    if source and path.exists():
        return {}, f"{path} is neither a file nor a directory; - reads standard input"
    if path.is_symlink():
        return {}, f"{path} is a link that leads nowhere"
    return {}, f"no such file or directory: {source}"


def _in_store(path: Path) -> tuple[dict[Path, Path] | None, str]:
    """As `_meant`, in an object store."""
    parts = path.parts
    if is_file(path):
        return None, ""
    if is_directory(path):
        return _in_directory(path), f"no pictures in {path}"
    if plain := next((index for index, part in enumerate(parts) if _WILDCARDS & set(part)), 0):
        base = path.parents[len(parts) - plain - 1]
        return _shown(find(base, _pattern(parts[plain:])), base), f"no file matches {path}"
    return {}, f"no such file or directory: {path}"


def _in_directory(directory: Path) -> dict[Path, Path]:
    return {file: Path() if file == directory else below(file, directory).parent for file in walk(directory)}


def walk(directory: Path) -> Iterator[Path]:
    """Find what is named like a picture in a directory and below, in order; hidden names and linked folders left out.

    Pictures of formats that we do not read are among them: whoever reads them reports that they are left out. Likewise,
    a directory that may not be searched stands for what is in it, and so does a link that leads nowhere: whoever reads
    it learns why that is left out.
    """
    if is_remote(directory):
        yield from _shown((file for file in find(directory) if file.suffix.lower() in PICTURES), directory)
        return
    pending = [(directory, True)]  # each with whether it is a directory; the last is the next
    while pending:
        path, is_directory = pending.pop()
        if not is_directory:
            yield path
            continue
        try:
            with os.scandir(path) as entries:
                found = [(path / entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except OSError:
            yield path
            continue
        for entry, is_directory in sorted(found, reverse=True):
            if entry.name.startswith("."):
                continue
            if is_directory or (entry.suffix.lower() in PICTURES and _may_be_file(entry)):
                pending.append((entry, is_directory))


def _may_be_file(path: Path) -> bool:
    """Whether a path is a file, or may be one: its directory cannot be searched, or it is a link that leads nowhere."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _by_pattern(pattern: Path) -> dict[Path, Path]:
    parts = pattern.parts
    plain = next(index for index, part in enumerate(parts) if _WILDCARDS & set(part))
    base = Path(*parts[:plain])
    matches = sorted(base.glob(_pattern(parts[plain:])))
    return _shown(filter(_may_be_file, matches), base)


def _pattern(parts: Iterable[str]) -> str:
    """A glob pattern of names; within one, as in `a**b`, two asterisks are one, as shells have it."""
    return "/".join(part if part == "**" else re.sub(r"\*+", "*", part) for part in parts)


def _shown(files: Iterable[Path], directory: Path) -> dict[Path, Path]:
    """Files and their places below a directory, without those that are hidden, or in a hidden directory."""
    places = {file: below(file, directory) for file in files}
    hidden = {file for file, place in places.items() if any(part.startswith(".") for part in place.parts)}
    return {file: place.parent for file, place in places.items() if file not in hidden}


def _input(path: Path, found: Mapping[Path, Path], named: Mapping[Path, Path]) -> Input:
    is_named = path in named
    place = named[path] if is_named else found[path]
    try:
        return Input(path, place, is_named, None if path == STREAM else peek(path))
    except InputError:
        reason = ""
        if is_remote(path):
            pass  # its turn will show why
        elif os.path.isdir(path):  # noqa: PTH112  # `Path`'s methods may raise
            reason = (
                f"{path} is a directory: a list names files" if is_named else f"cannot read {path}: Permission denied"
            )
        elif os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114
            reason = f"{path} is a link that leads nowhere"
        return Input(path, place, is_named, None, reason)


def read_list(stream: BinaryIO, *, zeros: bool) -> list[str]:
    """Read names of files, one a line, or each ended by a zero byte as `find -print0` writes them."""
    names = stream.read().split(b"\0" if zeros else b"\n")
    return [os.fsdecode(name if zeros else name.removesuffix(b"\r")) for name in names if name.strip(b"\r")]


def parse_shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Turn `I/N` (from 1), or `slurm` and the environment of a Slurm array's task, into (I, N).

    Raises:
        UsageError: the text is neither, I is not within 1 to N, or there is no such task.
    """
    if text == "slurm":
        names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "STEP", "COUNT")]
        try:
            task, first, step, count = (int(environment[name]) for name in names)
        except KeyError as error:
            raise UsageError(f"--shard slurm: expected a Slurm array's task, but {error.args[0]} is not set") from None
        except ValueError:
            raise UsageError(f"--shard slurm: expected whole numbers in {', '.join(names)}") from None
        index = (task - first) // max(step, 1) + 1
    else:
        match = re.fullmatch(r"(\d{1,18})/(\d{1,18})", text)
        if not match:
            raise UsageError(f"--shard {text}: expected I/N, as 1/8, or slurm")
        index, count = int(match[1]), int(match[2])
    if not 1 <= index <= count:
        raise UsageError(f"--shard {text}: expected a share from 1 to {count}, not {index}")
    return index, count
