"""Pictures read from files and written to them, with all that travels along: the only user of Pillow's I/O.

Whatever comes in becomes 8-bit RGB (and alpha), upright, with its metadata; each loss on the way is reported in
`Picture.warnings`.
"""

import io
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from irn_cli.chunks import Chunk, read_chunks
from irn_cli.embedded import Found, in_chunks, in_xmp
from irn_cli.errors import Code, InputError, OutputError, RecordError, UsageError
from irn_cli.files import atomic_write
from irn_cli.latent import latent_path, write_latent
from irn_cli.metadata import read_metadata, save_options
from irn_cli.paths import is_remote, open_file, to_path
from irn_cli.picture import Picture
from irn_cli.record import Record, Restored
from irn_cli.samples import EXPECTED, Stored, fitting, inspect, to_rgb

if TYPE_CHECKING:
    from typing_extensions import TypeIs

# What `read` may be able to read.
SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".avif", ".gif"]
)
# These are pictures too: found in a folder, they are reported, not skipped in silence.
FOREIGN = frozenset(
    [".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jxr", ".psd", ".psb", ".xcf", ".exr", ".hdr", ".tga", ".pnm",
     ".pbm", ".pgm", ".ppm", ".qoi", ".dng", ".raw", ".arw", ".cr2", ".cr3", ".nef", ".nrw", ".orf", ".pef", ".raf",
     ".rw2", ".srw"]
)  # fmt: skip
MAX_PIXELS = 500_000_000
_READERS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "AVIF", "GIF")
_LOSSLESS: dict[str, tuple[str, dict[str, Any]]] = {
    # For photographs this is smaller than zlib's default, in a quarter of the time.
    ".png": ("PNG", {"compress_type": zlib.Z_RLE}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),  # not exact: colours under transparent pixels would change
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
}
_LOSSY: dict[str, tuple[str, dict[str, Any]]] = {
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
}
_LONGEST = {"WEBP": 16383, "JPEG": 65500}  # pixels a side
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
    """Read a picture: PNG, JPEG, WebP, TIFF, BMP, AVIF or GIF, of one frame.

    EXIF orientation is applied. Palettes are expanded, deeper samples reduced to 8 bits and CMYK converted to sRGB; the
    last two leave a line in the picture's `warnings`.

    Args:
        source: a path, a store's URL, or a binary stream with the whole file in it.
        max_pixels: refuse larger pictures before anything is decoded.

    Raises:
        InputError: no such file, not a picture, truncated, animated, too large, or of samples that we cannot convert.
    """
    with _opened(source) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(
                f"{_name(source)} is too large: {width}x{height} is {width * height:,} pixels, "
                f"the limit is {max_pixels:,}",
                Code.TOO_LARGE,
            )
        # A camera's MPO holds previews beside its picture; frames of the other formats are pages or an animation.
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
            raise InputError(f"{_name(source)} has {frames} frames or pages; expected a picture of one")
        if getattr(image, "tag_v2", {}).get(ExifTags.Base.NewSubfileType) == 1:
            raise InputError(
                f"{_name(source)} holds only a preview, as cameras' raw files do: export it as TIFF or PNG first"
            )
        head, chunks = _head(image), _chunks(image)
        stored = inspect(image, head)
        image.load()
        return _picture(image, stored, head, chunks)


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
    """Read what a picture's file says before its pixels: cheap even for a huge one.

    Raises:
        InputError: no such file, or not a picture.
    """
    with _opened(source, whole=False) as image:
        size = image.height, image.width
        try:
            return Header(size, _find_record(image, _chunks(image))[0], format=image.format or "")
        except RecordError:
            return Header(size, None, damaged=True, format=image.format or "")


def write(path: str | os.PathLike[str] | BinaryIO, picture: Picture, *, overwrite: bool = False) -> tuple[str, ...]:
    """Write a picture, atomically, with its metadata and record; a kept latent goes into a file beside it.

    Args:
        path: the file to make; its suffix says the format: PNG, lossless WebP, TIFF, and for pictures without a small
            picture's record also JPEG. A binary stream gets a PNG.
        picture: what to write.
        overwrite: replace existing files.

    Returns:
        A line that names what of the metadata the format cannot hold; none where it holds all, as a PNG always does.

    Raises:
        UsageError: a suffix that we do not write, a lossy one for a small picture, or a stream for one with a latent.
        OutputError: a file exists already or cannot be written, or the format cannot hold the picture.
    """
    if _is_stream(path):
        if picture.latent:
            raise UsageError("a kept latent needs a file beside the picture's: expected a path, not a stream")
        return _encode(path, picture, *_LOSSLESS[".png"])
    kind, options = output_format(to_path(path), small=isinstance(picture.record, Record))
    if kind in _LONGEST and max(picture.size) > _LONGEST[kind]:
        told = f"{kind} holds at most {_LONGEST[kind]} pixels a side; write a PNG or TIFF instead"
        raise OutputError(f"cannot write {path}: {told}")
    if kind == "JPEG" and picture.alpha is not None:
        raise OutputError(f"cannot write {path}: JPEG has no transparency; write a PNG, WebP or TIFF instead")
    with atomic_write(path, overwrite=overwrite) as stream:
        try:
            lost = _encode(stream, picture, kind, options)
        except ValueError as error:  # EXIF or XMP beyond the 64 kB that JPEG has for each
            raise OutputError(f"cannot write {path}: {error}; write a PNG, WebP or TIFF instead") from error
        if picture.latent:  # before the picture is in place: none is there without its latent
            write_latent(latent_path(path), picture.latent, overwrite=overwrite)
    return lost


