"""The chunks of a PNG other than its pixels: Pillow ignores some in silence, and keeps only the text of others."""

import struct
import zlib
from collections.abc import Iterator
from typing import IO

Chunk = tuple[bytes, bytes]  # its four letters, and its data

_MOST = 1 << 26  # bytes in all; what would be more is passed over
_HEADERS = 1 << 20  # chunks, pixels included
_PIECE = 1 << 20  # bytes of pixels unpacked at a time
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # to a pixel, by the kind of colour
_WHOLE = ((0, 0, 1, 1),)
_INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_chunks(stream: IO[bytes]) -> list[Chunk]:
    """Read the chunks of a PNG but for those of its pixels; the stream stays where it is."""
    stand = stream.tell()
    chunks, size = [], 0
    for kind, length in _headers(stream):
        if kind not in (b"IDAT", b"fdAT") and size + length <= _MOST:
            size += 64 + length
            chunks.append((kind, stream.read(length)))
    stream.seek(stand)
    return chunks


def ends_early(stream: IO[bytes]) -> bool:
    """Whether a PNG's pixels, once unpacked, are fewer than its size says: Pillow leaves the others at zero."""
    stream.seek(16)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", stream.read(13))
    missing = 0  # bytes: in each pass, of the columns from `x` every `across`-th, and likewise rows
    for x, y, across, down in _INTERLACED if interlaced else _WHOLE:
        columns, rows = (width - x + across - 1) // across, (height - y + down - 1) // down
        if columns and rows:
            missing += rows * (1 + (columns * depth * _SAMPLES[colour] + 7) // 8)  # each row begins with its filter
    unpack = zlib.decompressobj()
    for kind, length in _headers(stream):
        packed = stream.read(length) if kind == b"IDAT" else b""
        while packed and missing > 0:
            missing -= len(unpack.decompress(packed, _PIECE))
            packed = unpack.unconsumed_tail
    return missing > 0


def _headers(stream: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """The kind and length of each chunk; the stream then stands at its data."""
    place = 8
    for _ in range(_HEADERS):
        stream.seek(place)
        header = stream.read(8)
        if len(header) < 8:
            return
        length, kind = struct.unpack(">I4s", header)
        place += 12 + length  # with the checksum
        yield kind, length


def keyword(chunk: Chunk) -> str | None:
    """The keyword of a text chunk; None for any other."""
    kind, data = chunk
    return data.partition(b"\0")[0].decode("latin-1") if kind in (b"tEXt", b"zTXt", b"iTXt") else None


def text(chunk: Chunk) -> str:
    """The text of a text chunk; what cannot be read of it is left out."""
    kind, (_, _, data) = chunk[0], chunk[1].partition(b"\0")
    packed = kind == b"zTXt" or (kind == b"iTXt" and data[:1] == b"\1")
    if kind == b"iTXt":
        data = data[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind a language and the keyword in it
    elif kind == b"zTXt":
        data = data[1:]
    if packed:
        try:
            data = zlib.decompressobj().decompress(data, _MOST)
        except zlib.error:
            return ""
    return data.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")


def text_chunk(key: str, value: str) -> Chunk:
    """A text as a chunk, of the oldest kind that can hold it."""
    value = value.replace("\0", "")
    try:
        return b"tEXt", key.encode("latin-1") + b"\0" + value.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + value.encode()
