"""EXIF data as they lie in a file, changed in two places and nowhere else: the orientation and the thumbnail.

Written anew, they would lose what Pillow does not know, and maker notes, which point into their own file.
"""

import struct

_ORIENTATION, _THUMBNAIL, _THUMBNAIL_SIZE = 0x0112, 0x0201, 0x0202
_SHORT, _LONG = 3, 4


def upright(exif: bytes) -> tuple[int, bytes | None]:
    """Take the orientation and the thumbnail out of EXIF data.

    Args:
        exif: as in a file, with or without the letters "Exif" before it.

    Returns:
        The orientation, 1 to 8; and the data, in which it is 1 now, or None where there is nothing else in them.

    Raises:
        ValueError: damaged.
    """
    data = bytearray(exif.removeprefix(b"Exif\0\0"))
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None:
        raise ValueError("no TIFF header")
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        entries, end = _entries(data, order, start)
    except struct.error as error:
        raise ValueError(str(error)) from error
    orientation = 1
    for tag, kind, _, place in entries:
        if tag == _ORIENTATION and kind in (_SHORT, _LONG):
            form = order + ("H" if kind == _SHORT else "I")
            (orientation,) = struct.unpack_from(form, data, place)
            struct.pack_into(form, data, place, 1)
    if len(data) >= end + 4:
        _cut_thumbnail(data, order, end)
    kept = b"Exif\0\0" + bytes(data) if any(tag != _ORIENTATION for tag, *_ in entries) else None
    return orientation if orientation in range(1, 9) else 1, kept


def _entries(data: bytes | bytearray, order: str, start: int) -> tuple[list[tuple[int, int, int, int]], int]:
    """The directory at a place: (tag, kind, value, place of the value) of each entry; and where it ends."""
    (count,) = struct.unpack_from(f"{order}H", data, start)
    places = [start + 2 + 12 * index for index in range(count)]
    return [(*struct.unpack_from(f"{order}HH4xI", data, place), place + 8) for place in places], start + 2 + 12 * count


def _cut_thumbnail(data: bytearray, order: str, link: int) -> None:
    """Unlink the second directory, which is the thumbnail's, and overwrite its picture."""
    (second,) = struct.unpack_from(f"{order}I", data, link)
    struct.pack_into(f"{order}I", data, link, 0)
    try:
        values = {tag: value for tag, _, value, _ in _entries(data, order, second)[0]} if second else {}
    except struct.error:
        return
    first, size = values.get(_THUMBNAIL, 0), values.get(_THUMBNAIL_SIZE, 0)
    if 0 < first < first + size <= len(data):
        if first + size == len(data):
            del data[first:]
        else:
            data[first : first + size] = bytes(size)
