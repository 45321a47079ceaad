"""What travels with a picture: colour profile, EXIF, XMP, texts, resolution; read from each format, written to each.

A PNG can hold all of it. So texts, and what colours mean, travel as a PNG's chunks, whatever they came from; what a
format cannot hold is named.
"""

import io
import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin

from irn_cli.formats import xmp
from irn_cli.formats.chunks import Chunk, keyword, text, text_chunk
from irn_cli.formats.embedded import as_chunks, as_xmp, is_ours, resolution_in_xmp, without_record
from irn_cli.formats.exif import upright
from irn_cli.picture import Picture
from irn_cli.record import Record

_COLOURS = {b"gAMA", b"cHRM", b"sRGB", b"cICP"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
# Chunks that say how a file is stored or shown, or that are read otherwise.
_STORAGE = {b"IHDR", b"PLTE", b"tRNS", b"IEND", b"iCCP", b"eXIf", b"pHYs", b"sBIT", b"bKGD", b"hIST", b"tIME", b"sPLT",
            b"acTL", b"fcTL", b"irNa", b"iDOT", b"oFFs", b"vpAg", b"caNv", b"orNT"}  # fmt: skip
_IPTC, _EXIF, _XMP = "Raw profile type iptc", "Raw profile type exif", "XML:com.adobe.xmp"
# Tags of a TIFF's first directory that describe the picture: names of document and page, description, make, model,
# software, date, artist, host computer, copyright, rating, Windows' texts, and the directories of EXIF and GPS.
_DESCRIPTIVE = {0x010D, 0x011D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, 0x4746, 0x4749,
                *range(0x9C9B, 0x9CA0), 0x8769, 0x8825}  # fmt: skip
_IPTC_TAG = 0x83BB
_ELSEWHERE = {0x02BC, _IPTC_TAG, 0x8649, 0x8773}  # XMP, IPTC, Photoshop's, the colour profile
_STORAGE_TAGS = range(0x00FE, 0x0216)  # the format's own
_SEGMENTS = (b"JFIF", b"JFXX", b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"MPF\0", b"Adobe",
             b"Photoshop 3.0\0", b"Ducky")  # fmt: skip
_GAIN_MAP = "the HDR gain map"
_BEHIND = "what follows the picture in its file"
_EXTENDED_XMP = "the XMP's extension"
_PROMISES = (  # what XMP says to follow the picture in its file: namespace, begin of the names, what it is
    ("http://ns.adobe.com/hdr-gain-map/1.0/", "", _GAIN_MAP),
    ("http://ns.google.com/photos/1.0/container/", "", _BEHIND),
    ("http://ns.google.com/photos/1.0/camera/", ("Motion", "Micro"), "the motion photo's video"),
    ("http://ns.adobe.com/xmp/note/", "HasExtendedXMP", _EXTENDED_XMP),
)


@dataclass(frozen=True)
class Metadata:
    """What a file holds besides its pixels and our record."""

    orientation: int  # EXIF's, 1 to 8; it is taken out of EXIF and XMP
    icc: bytes | None  # of any kind
    exif: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None
    chunks: tuple[Chunk, ...]


def read_metadata(image: ImageFile.ImageFile, head: bytes, chunks: Sequence[Chunk], warnings: list[str]) -> Metadata:
    """Collect what stands in a file.

    Args:
        image: the file, decoded.
        head: its first 64 KiB.
        chunks: a PNG's; of other formats none.
        warnings: gets a line for what is damaged, and one that names all that is left out.
    """
    left_out = list(_left_out(image, head, chunks))
    packet, turned = _read_xmp(image, left_out, warnings)
    orientation, exif = _read_exif(image, chunks, warnings)
    if left_out:
        warnings.append(f"left out: {', '.join(dict.fromkeys(left_out))}")
    return Metadata(
        orientation=orientation or turned,
        icc=_read_icc(image, warnings),
        exif=exif,
        xmp=packet,
        dpi=_dpi(image.info.get("dpi")) or _dpi(resolution_in_xmp(stored_xmp(image))) or _dpi_of(exif),
        chunks=tuple(_travelling(image, head, chunks)),
    )


# Reading --------------------------------------------------------------------------------------------------------------


def _read_icc(image: ImageFile.ImageFile, warnings: list[str]) -> bytes | None:
    icc: bytes | None = image.info.get("icc_profile")
    if not icc and "icc_profile" not in image.info:
        return None
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc or b""))
    except (OSError, ImageCms.PyCMSError):
        warnings.append("its colour profile is damaged and was left out: colours may shift")
        return None
    return icc


