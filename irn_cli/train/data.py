"""Training pictures: found, decoded once, and held as one row of bytes."""

import hashlib
import json
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from torch import Tensor

from irn_cli.errors import InputError, IrnError
from irn_cli.evaluation.dataset import read_original
from irn_cli.files import atomic_write, lock
from irn_cli.hardware import usable_memory
from irn_cli.paths import real_path

_KEPT_SECONDS = 30 * 24 * 3600  # how long decoded pictures are kept that no run uses


@dataclass(frozen=True, eq=False)
class Pictures:
    """Decoded pictures, each cropped to a multiple of the scale and at least as large as a crop."""

    pixels: Tensor  # (N, 3) uint8: all pictures' RGB pixels in reading order, one picture after another
    places: Tensor  # (K, 3) int64: each picture's first row in `pixels`, its height and its width
    stamp: str  # changes with the files and with how they were cropped
    skipped: tuple[str, ...]  # files that are not used, and why

    def __len__(self) -> int:
        return len(self.places)


def hold_out(
    paths: Sequence[Path], count: int, usable: Callable[[Path], bool] = lambda _: True
) -> tuple[list[Path], list[Path]]:
    """Split files into those to train on and those to validate on, the same on every machine.

    Held out are the `count` usable files (at most a tenth of all) whose names' SHA-256 sort first.
    """
    ranked = sorted(paths, key=lambda path: hashlib.sha256(path.name.encode(errors="surrogateescape")).digest())
    held = set(islice(filter(usable, ranked), min(count, len(paths) // 10)))
    return [path for path in paths if path not in held], [path for path in paths if path in held]


def load_pictures(
    paths: Sequence[Path], scale: int, smallest: int, limit: int | None = None, *, include_own: bool = False
) -> Pictures:
    """Decode pictures into memory or, where they exceed a limit, into a memory-mapped file that later runs reuse.

    Files that cannot be read or are too small are left out, and small pictures of irn's that only the mark in their
    pixels tells; `Pictures.skipped` lists them.

    Args:
        paths: picture files, in the order in which they are to be held.
        scale: pictures are cropped to a multiple of it, at the right and the bottom.
        smallest: pictures with a side below this are left out.
        limit: bytes to hold in memory at most; a third of what the machine has by default.
        include_own: take pictures that irn made for originals too.

    Raises:
        InputError: not one picture can be used.
        OutputError: the cache cannot be written.
    """
    stamp = picture_stamp(paths, scale, smallest)
    kept = cache_directory() / (stamp + "-own" * include_own)
    index, mapped = kept.with_suffix(".json"), kept.with_suffix(".pixels")
    with suppress(OSError):  # there is none, it may not be read, or another process has just swept it
        return _cached(index, mapped, stamp)
    limit = usable_memory() // 3 if limit is None else limit
    rows, places, skipped, count = bytearray(), [], [], 0
    with ExitStack() as stack:
        file = None
        for path, picture in _decoded(paths, include_own):
            if isinstance(picture, str):
                skipped.append(picture)
                continue
            height, width = (side - side % scale for side in picture.shape[:2])
            if min(height, width) < smallest:
                size = f"{picture.shape[1]}x{picture.shape[0]}"
                skipped.append(f"{path} is smaller than a crop: expected at least {smallest}x{smallest}, found {size}")
                continue
            places.append((count, height, width))
            count += height * width
            rows += np.ascontiguousarray(picture[:height, :width]).data
            if file is None and len(rows) > limit:
                file = stack.enter_context(atomic_write(mapped, overwrite=True))
            if file is not None:
                file.write(rows)
                rows.clear()
        if not places:
            raise InputError(f"none of {len(paths)} pictures can be used; the first: {skipped[0]}")
    if file is None:
        pixels = torch.frombuffer(rows, dtype=torch.uint8).view(-1, 3)
        return Pictures(pixels, torch.tensor(places), stamp, tuple(skipped))
    with atomic_write(index, overwrite=True) as stream:
        stream.write(json.dumps({"places": places, "skipped": skipped}).encode())
    return _mapped(mapped, places, stamp, skipped)


def cache_directory() -> Path:
    """Where decoded pictures that exceed the memory limit are kept; it can be deleted at any time."""
    return Path(platformdirs.user_cache_dir("irn", appauthor=False)) / "training"


def sweep_cache() -> int:
    """Remove decoded pictures that no run uses or has begun with for a month; returns the bytes that this frees."""
    freed = 0
    with suppress(PermissionError):  # another user's
        for mapped in cache_directory().glob("*.pixels"):
            with suppress(OSError):  # another process has removed it meanwhile, or may only read it
                freed += _swept(mapped)
    return freed


def _swept(mapped: Path) -> int:
    index = mapped.with_suffix(".json")
    size, last = mapped.stat().st_size, max(path.stat().st_mtime for path in (mapped, index) if path.exists())
    if time.time() - last <= _KEPT_SECONDS:
        return 0
    with mapped.open("rb") as stream:
        if not lock(stream):
            return 0
        index.unlink(missing_ok=True)
        mapped.unlink()
    return size


def _cached(index: Path, mapped: Path, stamp: str) -> Pictures:
    with suppress(PermissionError):
        os.utime(index)  # it is in use
    known = json.loads(index.read_text(encoding="utf-8"))  # written last: with it, the pixels are whole
    return _mapped(mapped, known["places"], stamp, known["skipped"])


def _mapped(path: Path, places: Sequence[Sequence[int]], stamp: str, skipped: Sequence[str]) -> Pictures:
    with path.open("rb") as stream:
        lock(stream, shared=True)  # for as long as it is mapped
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)  # writable, or torch warns; nobody writes
    pixels = torch.frombuffer(mapped, dtype=torch.uint8)
    return Pictures(pixels.view(-1, 3), torch.tensor(places), stamp, tuple(skipped))


def picture_stamp(paths: Sequence[Path], scale: int, smallest: int) -> str:
    """Changes with what decoded pixels depend on: which files, as they are now, and how they are cropped."""
    digest = hashlib.sha256(repr((scale, smallest)).encode())
    for path in paths:
        try:
            status = path.stat()
            found: tuple[object, ...] = (str(real_path(path)), status.st_size, status.st_mtime_ns)
        except OSError as error:  # it will be left out: a link that leads nowhere, a folder that may not be searched
            found = (str(path), error.errno)
        digest.update(repr(found).encode())
    return digest.hexdigest()[:32]


def _decoded(paths: Sequence[Path], include_own: bool) -> Iterator[tuple[Path, NDArray[np.uint8] | str]]:
    """Each path's pixels, (H, W, 3), or what is wrong with it; a few dozen decoded ahead."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), 64):
            some = paths[start : start + 64]
            yield from zip(some, pool.map(_decode, some, repeat(include_own)), strict=True)


def _decode(path: Path, include_own: bool) -> NDArray[np.uint8] | str:
    try:
        return read_original(path, include_own=include_own).pixels
    except IrnError as error:
        return str(error)