def output_format(path: Path, *, small: bool) -> tuple[str, dict[str, Any]]:
    """Tell the format that a path's suffix means, and the options to save it with.

    Raises:
        UsageError: a suffix that we do not write, or a lossy one for a small picture.
    """
    suffix = path.suffix.lower()
    if suffix in _LOSSLESS:
        return _LOSSLESS[suffix]
    if suffix in _LOSSY and not small:
        return _LOSSY[suffix]
    names = ".png, .webp or .tif" if small else ".png, .webp, .tif or .jpg"
    if suffix in SUFFIXES and small:
        raise UsageError(f"{path}: what is hidden in a small picture would be lost in {suffix}; expected {names}")
    if not suffix:
        raise UsageError(f"{path}: what to write? Expected a name that ends in {names}, or {path}/ for a directory")
    raise UsageError(f"{path}: cannot write {suffix}; expected {names}")


# Reading ------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: str | os.PathLike[str] | BinaryIO, *, whole: bool = True) -> Iterator[ImageFile.ImageFile]:
    """Open a picture's file; whatever a decoder stumbles over becomes one clear line."""
    name = _name(source)
    try:
        stream = source if _is_stream(source) else open_file(to_path(source), whole=whole)
    except FileNotFoundError:
        raise InputError(f"no such file: {name}") from None
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    try:
        with _identified(stream, name) as image:
            yield image
    except (InputError, RecordError):
        raise
    except MemoryError:
        raise InputError(f"cannot read {name}: not enough memory") from None
    except Exception as error:  # decoders of foreign bytes raise nearly anything: struct.error, SyntaxError ...
        told = str(error) or type(error).__name__
        if told in ("unknown pixel mode", "unknown raw mode for given image mode"):
            told = f"samples of an unknown kind; {EXPECTED}"
        raise InputError(f"cannot read {name}: {told}") from error
    finally:
        if stream is not source:
            stream.close()


def _identified(stream: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Open an image without Pillow's own pixel limit, which is global state; ours is an argument.

    Its limit of 1 MB for a PNG's texts and colour profile is raised meanwhile: the other formats hold more, which we
    write into small pictures, and what stands in a text chunk of an original is not needed at all.
    """
    Image.init()
    prefix = stream.read(16)
    if not prefix:
        raise InputError(f"{name} is empty")
    prefix = prefix.ljust(16, b"\0")  # some formats' tests stumble over less
    for kind in _READERS:
        factory, accept = Image.OPEN.get(kind, (None, None))
        if factory and accept and accept(prefix) is True:
            stream.seek(0)
            with _LIMIT:
                before, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, _MAX_TEXT
                try:
                    return factory(stream, name)
                finally:
                    PngImagePlugin.MAX_TEXT_CHUNK = before
    raise InputError(f"{name} is not a picture that we read (PNG, JPEG, WebP, TIFF, BMP, AVIF or GIF)")


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


def _bytes(xmp: str | bytes | None) -> bytes:
    return xmp.encode() if isinstance(xmp, str) else xmp or b""


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


def _find_record(image: ImageFile.ImageFile, chunks: Sequence[Chunk]) -> Found:
    size = image.height, image.width
    return in_chunks(chunks, size) if image.format == "PNG" else in_xmp(_bytes(image.info.get("xmp")), size)


# Writing ------------------------------------------------------------------------------------------------------------


def _encode(stream: BinaryIO, picture: Picture, kind: str, options: dict[str, Any]) -> tuple[str, ...]:
    image = picture.to_pil()
    metadata, lost = save_options(picture, kind)
    options = options | metadata
    if kind == "PNG" and isinstance(picture.record, Record):
        # A small picture is made to be small; drawings with repeated forms need zlib's matches for that.
        whole = [io.BytesIO(), io.BytesIO()]
        image.save(whole[0], kind, **options)
        image.save(whole[1], kind, **{**options, "compress_type": zlib.Z_DEFAULT_STRATEGY})
        stream.write(min((one.getbuffer() for one in whole), key=len))
    else:
        image.save(stream, kind, **options)
    named = ", ".join(dict.fromkeys(lost))
    return (f"left out, for a {'WebP' if kind == 'WEBP' else kind} cannot hold it: {named}",) if lost else ()
