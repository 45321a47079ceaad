"""The formats of pictures' files: which are read and which are written, by which suffix, and with which options."""

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from zlib import Z_RLE

from irn_cli.errors import UsageError

FormatName = Literal["png", "webp", "tiff", "jxl", "jpg", "avif"]

# Formats that Pillow needs a plugin for: the module, and its package (extra `irn-cli[formats]` brings them).
_PLUGINS = {"HEIF": ("pillow_heif", "pillow-heif"), "JXL": ("pillow_jxl", "pillow-jxl-plugin")}
_WITH_PLUGIN = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".jxl": "JXL"}
_PLAIN = frozenset(
    [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".avif", ".gif"]
)
# What is named like a picture. Those that we cannot read are reported, not skipped in silence.
PICTURES = _PLAIN | _WITH_PLUGIN.keys() | {
    ".jp2", ".j2k", ".jxr", ".psd", ".psb", ".xcf", ".exr", ".hdr", ".tga", ".pnm", ".pbm", ".pgm", ".ppm", ".qoi",
    ".dng", ".raw", ".arw", ".cr2", ".cr3", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"
}  # fmt: skip
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}


@dataclass(frozen=True)
class Format:
    """A format that we write."""

    kind: str  # Pillow's name for it
    name: str  # people's
    suffixes: tuple[str, ...]  # the first is the one that we give
    lossless: dict[str, Any] | None  # options to lose nothing with; None where it always loses something
    quality: int | None  # where it loses something: 1 to 100, unless another is asked for; None where it never does
    lossy: dict[str, Any] = field(default_factory=dict)  # further options where it loses something
    longest: int = 2**31 - 1  # pixels a side
    transparency: bool = True
    colour_profile: bool = True

    def options(self, quality: int | None, *, small: bool) -> dict[str, Any]:
        """The options of Pillow's `save`.

        Args:
            quality: 1 to 100; None loses nothing, where the format can do that. PNG and TIFF have none.
            small: of a small picture, of which nothing may be lost.

        Raises:
            UsageError: what is hidden in a small picture would be lost.
        """
        if small and (self.lossless is None or (quality is not None and self.quality is not None)):
            lossy = self.name if self.lossless is None else f"lossy {self.name}"
            raise UsageError(f"what is hidden in a small picture would be lost as {lossy}; {EXPECTED_SMALL}")
        exact = quality is None or self.quality is None or (self.kind == "JXL" and quality == 100)  # by its definition
        if self.lossless is not None and exact:
            return self.lossless
        return {**self.lossy, "quality": quality or self.quality}


FORMATS: dict[FormatName, Format] = {
    # For photographs this is smaller than zlib's default, in a quarter of the time.
    "png": Format("PNG", "PNG", (".png",), {"compress_type": Z_RLE}, None),
    # Not exact, colours under transparent pixels would change.
    "webp": Format("WEBP", "WebP", (".webp",), {"lossless": True, "exact": True}, 90, longest=16383),
    "tiff": Format("TIFF", "TIFF", (".tif", ".tiff"), {}, None),
    "jxl": Format("JXL", "JPEG XL", (".jxl",), {"lossless": True}, 90, colour_profile=False),
    "jpg": Format("JPEG", "JPEG", (".jpg", ".jpeg"), None, 95, {"subsampling": "4:4:4"}, 65500, transparency=False),
    "avif": Format("AVIF", "AVIF", (".avif",), None, 90, {"subsampling": "4:4:4"}, 65535),
}
SMALL = tuple(name for name, known in FORMATS.items() if known.lossless is not None)
EXPECTED_SMALL = f"expected {', '.join(SMALL[:-1])} or {SMALL[-1]}"
_BY_SUFFIX = {suffix: known for known in FORMATS.values() for suffix in known.suffixes}


def written_as(path: Path, *, small: bool = False) -> Format:
    """The format that a path's suffix means; for a small picture, a lossless one.

    Raises:
        UsageError: a suffix of nothing that we write.
    """
    suffix = path.suffix.lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    suffixes = [known.suffixes[0] for known in FORMATS.values() if known.lossless is not None or not small]
    names = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
    if not suffix:
        raise UsageError(f"{path}: what to write? Expected a name that ends in {names}, or {path}/ for a directory")
    raise UsageError(f"{path}: cannot write {suffix}; expected {names}")


def without_suffix(path: Path) -> str:
    """A file's name without the suffix of a picture; what else stands behind its last dot is part of the name."""
    return path.stem if path.suffix.lower() in PICTURES else path.name


def is_written(path: Path) -> bool:
    """Whether a path's suffix is that of a format that we write."""
    return path.suffix.lower() in _BY_SUFFIX


def unreadable(path: Path) -> str:
    """Why a file named like a picture cannot be read; empty if it can."""
    suffix = path.suffix.lower()
    if suffix in _WITH_PLUGIN:
        return _missing(_WITH_PLUGIN[suffix], suffix)
    return "" if suffix in _PLAIN or suffix not in PICTURES else f"irn does not read {suffix}"


def identify(head: bytes) -> str | None:
    """Pillow's name for the format of a file, where it is HEIF, AVIF or JPEG XL, by its first 64 bytes."""
    if head[:2] == b"\xff\x0a" or head[:12] == b"\0\0\0\x0cJXL \r\n\x87\n":
        return "JXL"
    if head[4:8] == b"ftyp":  # the main brand may be that of any picture; those that it is compatible with tell which
        brands = {head[place : place + 4] for place in (8, *range(16, min(int.from_bytes(head[:4]), len(head)), 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    return None


def plugin(kind: str) -> ModuleType | None:
    """The module that reads and writes a format; None where Pillow does that itself.

    Raises:
        UsageError: it is not installed.
    """
    if kind not in _PLUGINS:
        return None
    if missing := _missing(kind, "JPEG XL" if kind == "JXL" else "HEIF"):
        raise UsageError(missing)
    return import_module(_PLUGINS[kind][0])


def _missing(kind: str, name: str) -> str:
    module, package = _PLUGINS[kind]
    return "" if find_spec(module) else f"{name} needs {package}: pip install 'irn-cli[formats]'"
