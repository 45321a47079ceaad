"""Pictures read from files and written to them by Pillow, with all that travels along.

Whatever comes in becomes 8-bit RGB (and alpha), upright, with its metadata; each loss on the way is reported in
`Picture.warnings`.
"""

import ctypes
import io
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from irn_cli.errors import Code, InputError, OutputError, RecordError, UsageError
from irn_cli.files import atomic_write
from irn_cli.formats.chunks import Chunk, ends_early, read_chunks
from irn_cli.formats.embedded import Found, in_chunks, in_xmp
from irn_cli.formats.jxl import JxlImageFile
from irn_cli.formats.known import FORMATS, Format, FormatName, identify, plugin, written_as
from irn_cli.formats.samples import EXPECTED, Stored, fitting, inspect, to_rgb
from irn_cli.latent import latent_path, write_latent
from irn_cli.metadata import read_metadata, save_options, stored_xmp
from irn_cli.paths import is_remote, open_file, to_path
from irn_cli.picture import Picture
from irn_cli.record import Record, Restored

if TYPE_CHECKING:
    from typing_extensions import TypeIs

MAX_PIXELS = 500_000_000
_READERS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF")  # known by their first bytes, as Pillow says
_MAX_TEXT = 1 << 26  # bytes of a PNG's compressed text or colour profile, unpacked
_LIMIT = threading.Lock()  # held where Pillow's own limit, which is global, is another


PictureLike = Picture | Image.Image | NDArray[np.uint8] | str | os.PathLike[str]  # what `as_picture` takes


@dataclass(frozen=True)
class Header:
    """What a picture's file says before its pixels are decoded."""

    size: tuple[int, int]  # (H, W) as stored
    record: Record | Restored | None
    damaged: bool = False  # whether there is a record that cannot be read
    format: str = ""  # as Pillow calls it: PNG, JPEG ...


def read(source: str | os.PathLike[str] | BinaryIO, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture: PNG, JPEG, WebP, TIFF, BMP, AVIF or GIF; with the extra `formats` also HEIF and JPEG XL.

    EXIF orientation is applied. Palettes are expanded, deeper samples reduced to 8 bits and CMYK converted to sRGB; the
    last two leave a line in the picture's `warnings`.

    Args:
        source: a path, a store's URL, or a binary stream with the whole file in it.
        max_pixels: refuse larger pictures before anything is decoded.

    Raises:
        InputError: no such file, not a picture, truncated, animated, too large, or of samples that we cannot convert.
    """
    with _opened(source, max_pixels) as image:
        # MPO and HEIF hold previews beside their picture; frames of the other formats are pages or an animation.
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format not in ("MPO", "HEIF"):
            raise InputError(f"{_name(source)} has {frames} frames or pages; expected a picture of one")
        if image.info.get("animated"):
            raise InputError(f"{_name(source)} is an animation; expected a picture")
        if getattr(image, "tag_v2", {}).get(ExifTags.Base.NewSubfileType) == 1:
            raise InputError(
                f"{_name(source)} holds only a preview, as cameras' raw files do: export it as TIFF or PNG first"
            )
        head, chunks = _head(image), _chunks(image)
        stored, stream = inspect(image, head), image.fp
        image.load()
        if image.format == "PNG" and stream:
            _require_last_row(image, stream)
        picture = _picture(image, stored, head, chunks)
    name = "" if _is_stream(source) else to_path(source).name
    kind = {"MPO": "jpeg", "DIB": "bmp"}.get(image.format or "", (image.format or "").lower())
    return replace(picture, name=name, format=kind)


def as_picture(source: PictureLike) -> Picture:
    """Turn what people have at hand into a picture: a `Picture`, a Pillow image, an array, or a path, which is read.

    Args:
        source: of these; an array is (H, W, 3) uint8, RGB.

    Raises:
        TypeError: something else.
        InputError: as `read`.
    """
    match source:
        case Picture():
            return source
        case Image.Image():
            return Picture.from_pil(source)
        case np.ndarray() if source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3:
            return Picture(source)
        case str() | os.PathLike():
            return read(source)
    found = f"{source.dtype} of shape {source.shape}" if isinstance(source, np.ndarray) else type(source).__name__
    raise TypeError(f"expected a Picture, a PIL image, a path, or a uint8 array of shape (H, W, 3), not {found}")


def peek(source: str | os.PathLike[str] | BinaryIO) -> Header:
    """Read what a picture's file says before its pixels, its record included: cheap even for a huge one.

    Raises:
        InputError: no such file, or not a picture.
    """
    with _opened(source, whole=False) as image:
        size = image.height, image.width
        try:
            return Header(size, _find_record(image, _chunks(image), with_alpha=False)[0], format=image.format or "")
        except RecordError:
            return Header(size, None, damaged=True, format=image.format or "")


def write(
    path: str | os.PathLike[str] | BinaryIO,
    picture: Picture,
    *,
    overwrite: bool = False,
    format: FormatName | None = None,  # noqa: A002  # as Pillow calls it
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write a picture, atomically, with its metadata and record; a kept original goes into a file beside it.

    Args:
        path: the file to make, or a binary stream.
        picture: what to write.
        overwrite: replace existing files.
        format: one of `FORMATS`; None is what the path's suffix says, and PNG for a stream. A small picture's must be
            lossless: not JPEG, not AVIF.
        quality: 1 to 100, for JPEG, WebP, AVIF and JPEG XL; None loses nothing, or where it must (JPEG, AVIF), little.

    Returns:
        A line that names what of the metadata the format cannot hold; none where it holds all, as a PNG always does.

    Raises:
        UsageError: a format or quality that we do not write, that loses what is hidden in a small picture, or that
            needs the extra `formats`; or a stream for a picture with a latent.
        OutputError: a file exists already or cannot be written, or the format cannot hold the picture.
    """
    name = None if _is_stream(path) else to_path(path)
    small = isinstance(picture.record, Record)
    chosen = FORMATS[format] if format else FORMATS["png"] if name is None else written_as(name, small=small)
    options = chosen.options(quality, small=small)
    plugin(chosen.kind)
    _require_fitting("the stream" if name is None else name, picture, chosen)
    if _is_stream(path):
        if picture.latent:
            raise UsageError("a kept original needs a file beside the picture's: expected a path, not a stream")
        return _encode(path, picture, chosen, options)
    with atomic_write(path, overwrite=overwrite) as stream:
        try:
            lost = _encode(stream, picture, chosen, options)
        except ValueError as error:  # EXIF or XMP beyond the 64 kB that JPEG has for each
            raise OutputError(f"cannot write {path}: {error}; write a PNG, WebP or TIFF instead") from error
        if picture.latent:  # before the picture is in place: none is there without its original
            write_latent(latent_path(path), picture.latent, overwrite=overwrite)
    return lost


# Reading ------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(
    source: str | os.PathLike[str] | BinaryIO, max_pixels: int | None = None, *, whole: bool = True
) -> Iterator[ImageFile.ImageFile]:
    """Open a picture's file; whatever a decoder stumbles over becomes one clear line."""
    name = _name(source)
    try:
        stream = source if _is_stream(source) else open_file(to_path(source), whole=whole)
    except FileNotFoundError:
        raise InputError(f"no such file: {name}") from None
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    try:
        with _identified(stream, name, max_pixels) as image:
            yield image
    except (InputError, RecordError):
        raise
    except UsageError as error:  # a plugin is missing
        raise InputError(f"cannot read {name}: {error}") from error
    except MemoryError:
        raise InputError(f"cannot read {name}: not enough memory") from None
    except Exception as error:  # decoders of foreign bytes raise nearly anything: struct.error, SyntaxError ...
        raise InputError(f"cannot read {name}: {_told(error)}") from error
    finally:
        if stream is not source:
            stream.close()


