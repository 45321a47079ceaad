"""JPEG XL for Pillow: what a file says before its pixels are decoded, and its XMP.

Its plugin (extra `irn-cli[formats]`) decodes the whole file as soon as it is opened, passes over the XMP, and cannot
tell how deep the samples are. Sources: ISO/IEC 18181-1 (the header) and 18181-2 (the boxes).
"""

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL import ImageCms, ImageFile

from irn_cli.formats.exif import upright
from irn_cli.formats.known import plugin

_SIGNATURE = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height


class JxlImageFile(ImageFile.ImageFile):
    """A JPEG XL file, decoded when its pixels are asked for.

    Besides what Pillow says of any file, `info` has `bits`, to a sample (0 is not known), and `animated`.
    """

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        self._file: bytes | None = self.fp.read() if self.fp else b""
        found = header(self._file or b"")
        self._size = found.size[::-1]
        self._mode = "RGB"  # until it is decoded
        self.info |= {"bits": found.bits or 0, "animated": found.animated}
        if packet := xmp(self._file or b""):
            self.info["xmp"] = packet

    def load(self) -> Any:
        """Decode it."""
        if self._file is not None:
            module: Any = plugin("JXL")
            decoded = module.JpegXLImagePlugin.JXLImageFile(io.BytesIO(self._file))
            self._file = None
            loaded = decoded.load()
            self.im, self._mode, self._size = decoded.im, decoded.mode, decoded.size
            self.info |= decoded.info
            if self.info.get("icc_profile", b"")[4:8] == b"jxl " and _is_srgb(self.info["icc_profile"]):
                del self.info["icc_profile"]  # nothing that stands in the file
            if not decoded.jpeg and self.info.get("exif"):  # the decoder has turned it, if it was to be
                with suppress(ValueError):  # damaged: whoever reads it reports it
                    self.info["exif"] = upright(self.info["exif"])[1]
            return loaded
        return super().load()


def _is_srgb(icc: bytes) -> bool:
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip()
    return name in ("sRGB", "RGB_D65_SRG_Rel_SRG", "RGB_D65_SRG_Per_SRG", "Gra_D65_Rel_SRG", "Gra_D65_Per_SRG")


@dataclass(frozen=True)
class JxlHeader:
    """What a file says first."""

    size: tuple[int, int]  # (H, W), turned as it will be shown
    bits: int | None  # to a sample; None where that stands behind what we do not read
    animated: bool


def boxes(file: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The boxes of a file: type, and content. A bare codestream is one of type `jxlc`."""
    view = memoryview(file)
    if not file.startswith(_SIGNATURE):
        yield b"jxlc", view
        return
    place = 0
    while place + 8 <= len(file):
        length, begin = int.from_bytes(view[place : place + 4]), place + 8
        kind = bytes(view[place + 4 : begin])
        if length == 1:
            length, begin = int.from_bytes(view[begin : begin + 8]), begin + 8
        end = place + length if length else len(file)
        if end < begin:
            return
        yield kind, view[begin:end]
        place = end


def xmp(file: bytes) -> bytes | None:
    """The XMP of a file."""
    return next((bytes(content) for kind, content in boxes(file) if kind == b"xml "), None)


def header(file: bytes) -> JxlHeader:
    """Read the header of a codestream.

    Raises:
        ValueError: there is none.
    """
    for kind, content in boxes(file):
        if kind in (b"jxlc", b"jxlp"):
            stream = bytes(content[4 if kind == b"jxlp" else 0 :][:64])
            if not stream.startswith(b"\xff\x0a"):
                break
            return _parsed(_Bits(stream[2:]))
    raise ValueError("no JPEG XL codestream")


class _Bits:
    """Reads bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        return value

    def one_of(self, *counts: int) -> int:
        """A number of as many bits as the next two choose."""
        return self.take(counts[self.take(2)])


def _parsed(bits: _Bits) -> JxlHeader:
    height, width = _size(bits)
    if bits.take(1):  # all as by default
        return JxlHeader((height, width), 8, animated=False)
    if bits.take(1):
        turned = bits.take(3) >= 4
        height, width = (width, height) if turned else (height, width)
        if bits.take(1):
            _size(bits)
        if bits.take(1):
            return JxlHeader((height, width), None, animated=False)  # a preview
        if bits.take(1):
            return JxlHeader((height, width), None, animated=True)
    if bits.take(1):
        return JxlHeader((height, width), 32, animated=False)  # floating point
    depth = (8, 10, 12)[choice] if (choice := bits.take(2)) < 3 else 1 + bits.take(6)
    return JxlHeader((height, width), depth, animated=False)


def _size(bits: _Bits) -> tuple[int, int]:
    eighths = bits.take(1)
    height = 8 * (1 + bits.take(5)) if eighths else 1 + bits.one_of(9, 13, 18, 30)
    if ratio := bits.take(3):
        across, down = _RATIOS[ratio - 1]
        return height, height * across // down
    return height, 8 * (1 + bits.take(5)) if eighths else 1 + bits.one_of(9, 13, 18, 30)
