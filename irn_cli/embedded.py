"""A record inside a picture's file: in a PNG its own chunks, in every other format a part of the XMP."""

import base64
import html
import re
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from irn_cli.errors import RecordError
from irn_cli.picture import Picture
from irn_cli.record import Record, Restored, from_text, to_text

_TEXT_KEY = "irn"  # the PNG text chunk that holds a record
_ALPHA_CHUNK = b"irNa"  # ancillary, private, safe to copy: the original's whole alpha, deflated
_XMP_KEY = "XML:com.adobe.xmp"
_XMP_SPACE = "urn:irn-cli:record"
_XMP_RECORD = re.compile(
    rb'<rdf:Description rdf:about="" xmlns:irn="urn:irn-cli:record">'
    rb"<irn:record>([^<]*)</irn:record>(?:<irn:alpha>([^<]*)</irn:alpha>)?</rdf:Description>"
)
_EMPTY_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b"</rdf:RDF></x:xmpmeta>"
)


def find_record(image: Image.Image) -> tuple[Record | Restored | None, NDArray[np.uint8] | None]:
    """The record in an opened image and, beside it, the original's alpha.

    Raises:
        RecordError: there is a record, but it or the alpha is damaged.
    """
    if image.format == "PNG":
        text = image.info.get(_TEXT_KEY)
        deflated = next((chunk[1] for chunk in getattr(image, "private_chunks", ()) if chunk[0] == _ALPHA_CHUNK), None)
    else:
        xmp = image.info.get("xmp") or b""
        match = _XMP_RECORD.search(xmp if isinstance(xmp, bytes) else xmp.encode())
        text = html.unescape(match[1].decode("utf-8", "replace")) if match else None
        try:
            deflated = base64.b64decode(match[2]) if match and match[2] else None
        except ValueError as error:
            raise RecordError(f"the alpha beside the record is damaged: {error}") from error
    if not isinstance(text, str):
        return None, None
    record = from_text(text)
    # In another size than its record says, the picture may be anyone's: nothing large is unpacked for it.
    if deflated is None or not isinstance(record, Record) or record.small_size != image.size[::-1]:
        return record, None
    return record, _inflate(deflated, (record.height, record.width))


def without_record(xmp: bytes | None) -> bytes | None:
    """XMP as it was before a record of ours went in; None where nothing is left."""
    xmp = _XMP_RECORD.sub(b"", xmp or b"")
    return xmp if xmp not in (b"", _EMPTY_XMP) else None


def png_chunks(picture: Picture) -> PngImagePlugin.PngInfo:
    """What a PNG carries besides its pixels: the record, the original's alpha, the XMP."""
    chunks = PngImagePlugin.PngInfo()
    if picture.record:
        chunks.add_text(_TEXT_KEY, to_text(picture.record))
    if picture.full_alpha is not None:
        chunks.add(_ALPHA_CHUNK, _deflate(picture.full_alpha))
    if picture.xmp:
        chunks.add_itxt(_XMP_KEY, picture.xmp.decode("utf-8", "replace"))
    return chunks


def xmp_with_record(picture: Picture) -> bytes | None:
    """A picture's XMP with its record inside, for formats that have no chunks of their own."""
    if not picture.record:
        return picture.xmp
    record = html.escape(to_text(picture.record), quote=False).encode()
    alpha = b""
    if picture.full_alpha is not None:
        alpha = b"<irn:alpha>" + base64.b64encode(_deflate(picture.full_alpha)) + b"</irn:alpha>"
    description = (
        f'<rdf:Description rdf:about="" xmlns:irn="{_XMP_SPACE}"><irn:record>'.encode()
        + record + b"</irn:record>" + alpha + b"</rdf:Description>"
    )  # fmt: skip
    xmp = picture.xmp if picture.xmp and b"</rdf:RDF>" in picture.xmp else _EMPTY_XMP
    return xmp.replace(b"</rdf:RDF>", description + b"</rdf:RDF>", 1)


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
