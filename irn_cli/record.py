"""What a picture that we made remembers, so that `irn upscale` needs no flags: to and from text.

A small picture carries a `Record`, a restored one a `Restored`; both are one JSON object in a text chunk of the file
(or in its XMP). The reader takes fields that it does not know as a later version's and leaves them out.
"""

import base64
import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from irn_cli.errors import RecordError

# Counts up when an older reader could no longer restore a newer small picture rightly. A picture that needs nothing of
# what a format brought is written in the one before.
FORMAT = 3
_WIDEST = 64  # pixels of the small picture: a wider border would be nothing but a way to fill somebody's memory

Value = TypeVar("Value")


def _since(version: int, default: Value) -> Value:
    """A field that was added later, with the format from which on a reader must know it."""
    return dataclasses.field(default=default, metadata={"since": version})


@dataclass(frozen=True)
class Record:
    """What a small picture remembers of the picture that it was made from."""

    scale: int  # how many times smaller each side is: 2, 4 or 8
    width: int  # of the original, after its EXIF orientation was applied
    height: int
    mode: str  # the original's colours: "RGB" or "L" (grey)
    model: str  # name of the weights that made it: irn-x4
    revision: str  # their revision
    weights: str  # their hash (`weights_hash`), hexadecimal SHA-256
    pixels: str  # the small picture's own pixels (`hash_pixels`): whether they have changed since
    grey_icc: str = ""  # a grey original's colour profile, base64: it may not stand in the small picture, which is RGB
    method: str = _since(2, "network")  # or "bicubic": a tiny picture that interpolation both ways restores better
    border: str = _since(2, "zero")  # what surrounded it in the network: `border.Border`'s kind, rows and columns
    border_rows: int = _since(2, 0)
    border_columns: int = _since(2, 0)
    orientation: int = _since(3, 1)  # EXIF's number of how the upright picture lay in the network
    name: str = _since(1, "")  # of the original's file, without directories
    format: str = _since(1, "")  # of that file: "jpeg", "png", "webp", "tiff", "bmp", "gif", "avif", "heif" or "jxl"

    def __post_init__(self) -> None:
        sides = (self.width, self.height)
        if self.scale not in (2, 4, 8) or not all(type(side) is int and 0 < side < 2**31 for side in sides):
            raise RecordError(f"a record of impossible sizes: {self.width}x{self.height}, {self.scale} times smaller")
        if self.mode not in ("RGB", "L"):
            raise RecordError(f"a record of an unknown colour mode: expected RGB or L, found {self.mode!r}")
        if self.method not in ("network", "bicubic") or self.border not in ("zero", "mirror", "edge"):
            raise RecordError(f"a record of an unknown method {self.method!r} or border {self.border!r}")
        if not all(0 <= margin <= _WIDEST for margin in (self.border_rows, self.border_columns)):
            raise RecordError(f"a record of an impossible border: {self.border_rows} x {self.border_columns}")
        if not 1 <= self.orientation <= 8:
            raise RecordError(f"a record of an unknown orientation: expected 1 to 8, found {self.orientation}")
        if re.search("[/\0]", self.name) or self.name in (".", ".."):
            raise RecordError(f"a record whose 'name' is not a file's: {self.name[:80]!r}")
        for name in ("weights", "pixels"):
            if not re.fullmatch("[0-9a-f]{64}", getattr(self, name)):
                raise RecordError(f"a record whose {name!r} is not a SHA-256: {getattr(self, name)[:80]!r}")
        try:
            base64.b64decode(self.grey_icc, validate=True)
        except ValueError as error:
            raise RecordError(f"a record whose 'grey_icc' is not base64: {error}") from None

    @property
    def small_size(self) -> tuple[int, int]:
        """(height, width) that the small picture must have."""
        return -(-self.height // self.scale), -(-self.width // self.scale)


@dataclass(frozen=True)
class Restored:
    """What a restored picture remembers: how it was made, and that it is no original."""

    scale: int  # how many times larger than the small picture
    model: str
    revision: str
    weights: str  # hash of the weights that restored it
    seed: int  # the latent's draw; the three are 0 where a kept latent was used
    temperature: float
    sample: int
    name: str = _since(1, "")  # of the original's file; of the small picture's, where that had no record


def to_text(record: Record | Restored) -> str:
    """Write a record as one line of JSON in ASCII."""
    kind = "small" if isinstance(record, Record) else "restored"
    version, values = 1, {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if "since" not in field.metadata or value != field.default:
            version, values[field.name] = max(version, field.metadata.get("since", 1)), value
    return json.dumps({"irn": version, "kind": kind, **values}, separators=(",", ":"))


def is_record(text: str) -> bool:
    """Whether a text is a record, even a damaged or too new one; another program's text may have the same key."""
    return re.match(r'\s*\{\s*"irn"\s*:', text) is not None


def from_text(text: str) -> Record | Restored:
    """Read what `to_text` wrote.

    Raises:
        RecordError: the text is not a record, misses a field, or was written by a later version in a newer format.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(f"a damaged record: expected JSON, found {text[:40]!r}") from None
    if not isinstance(fields, dict) or type(fields.get("irn")) is not int:
        raise RecordError(f"a damaged record: expected an object with a format number, found {text[:40]!r}")
    if fields["irn"] > FORMAT:
        raise RecordError(f"a record of format {fields['irn']}: a newer irn is needed, this one reads up to {FORMAT}")
    kinds: dict[Any, type[Record | Restored]] = {"small": Record, "restored": Restored}
    kind = kinds.get(fields.get("kind") if isinstance(fields.get("kind"), str) else None)
    if kind is None:
        raise RecordError(f"a record of an unknown kind {str(fields.get('kind'))[:40]!r}")
    known = {}
    for field in dataclasses.fields(kind):
        if field.name not in fields:
            if field.default is dataclasses.MISSING:
                raise RecordError(f"a damaged record: no {field.name!r} in it")
            continue
        known[field.name] = _checked(field.name, fields[field.name], field.type)
    return kind(**known)


def _checked(name: str, value: Any, wanted: Any) -> Any:
    """The value, if it is of the field's type; a whole number will do for a float."""
    if wanted is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        raise RecordError(f"a damaged record: {name!r} should be {wanted.__name__}, found {str(value)[:40]!r}")
    return value


def hash_pixels(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 (hexadecimal) over a picture's size and samples: the same for every file that decodes to them.

    Args:
        pixels: (H, W, 3) RGB.
    """
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
