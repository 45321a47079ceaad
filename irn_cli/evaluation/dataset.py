"""The pictures that methods are measured on, found in folders and made ready by the papers' protocol."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from irn_cli import resize
from irn_cli.errors import InputError, IrnError, UsageError
from irn_cli.image import peek, read
from irn_cli.inputs import walk
from irn_cli.mark import find as find_mark
from irn_cli.metrics import WINDOW
from irn_cli.paths import below, is_remote, map_paths, real_path, require_folder
from irn_cli.picture import Picture

# The papers measure a picture of one channel as it is. Copies of this one in a format without grey (WebP) no longer
# tell that it has one; `man` beside it always had three, equal ones, and counts as colour.
_GREY = {("set14", "bridge")}


@dataclass(frozen=True)
class DataSet:
    """Pictures to measure on."""

    name: str
    directory: Path
    pictures: tuple[Path, ...]
    own: tuple[Path, ...] = ()  # pictures that irn made, which are left out
    include_own: bool = False  # whether such are measured, instead

    @property
    def remark(self) -> str:
        """A line about what is left out; empty if nothing is."""
        if not self.own:
            return ""
        return f"left out as made by irn: {len(self.own)}, the first is {self.own[0]}; include-own takes them too"


@dataclass(frozen=True, eq=False)
class Original:
    """A picture as it is measured, and the small picture that an ordinary program would make of it."""

    dataset: str
    name: str  # the picture's path within its data set
    picture: Picture  # cropped to a multiple of the scale; pixels and mode only
    guide: NDArray[np.uint8]  # (H/s, W/s, 3), bicubic, rounded
    size: tuple[int, int]  # (H, W) before it was cropped
    # Bytes of the first method's small picture, once that is known: what a codec may spend on the whole picture.
    budget: Future[int] = field(default_factory=Future)


def find_data_set(directory: Path, name: str | None = None, *, include_own: bool = False) -> DataSet:
    """Find the pictures in a folder and its sub-folders, in the order of their names.

    Those of formats that we do not read are among them: reading them reports that they are left out.

    Args:
        directory: the folder.
        name: what the results call the set; the folder's name where None.
        include_own: take pictures that irn made for originals too.

    Raises:
        UsageError: there is no such folder, or no picture in it.
    """
    require_folder(directory)
    found = tuple(walk(directory))
    own: tuple[Path, ...] = ()
    if not include_own:
        flags = map_paths(_is_own, found, remote=is_remote(directory))
        own = tuple(path for path, is_own in zip(found, flags, strict=True) if is_own)
    if not found:
        raise UsageError(f"no pictures in {directory}")
    if len(own) == len(found):
        raise UsageError(f"no pictures in {directory} but those that irn made; include-own takes them")
    left_out = frozenset(own)
    pictures = tuple(path for path in found if path not in left_out)
    return DataSet(name or _name(directory), directory, pictures, own, include_own)


def _name(directory: Path) -> str:
    return directory.name or str(directory) if is_remote(directory) else real_path(directory).name


def _is_own(path: Path) -> bool:
    try:
        return peek(path).record is not None
    except IrnError:
        return False  # whoever reads it reports what is wrong


def find_data_sets(directories: Sequence[Path], *, include_own: bool = False) -> list[DataSet]:
    """Find several data sets; folders of one name are told apart by their paths.

    Raises:
        UsageError: one is no folder, has no picture in it, or is given twice.
    """
    names = unambiguous([_name(path) for path in directories], [str(path) for path in directories])
    pairs = zip(directories, names, strict=True)
    return [find_data_set(path, name, include_own=include_own) for path, name in pairs]


def unambiguous(names: Sequence[str], longer: Sequence[str]) -> list[str]:
    """Each name, or its longer form where several things share it.

    Raises:
        UsageError: two longer forms are alike as well.
    """
    chosen = [long if names.count(name) > 1 else name for name, long in zip(names, longer, strict=True)]
    for name in chosen:
        if chosen.count(name) > 1:
            raise UsageError(f"{name} is given twice")
    return chosen


def read_original(path: Path, *, include_own: bool) -> Picture:
    """Read a picture to be measured or learned from.

    Raises:
        InputError: it cannot be read, or irn made it, as the mark in its pixels tells where the record is stripped.
    """
    picture = read(path)
    if not include_own and find_mark(picture):
        raise InputError(f"{path}: irn made it, though its record was stripped; include-own takes it too")
    return picture


def load(dataset: DataSet, path: Path, scale: int, crop: int) -> Original:
    """Read a picture and make of it what is measured.

    Args:
        dataset: the set that it belongs to.
        path: the picture.
        scale: how many times smaller the small picture is to be.
        crop: pixels that will be taken off each border of the restored picture.

    Raises:
        InputError: it cannot be read, is too small, or one that irn made though only the mark in its pixels tells.
    """
    picture = read_original(path, include_own=dataset.include_own)
    height, width = (side - side % scale for side in picture.size)
    need = max(WINDOW, -(-(WINDOW + 2 * crop) // scale)) * scale
    if min(height, width) < need:
        found = " x ".join(map(str, picture.size[::-1]))
        raise InputError(f"{path} is too small to be measured: expected at least {need} pixels a side, found {found}")
    mode = "L" if (dataset.name.lower(), path.stem.lower()) in _GREY else picture.mode
    cropped = Picture(np.ascontiguousarray(picture.pixels[:height, :width]), mode=mode)
    guide = resize.bicubic_small(cropped.pixels, scale).round().astype(np.uint8)
    return Original(dataset.name, below(path, dataset.directory).as_posix(), cropped, guide, picture.size)
