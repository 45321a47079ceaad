"""Which picture of a folder belongs to which original, by their names."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from irn_cli.errors import InputError, UsageError
from irn_cli.formats.known import unreadable
from irn_cli.inputs import walk
from irn_cli.paths import below, require_folder

Kind = Literal["restored", "small"]

_WORDS: dict[Kind, str] = {"restored": "SR|rlt|out|recon|up{n}", "small": "LR|LRBI|down|down{n}"}


class Folder:
    """A folder's pictures, found by the name of the original that they were made from.

    `baby.png` is found as `baby`, and with what programs put behind a name, several of them as well: the scale, the
    method's own name, and what says which of a method's pictures it is. In any format that irn reads.
    """

    def __init__(
        self,
        directory: Path,
        scale: int | None = None,
        method: str = "",
        kinds: Sequence[Kind] = ("restored", "small"),
    ) -> None:
        """List what is in a folder and below.

        Args:
            directory: the folder.
            scale: the factor in the suffixes; any where None.
            method: another name that may follow a picture's.
            kinds: which pictures to look for; some programs write both into one folder.

        Raises:
            UsageError: there is no such folder, or no picture in it.
        """
        require_folder(directory)
        self.directory = directory
        n = scale or r"\d"
        words = "|".join(_WORDS[kind].format(n=n) for kind in kinds)
        own = f"|[-_]{re.escape(method)}" if method else ""
        suffix = re.compile(rf"(?:_?x{n}|_(?:{words}){own})$", re.IGNORECASE)
        self.pictures = tuple(path for path in walk(directory) if not unreadable(path))
        self._found: dict[str, list[PurePosixPath]] = defaultdict(list)
        self._paths: dict[PurePosixPath, Path] = {}
        for path in self.pictures:
            place = _place(below(path, directory).as_posix())
            self._paths[place] = path
            for stem in _stems(place.stem, suffix):
                self._found[stem].append(place)
        self._folders = {parent for place in self._paths for parent in place.parents}
        if not self._found:
            raise UsageError(f"no pictures in {directory}")

    def find(self, name: str, dataset: str = "") -> Path:
        """Find what belongs to an original.

        Args:
            name: its path within its data set.
            dataset: its data set; where the folder has a sub-folder of that name, only what is in there counts.

        Raises:
            InputError: there is none, or more than one.
        """
        original, folder = _place(name), _place(dataset)
        found: Sequence[PurePosixPath] = self._found.get(original.stem, [])
        if folder in self._folders:
            original, found = folder / original, [path for path in found if path.is_relative_to(folder)]
        found = [path for path in found if path.parent == original.parent] or found
        if original in found and all(path.stem == original.stem for path in found):
            found = [original]  # the others are further originals, told apart by their formats
        if not found:
            begins = re.compile(rf"{re.escape(original.stem)}[-_]").match
            near = next((f"; {path.name} has an unknown suffix" for path in self.pictures if begins(path.stem)), "")
            raise InputError(f"no picture for {name} in {self.directory}{near}")
        if len(found) > 1:
            raise InputError(f"expected one picture for {name} in {self.directory}, found {', '.join(map(str, found))}")
        return self._paths[found[0]]


def _place(path: str) -> PurePosixPath:
    """A path within a folder; a Mac may have written its accents in another way than the originals'."""
    return PurePosixPath(unicodedata.normalize("NFC", path))


def _stems(stem: str, suffix: re.Pattern[str]) -> list[str]:
    """A stem, and what is left of it as one suffix after another is taken off."""
    stems = [stem]
    while (shorter := suffix.sub("", stems[-1])) != stems[-1] and shorter:
        stems.append(shorter)
    return stems