def _read_exif(
    image: ImageFile.ImageFile, chunks: Sequence[Chunk], warnings: list[str]
) -> tuple[int | None, bytes | None]:
    """The orientation, where there is one, and the EXIF data without it and without the thumbnail."""
    try:
        if image.format == "TIFF":  # whose tags they are
            exif = image.getexif()
            orientation = exif.pop(ExifTags.Base.Orientation, 1)
            for tag in [tag for tag in exif if tag not in _DESCRIPTIVE]:
                del exif[tag]
            exif.bigtiff = False  # if the file is one, EXIF elsewhere is not
            return (orientation if orientation in range(1, 9) else 1), exif.tobytes() if len(exif) else None
        stored = image.info.get("exif") or _raw_profile(chunks, _EXIF)
        return upright(stored) if stored else (None, None)
    except Exception:  # EXIF is written by everyone and checked by no one; the picture itself is fine
        warnings.append("its EXIF data are damaged and were left out")
        return None, None


def stored_xmp(image: Image.Image) -> bytes:
    """The XMP of a file as it stands there; empty if there is none."""
    packet = image.info.get("xmp") or b""
    return packet.encode() if isinstance(packet, str) else packet


def _read_xmp(image: ImageFile.ImageFile, left_out: list[str], warnings: list[str]) -> tuple[bytes | None, int]:
    """The XMP, without our record, the orientation, and promises that the result does not keep; and the orientation."""
    packet: bytes | None = stored_xmp(image)
    tiff, turned = "http://ns.adobe.com/tiff/1.0/", 1
    try:
        packet = packet and without_record(packet)
        if packet and (found := xmp.find(packet, tiff, "Orientation")):
            turned = int(found) if re.fullmatch("[1-8]", found) else 1
            packet = xmp.cut(packet, tiff, "Orientation")
        for namespace, names, what in _PROMISES:
            before, packet = packet, packet and xmp.cut(packet, namespace, names)
            if packet != before:
                left_out.append(what)
        if packet and b"</rdf:RDF>" not in packet:
            raise ValueError("no XMP in UTF-8")
    except ValueError:
        warnings.append("its XMP is damaged and was left out")
        return None, 1
    return packet or None, turned


def _travelling(image: ImageFile.ImageFile, head: bytes, chunks: Sequence[Chunk]) -> Iterator[Chunk]:
    """What goes along as a PNG's chunks."""
    usable = _dpi(image.info.get("dpi"))
    for chunk in chunks:
        told = chunk[0] in _COLOURS or (chunk[0] == b"pHYs" and not usable)
        if told or (chunk[0] in _TEXTS and keyword(chunk) not in (_EXIF, _XMP) and not is_ours(chunk)):
            yield chunk
    comments = [data for name, data in getattr(image, "applist", ()) if name == "COM"]
    for comment in comments or ([image.info["comment"]] if image.format == "GIF" and "comment" in image.info else []):
        yield text_chunk("Comment", _decoded(comment).strip("\0"))
    if iptc := _iptc(image):
        yield text_chunk(_IPTC, f"\niptc\n{len(iptc):8}\n{iptc.hex()}\n")  # as ImageMagick and ExifTool do
    if image.format in ("AVIF", "HEIF") and not image.info.get("icc_profile") and (colours := _colours(image, head)):
        yield b"cICP", colours


