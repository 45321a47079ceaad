"""A record inside a picture's file: in a PNG its own chunks, in every other format a part of the XMP."""

import base64
import html
import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from irn_cli.errors import RecordError
from irn_cli.formats import xmp
from irn_cli.formats.chunks import Chunk, keyword, text, text_chunk
from irn_cli.record import Record, Restored, from_text, is_record, to_text

_KEY = "irn"  # of the PNG text that holds a record
_ALPHA_CHUNK = b"irNa"  # ancillary, private, safe to copy: the original's whole alpha, deflated
_XMP_SPACE = "urn:irn-cli:record"
_AS_WRITTEN = re.compile(
    rb'<rdf:Description rdf:about="" xmlns:irn="urn:irn-cli:record">'
    rb"<irn:record>[^<]*</irn:record>(?:<irn:(alpha|resolution)>[^<]*</irn:\1>)*</rdf:Description>"
)
_EMPTY_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b"</rdf:RDF></x:xmpmeta>"
)

Found = tuple[Record | Restored | None, NDArray[np.uint8] | None]  # a record, and the original's alpha beside it


def in_chunks(chunks: Sequence[Chunk], size: tuple[int, int] | None) -> Found:
    """The record among a PNG's chunks, and the original's alpha.

    Args:
        chunks: the PNG's.
        size: (H, W) of the picture: nothing large is unpacked for one of another size than its record says; None
            unpacks no alpha.

    Raises:
        RecordError: there is a record, but it or the alpha is damaged.
    """
    texts = (text(chunk) for chunk in chunks if keyword(chunk) == _KEY)
    written = next((found for found in texts if is_record(found)), None)
    return _unpacked(written, next((data for kind, data in chunks if kind == _ALPHA_CHUNK), None), size)


def in_xmp(packet: bytes, size: tuple[int, int] | None) -> Found:
    """The record in a picture's XMP, and the original's alpha; otherwise as `in_chunks`."""
    try:
        written = xmp.find(packet, _XMP_SPACE, "record")
        alpha = xmp.find(packet, _XMP_SPACE, "alpha") if written and size else None
        return _unpacked(written, base64.b64decode(alpha) if alpha else None, size)
    except ValueError as error:
        raise RecordError(f"the XMP around the record, or the alpha beside it, is damaged: {error}") from error


def in_image(image: Image.Image) -> Found:
    """The record in what Pillow keeps of a file that it has opened; otherwise as `in_chunks`."""
    size = image.height, image.width
    written, packet = image.info.get(_KEY), image.info.get("xmp")
    if isinstance(written, str) and is_record(written):
        private = {kind: data for kind, data, *_ in getattr(image, "private_chunks", ())}
        return _unpacked(written, private.get(_ALPHA_CHUNK), size)
    return in_xmp(packet if isinstance(packet, bytes) else b"", size)


def resolution_in_xmp(packet: bytes) -> tuple[float, float] | None:
    """The resolution that a small picture's XMP remembers, dots per inch: horizontal, vertical."""
    try:
        horizontal, vertical = map(float, (xmp.find(packet, _XMP_SPACE, "resolution") or "").split())
    except ValueError:
        return None
    return horizontal, vertical


def without_record(packet: bytes) -> bytes | None:
    """XMP as it was before a record of ours went in; None where nothing is left.

    Raises:
        ValueError: damaged.
    """
    packet = _AS_WRITTEN.sub(b"", packet)  # byte for byte, if no other program has rewritten it
    return None if packet == _EMPTY_XMP else xmp.cut(packet, _XMP_SPACE)


def is_ours(chunk: Chunk) -> bool:
    """Whether a PNG's chunk is one that we have written: a foreign text may have the same key."""
    return chunk[0] == _ALPHA_CHUNK or (keyword(chunk) == _KEY and is_record(text(chunk)))


def as_chunks(record: Record | Restored | None, full_alpha: NDArray[np.uint8] | None) -> list[Chunk]:
    """A record, and the original's alpha, for a PNG."""
    chunks = [text_chunk(_KEY, to_text(record))] if record else []
    return chunks if full_alpha is None else [*chunks, (_ALPHA_CHUNK, _deflate(full_alpha))]


def as_xmp(
    packet: bytes | None,
    record: Record | Restored | None,
    full_alpha: NDArray[np.uint8] | None,
    dpi: tuple[float, float] | None = None,
) -> bytes | None:
    """A picture's XMP with a record inside, and the original's alpha and resolution, for the other formats."""
    if not record:
        return packet
    written = html.escape(to_text(record), quote=False).encode()
    alpha = resolution = b""
    if full_alpha is not None:
        alpha = b"<irn:alpha>" + base64.b64encode(_deflate(full_alpha)) + b"</irn:alpha>"
    if dpi and isinstance(record, Record):
        resolution = "<irn:resolution>{!r} {!r}</irn:resolution>".format(*map(float, dpi)).encode()
    description = (
        f'<rdf:Description rdf:about="" xmlns:irn="{_XMP_SPACE}"><irn:record>'.encode()
        + written + b"</irn:record>" + alpha + resolution + b"</rdf:Description>"
    )  # fmt: skip
    packet = packet if packet and b"</rdf:RDF>" in packet else _EMPTY_XMP
    return packet.replace(b"</rdf:RDF>", description + b"</rdf:RDF>", 1)


def _unpacked(written: str | None, deflated: bytes | None, size: tuple[int, int] | None) -> Found:
    record = from_text(written) if written else None
    if deflated is None or not isinstance(record, Record) or record.small_size != size:
        return record, None
    return record, _inflate(deflated, (record.height, record.width))


def _deflate(alpha: NDArray[np.uint8]) -> bytes:
    """Each row as its difference from the one above, deflated: a mask's rows are much alike."""
    difference = np.diff(alpha, axis=0, prepend=np.zeros_like(alpha[:1]))  # wraps around, as it should
    return zlib.compress(difference.tobytes(), 9)


def _inflate(deflated: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    count = size[0] * size[1]
    try:
        samples = zlib.decompressobj().decompress(deflated, count + 1)
    except zlib.error as error:
        raise RecordError(f"the alpha beside the record is damaged: {error}") from error
    if len(samples) != count:
        raise RecordError(f"the alpha beside the record is damaged: expected {count} samples")
    return np.cumsum(np.frombuffer(samples, np.uint8).reshape(size), axis=0, dtype=np.uint8)
