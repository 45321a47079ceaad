"""The chunks of a PNG other than its pixels: Pillow ignores some in silence, and keeps only the text of others."""

import struct
import zlib
from typing import IO

Chunk = tuple[bytes, bytes]  # its four letters, and its data

_MOST = 1 << 26  # bytes in all; what would be more is passed over
_HEADERS = 1 << 20  # chunks, pixels included


def read_chunks(stream: IO[bytes]) -> list[Chunk]:
    """Read the chunks of a PNG but for those of its pixels; the stream stays where it is."""
    stand = stream.tell()
    stream.seek(8)
    chunks, size = [], 0
    for _ in range(_HEADERS):
        header = stream.read(8)
        if len(header) < 8:
            break
        length, kind = struct.unpack(">I4s", header)
        if kind in (b"IDAT", b"fdAT") or size + length > _MOST:
            stream.seek(length, 1)
        else:
            size += 64 + length
            chunks.append((kind, stream.read(length)))
        stream.seek(4, 1)  # the checksum
    stream.seek(stand)
    return chunks


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