def _told(error: Exception) -> str:
    """What a decoder has to say, as far as it is meant for people, in one line."""
    told = " ".join(str(error).split())
    if told in ("unknown pixel mode", "unknown raw mode for given image mode"):
        return f"samples of an unknown kind; {EXPECTED}"
    if "MAX_TEXT_CHUNK" in told:
        return f"a text or colour profile in it is larger than {_MAX_TEXT >> 20} MiB unpacked"
    said = isinstance(error.__cause__ or error, (OSError, ValueError, SyntaxError))  # Pillow wraps its own slips
    meant = said and told != "not identified by this driver"
    return told if told and meant else "it is damaged or incomplete"


def _identified(stream: BinaryIO, name: str, max_pixels: int | None) -> ImageFile.ImageFile:
    """Open an image without Pillow's own pixel limit, which is global state; ours is an argument.

    Its limit of 1 MB for a PNG's texts and colour profile is raised meanwhile: the other formats hold more, which we
    write into small pictures, and what stands in a text chunk of an original is not needed at all.
    """
    head = stream.read(64)
    if not head:
        raise InputError(f"{name} is empty")
    kind = identify(head) or _known_to_pillow(head[:16].ljust(16, b"\0"))  # some tests stumble over less
    if kind is None:
        names = "PNG, JPEG, WebP, TIFF, BMP, AVIF, GIF, HEIF or JPEG XL"
        raise InputError(f"{name} is not a picture that irn reads ({names})")
    factory = _factory(kind)
    stream.seek(0)
    with _LIMIT:
        before, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, _MAX_TEXT
        try:
            image = factory(stream, name)
        finally:
            PngImagePlugin.MAX_TEXT_CHUNK = before
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise InputError(
            f"{name} is too large: {width}x{height} is {width * height:,} pixels, the limit is {max_pixels:,}",
            Code.TOO_LARGE,
        )
    return image


def _known_to_pillow(prefix: bytes) -> str | None:
    Image.init()
    tests = ((kind, Image.OPEN[kind][1]) for kind in _READERS if kind in Image.OPEN)
    return next((kind for kind, accept in tests if accept and accept(prefix) is True), None)