def _left_out(image: ImageFile.ImageFile, head: bytes, chunks: Sequence[Chunk]) -> Iterator[str]:
    """Names of what does not go along."""
    known = _TEXTS | _COLOURS | _STORAGE
    yield from (f"the PNG chunk {kind.decode()}" for kind, _ in chunks if kind not in known and kind.isalpha())
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", ())
        known_tags = {*_STORAGE_TAGS, *_DESCRIPTIVE, *_ELSEWHERE}
        yield from (f"the TIFF tag {tag}" for tag in tags if tag not in known_tags)
    if image.format == "AVIF" and b"tmap" in head[:256]:
        yield _GAIN_MAP
    yield from _beside(image)
    if image.format == "BMP" and head[70:74] in (b"DEBM", b"KNIL"):  # embedded, linked; backwards
        yield "the colour profile of a BMP"
    for name, data in getattr(image, "applist", ()):  # of a JPEG
        if data.startswith(b"urn:iso:std:iso:ts:21496:-1"):
            yield _GAIN_MAP
        elif data.startswith(b"http://ns.adobe.com/xmp/extension/"):
            yield _EXTENDED_XMP
        elif name != "COM" and not data.startswith(_SEGMENTS):
            yield f"the JPEG segment {name}"


def _beside(image: ImageFile.ImageFile) -> Iterator[str]:
    """Names of further pictures in a JPEG or HEIF."""
    followers = (getattr(image, "mpinfo", None) or {}).get(0xB002, ())[1:]
    frames = getattr(image, "n_frames", 1) if image.format == "HEIF" else 1
    if frames > 1 or any("Thumbnail" not in entry["Attribute"]["MPType"] for entry in followers):
        yield _BEHIND
    for name in [*image.info.get("aux", ()), *("depth" for _ in image.info.get("depth_images", ()))]:
        yield _GAIN_MAP if "gainmap" in name else f"the auxiliary picture {name}"


def _decoded(comment: bytes | str) -> str:
    if isinstance(comment, str):
        return comment
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


def _iptc(image: ImageFile.ImageFile) -> bytes | None:
    """IPTC data, as they stand in a TIFF or in Photoshop's part of a JPEG."""
    stored = (image.info.get("photoshop") or {}).get(0x0404) or getattr(image, "tag_v2", {}).get(_IPTC_TAG)
    if isinstance(stored, tuple) and all(isinstance(value, int) for value in stored):  # some write them as LONGs
        return struct.pack(f"<{len(stored)}I", *stored)
    return stored if isinstance(stored, bytes) else None


def _raw_profile(chunks: Sequence[Chunk], key: str) -> bytes | None:
    """The bytes of what ImageMagick writes as a text: a name, a length, and hexadecimal digits in lines."""
    found = next((text(chunk) for chunk in chunks if keyword(chunk) == key), "")
    return bytes.fromhex("".join(found.split()[2:])) if found else None


def _colours(image: ImageFile.ImageFile, head: bytes) -> bytes | None:
    """What the colours of an AVIF or HEIF without a profile mean, as a cICP chunk, where it is not sRGB."""
    primaries, transfer = 2, 2  # not specified
    if found := image.info.get("nclx_profile"):
        primaries, transfer = found["color_primaries"], found["transfer_characteristics"]
    elif len(box := head.partition(b"colrnclx")[2]) >= 4:
        primaries, transfer = struct.unpack(">HH", box[:4])
    plain = primaries in (1, 2) and transfer in (1, 2, 13)
    return None if plain or max(primaries, transfer) > 255 else bytes([primaries, transfer, 0, 1])  # RGB, full range


def _dpi(stored: Any) -> tuple[float, float] | None:
    try:
        horizontal, vertical = (float(value) for value in stored)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    usable = all(math.isfinite(value) and 0 < value < 1e5 for value in (horizontal, vertical))
    return (horizontal, vertical) if usable else None


def _dpi_of(exif: bytes | None) -> tuple[float, float] | None:
    """The resolution in EXIF data, for formats without a field for it."""
    tags = Image.Exif()
    tags.load(exif or b"")
    found = _dpi((tags.get(ExifTags.Base.XResolution), tags.get(ExifTags.Base.YResolution)))
    metric = tags.get(ExifTags.Base.ResolutionUnit) == 3
    return found and ((found[0] * 2.54, found[1] * 2.54) if metric else found)


