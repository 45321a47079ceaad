"""The files that a command line means: names, directories, patterns, lists, standard input; and which share of them."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from irn_cli.errors import InputError, UsageError
from irn_cli.image import FOREIGN, SUFFIXES, Header, peek

STREAM = Path("-")  # standard input; as an output, standard output
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Input:
    """A file, or standard input."""

    path: Path
    place: Path  # its directory below the one that was given; mirrored below the output's
    named: bool  # given by name or list, not found in a directory or by a pattern
    header: Header | None  # None where it cannot be read; that is told when its turn comes
    missing: str = ""  # why there is no such input


def find_pictures(sources: Sequence[str], listed: Iterable[str] = ()) -> list[Input]:
    """Find the files that command-line arguments mean.

    Args:
        sources: files; directories, searched to the bottom for names that look like a picture's (not hidden ones); glob
            patterns that the shell did not expand; `-` for standard input.
        listed: more files, from a list.

    Returns:
        Each file once: first what was found in directories and by patterns, sorted, then what was named; last what is
        not there. Named files lie relative to the deepest directory that holds all of them.

    Raises:
        InputError: nothing is there: no such file, or a directory or pattern that holds no picture.
    """
    named: list[Path] = []
    found: dict[Path, Path] = {}
    missing: dict[Path, str] = {}
    for source in sources:
        path = Path(source)
        if path == STREAM or path.is_file():
            named.append(path)
        elif source and path.is_dir():
            found.update(files := _in_directory(path))
            if not files:
                missing[path] = f"no pictures in {path}"
        elif _WILDCARDS & set(source):
            found.update(files := _by_pattern(path))
            if not files:
                missing[path] = f"no file matches {path}"
        elif source and path.exists():
            missing[path] = f"{path} is neither a file nor a directory; - reads standard input"
        else:
            missing[path] = f"no such file or directory: {source}"
    named.extend(map(Path, listed))
    if missing and not (found or named):
        raise InputError(next(iter(missing.values())))
    named = [path for path in dict.fromkeys(named) if path not in found]
    directories = {path: path.parent.resolve() for path in named if path != STREAM}
    common = os.path.commonpath(directories.values()) if directories else ""
    return [
        *(Input(path, place, False, _peek(path)) for path, place in found.items()),
        *(Input(path, directories.get(path, Path(common)).relative_to(common), True, _peek(path)) for path in named),
        *(Input(path, Path(), True, None, reason) for path, reason in missing.items()),
    ]


def _in_directory(directory: Path) -> dict[Path, Path]:
    files = walk(directory, SUFFIXES | FOREIGN)
    return {file: Path() if file == directory else file.parent.relative_to(directory) for file in files}


def walk(directory: Path, suffixes: Set[str] = SUFFIXES) -> Iterator[Path]:
    """Find what is named like a picture in a directory and below, in order; hidden names and linked directories not.

    A directory that may not be searched stands for what is in it: whoever reads it learns why that is left out.
    """
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        yield directory
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from walk(entry, suffixes)
        elif entry.suffix.lower() in suffixes and entry.is_file():
            yield entry


def _by_pattern(pattern: Path) -> dict[Path, Path]:
    parts = pattern.parts
    plain = next(index for index, part in enumerate(parts) if _WILDCARDS & set(part))
    base = Path(*parts[:plain])
    files = {}
    for match in sorted(base.glob(str(Path(*parts[plain:])))):
        below = match.relative_to(base)
        if match.is_file() and not any(part.startswith(".") for part in below.parts):
            files[match] = below.parent
    return files


def _peek(path: Path) -> Header | None:
    try:
        return None if path == STREAM else peek(path)
    except InputError:
        return None


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
        left, slash, right = text.partition("/")
        if not (slash and left.isdecimal() and right.isdecimal()):
            raise UsageError(f"--shard {text}: expected I/N, as 1/8, or slurm")
        index, count = int(left), int(right)
    if not 1 <= index <= count:
        raise UsageError(f"--shard {text}: expected a share from 1 to {count}, not {index}")
    return index, count