def _factory(kind: str) -> Callable[[BinaryIO, str], ImageFile.ImageFile]:
    """What opens files of a format.

    Raises:
        UsageError: its plugin is not installed.
    """
    if kind == "JXL":
        return JxlImageFile
    if kind == "HEIF":
        module: Any = plugin(kind)
        opener: Callable[[BinaryIO, str], ImageFile.ImageFile] = module.HeifImageFile
        return opener
    Image.init()
    if kind == "TIFF":
        _silence_libtiff()
    return Image.OPEN[kind][0]


@cache
def _silence_libtiff() -> None:
    """Keep the library that Pillow reads TIFF with from printing, by itself, what it finds in damaged files."""
    with suppress(AttributeError, OSError):  # where it is linked in another way
        library = ctypes.CDLL(import_module("PIL._imaging").__file__)
        for kind in ("Error", "Warning"):
            set_handler = library[f"TIFFSet{kind}Handler"]
            set_handler.restype = ctypes.c_void_p
            set_handler(None)


def _require_last_row(image: Image.Image, stream: IO[bytes]) -> None:
    """Refuse a PNG whose pixels end early, though in good order.

    Raises:
        InputError: they do.
    """
    last = image.crop((0, image.height - 1, image.width, image.height))
    if (image.info.get("interlace") or not np.asarray(last).any()) and ends_early(stream):
        raise InputError("it is damaged or incomplete: its pixels end before its last row")


def _head(image: ImageFile.ImageFile) -> bytes:
    """The first 64 KiB of an image's file, which stays where it is."""
    if not image.fp:
        return b""
    stand = image.fp.tell()
    image.fp.seek(0)
    head: bytes = image.fp.read(1 << 16)
    image.fp.seek(stand)
    return head


def _chunks(image: ImageFile.ImageFile) -> list[Chunk]:
    return read_chunks(image.fp) if image.format == "PNG" and image.fp else []


def _name(source: str | os.PathLike[str] | BinaryIO) -> str:
    return "standard input" if _is_stream(source) else str(source)


def _is_stream(source: str | os.PathLike[str] | BinaryIO) -> "TypeIs[BinaryIO]":
    return not (isinstance(source, (str, os.PathLike)) or is_remote(source))


def _picture(image: ImageFile.ImageFile, stored: Stored, head: bytes, chunks: Sequence[Chunk]) -> Picture:
    """Convert a decoded image."""
    warnings: list[str] = []
    try:
        record, full_alpha = _find_record(image, chunks)
    except RecordError as error:
        warnings.append(str(error))
        record = full_alpha = None
    metadata = read_metadata(image, head, chunks, warnings)
    pixels, alpha, colours = to_rgb(image, stored, metadata.orientation, metadata.icc, warnings)
    icc, mode = fitting(metadata.icc, colours, image.mode, warnings)
    return Picture(
        pixels,
        alpha,
        mode,
        icc,
        metadata.exif,
        metadata.xmp,
        metadata.dpi,
        metadata.chunks,
        record,
        full_alpha,
        warnings=tuple(warnings),
    )


def _find_record(image: ImageFile.ImageFile, chunks: Sequence[Chunk], *, with_alpha: bool = True) -> Found:
    size = (image.height, image.width) if with_alpha else None
    return in_chunks(chunks, size) if image.format == "PNG" else in_xmp(stored_xmp(image), size)


# Writing ------------------------------------------------------------------------------------------------------------


def _require_fitting(path: object, picture: Picture, chosen: Format) -> None:
    """Refuse to write a picture in a format that cannot hold it.

    Raises:
        OutputError: it cannot.
    """
    instead = "write a PNG, WebP or TIFF instead"
    if max(picture.size) > chosen.longest:
        told = f"{chosen.name} holds at most {chosen.longest} pixels a side"
        raise OutputError(f"cannot write {path}: {told}; write a PNG or TIFF instead")
    if picture.alpha is not None and not chosen.transparency:
        raise OutputError(f"cannot write {path}: {chosen.name} has no transparency; {instead}")
    if picture.icc and not chosen.colour_profile:
        told = f"the encoder for {chosen.name} writes no colour profile, without which colours would shift"
        raise OutputError(f"cannot write {path}: {told}; {instead}")


def _encode(stream: BinaryIO, picture: Picture, chosen: Format, options: dict[str, Any]) -> tuple[str, ...]:
    image = picture.to_pil()
    metadata, lost = save_options(picture, chosen.kind)
    options = options | metadata
    if chosen.kind == "PNG" and isinstance(picture.record, Record):
        # A small picture is made to be small; drawings with repeated forms need zlib's matches for that.
        whole = [io.BytesIO(), io.BytesIO()]
        image.save(whole[0], chosen.kind, **options)
        image.save(whole[1], chosen.kind, **{**options, "compress_type": zlib.Z_DEFAULT_STRATEGY})
        stream.write(min((one.getbuffer() for one in whole), key=len))
    else:
        image.save(stream, chosen.kind, **options)
    named = ", ".join(dict.fromkeys(lost))
    return (f"left out, for {_article(chosen.name)} {chosen.name} cannot hold it: {named}",) if lost else ()


def _article(name: str) -> str:
    return "an" if name == "AVIF" else "a"