# Writing --------------------------------------------------------------------------------------------------------------


def save_options(picture: Picture, kind: str) -> tuple[dict[str, Any], list[str]]:
    """Options of Pillow's `save` that write metadata and record; and names of what the format cannot hold."""
    icc, lost = picture.icc, []
    if icc and picture.mode == "L" and kind in ("WEBP", "AVIF"):  # which store grey as colour
        icc, lost = None, ["the colour profile of a grey picture"]
    values: dict[str, Any] = {"icc_profile": icc, "exif": picture.exif, "dpi": picture.dpi}
    options = {name: value for name, value in values.items() if value}
    if kind == "PNG":
        return options | {"pnginfo": _png_chunks(picture)}, []
    held: list[Chunk] = []
    resolution = None if kind in ("JPEG", "TIFF") else picture.dpi  # which have fields for it
    packet = as_xmp(picture.xmp, picture.record, picture.full_alpha, resolution)
    if packet and kind != "TIFF":
        options["xmp"] = packet
    if kind == "JPEG":
        segments = [_segment(chunk) for chunk in picture.chunks]
        held = [chunk for chunk, segment in zip(picture.chunks, segments, strict=True) if segment]
        options["extra"] = b"".join(segments)
    elif kind == "TIFF":
        held = [chunk for chunk in picture.chunks if keyword(chunk) == _IPTC]
        options["exif"] = _tiff_tags(picture, packet)
    elif picture.dpi and not _dpi_of(picture.exif) and not isinstance(picture.record, Record):  # WebP, AVIF, JPEG XL
        options["exif"] = _exif_with(picture.dpi, picture.exif)
    return options, [*lost, *(keyword(chunk) or chunk[0].decode() for chunk in picture.chunks if chunk not in held)]


def _png_chunks(picture: Picture) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for chunk in as_chunks(picture.record, picture.full_alpha):
        info.add(*chunk)
    if picture.xmp:
        info.add_itxt(_XMP, picture.xmp.decode("utf-8", "replace"))
    for chunk in picture.chunks:
        info.add(*chunk)
    return info


def _segment(chunk: Chunk) -> bytes:
    """The segment of a JPEG that holds what a chunk does: a comment, or IPTC; none for others."""
    marker, data = 0, b""
    if keyword(chunk) == "Comment":
        marker, data = 0xFE, text(chunk).encode()
    elif keyword(chunk) == _IPTC and (iptc := _raw_profile([chunk], _IPTC)):
        photoshop = iptc if iptc.startswith(b"8BIM") else b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc
        marker, data = 0xED, b"Photoshop 3.0\0" + photoshop + bytes(len(photoshop) % 2)
    return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data if data and len(data) < 65_500 else b""


def _tiff_tags(picture: Picture, packet: bytes | None) -> Image.Exif:
    """EXIF, XMP and IPTC as the tags of a TIFF."""
    tags = Image.Exif()
    tags.load(picture.exif or b"")
    tags.pop(ExifTags.Base.Orientation, None)
    camera = tags.get_ifd(ExifTags.IFD.Exif)
    if ExifTags.IFD.Interop in camera:
        camera[ExifTags.IFD.Interop] = tags.get_ifd(ExifTags.IFD.Interop)  # Pillow would write where it was
    if packet:
        tags[ExifTags.Base.XMLPacket] = packet
    if iptc := _raw_profile(picture.chunks, _IPTC):
        tags[_IPTC_TAG] = iptc
    return tags


def _exif_with(dpi: tuple[float, float], exif: bytes | None) -> bytes:
    tags = Image.Exif()
    tags.load(exif or b"")
    tags[ExifTags.Base.XResolution], tags[ExifTags.Base.YResolution] = dpi
    tags[ExifTags.Base.ResolutionUnit] = 2  # inches
    return tags.tobytes()
