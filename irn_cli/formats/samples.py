"""The samples of an image as 8-bit RGB and alpha: bit depths, palettes, colour keys, CMYK.

Pillow decodes; what it would forget or get wrong is looked for before it does. Rows are converted a band at a time: a
48-megapixel picture never exists twice as a whole.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile

from irn_cli.errors import InputError
from irn_cli.orientation import as_stored

REDUCED = "samples of more than 8 bits were reduced to 8"
EXPECTED = "expected 8 or 16 bits of RGB, grey or CMYK"
_BAND = 256  # rows converted at a time
_TARGETS = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB",
            "RGBA": "RGBA", "RGBa": "RGBA", "YCbCr": "RGB"}  # fmt: skip

_Samples = NDArray[np.uint8]  # (rows, W, channels), alpha last
_Convert = Callable[[Image.Image], _Samples]


@dataclass(frozen=True)
class Stored:
    """How a file stores its samples, as far as that is no longer known once they are decoded."""

    reduced: bool  # from more than 8 bits, by the decoder
    grey: bool  # though decoded as RGB
    white: int  # the level of white in 16-bit grey; of black, if `negative`
    negative: bool
    hidden: NDArray[np.bool_] | None  # (H, W), what a colour key of 16 bits makes transparent


IN_MEMORY = Stored(reduced=False, grey=False, white=65535, negative=False, hidden=None)  # as Pillow decodes by default


def inspect(image: ImageFile.ImageFile, head: bytes) -> Stored:
    """Look at how an opened file stores its samples, before they are decoded.

    Args:
        image: the file.
        head: its first 64 KiB.

    Raises:
        InputError: in a way that Pillow would decode wrongly, or not all of them.
    """
    tags = getattr(image, "tag_v2", {})
    raw = next((str(tile.args if isinstance(tile.args, str) else tile.args[0]) for tile in image.tile if tile.args), "")
    if wrong := _wrongly_decoded(image, head, tags):
        raise InputError(f"{wrong}; {EXPECTED}")
    if image.format == "TIFF" and _lacks_strips(image, tags):
        raise InputError("it is damaged or incomplete: strips or tiles of its pixels are missing")
    key = image.info.get("transparency")
    if isinstance(key, int) and raw in (spread := {"1": 255, "L;2": 85, "L;4": 17}):
        image.info["transparency"] = min(key * spread[raw], 255)  # the samples are spread over 8 bits, it is not
    return Stored(
        reduced=_is_reduced(image, head, raw),
        grey=raw.startswith("LA"),
        white=4095 if raw == "I;12" else 65535,
        negative=tags.get(ExifTags.Base.PhotometricInterpretation) == 0,
        hidden=_hidden(image, key) if raw == "RGB;16B" and isinstance(key, tuple) else None,
    )


def _wrongly_decoded(image: ImageFile.ImageFile, head: bytes, tags: Any) -> str:
    """What Pillow would misread in silence; empty for most files."""
    if image.format == "TIFF":
        if not set(tags.get(ExifTags.Base.SampleFormat, ())) <= {1, 4}:  # unsigned, undefined
            return "signed or floating-point samples"
        extra = tags.get(ExifTags.Base.ExtraSamples, ())
        if extra and extra[0] != 2 and image.mode == "LA":  # Pillow before 13 takes whatever it is for alpha
            return "grey beside something that is no plain alpha"
        bits = tags.get(ExifTags.Base.BitsPerSample, (1,))
        plain = tags.get(ExifTags.Base.Compression, 1) == 1
        if tags.get(ExifTags.Base.PlanarConfiguration) == 2 and (len(bits) == 2 or (plain and bits[0] > 8)):
            return f"{len(bits)} planes of {bits[0]} bits, each stored for itself"
    if image.format == "BMP" and head[28] == 16 and head[14] >= 56 and any(head[66:70]):
        return "16 bits to a pixel, with transparency"
    return ""


def _lacks_strips(image: ImageFile.ImageFile, tags: Any) -> bool:
    """Whether an unpacked TIFF says where only some of its pixels are: Pillow leaves the others at zero."""
    strips = [(tile.extents, tile.offset) for tile in image.tile if tile.codec_name == "raw" and tile.extents]
    planes = len(tags[ExifTags.Base.BitsPerSample]) if tags.get(ExifTags.Base.PlanarConfiguration) == 2 else 1
    there = sum((right - left) * (bottom - top) for (left, top, right, bottom), offset in strips if offset)
    return bool(strips) and there < image.width * image.height * planes


def _is_reduced(image: ImageFile.ImageFile, head: bytes, raw: str) -> bool:
    """Whether decoding takes more than 8 bits to 8."""
    if image.format == "AVIF":  # the flag for 10 and 12 bits, in its configuration box
        _, _, box = head.partition(b"av1C")
        return len(box) > 2 and bool(box[2] & 0x40)
    if image.format in ("HEIF", "JXL"):
        return bool(image.info.get("bit_depth", image.info.get("bits", 0)) > 8)
    return ";16" in raw and raw != "BGR;16"  # which is 5-6-5


def _hidden(image: ImageFile.ImageFile, key: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Where 16-bit RGB is the colour `key`: decoded twice, once for the upper bytes, once for the lower ones."""
    if not image.fp:
        return None
    stand = image.fp.tell()
    hidden = np.ones(image.size[::-1], bool)
    for raw, shift in (("RGB;16B", 8), ("RGB;16L", 0)):
        image.fp.seek(0)
        half = type(image)(image.fp)
        half.tile = [half.tile[0]._replace(args=raw)]
        for channel, level in enumerate(key):
            hidden &= np.asarray(half.getchannel(channel)) == (level >> shift & 255)
    image.fp.seek(stand)
    return hidden


def to_rgb(
    image: Image.Image, stored: Stored, orientation: int, icc: bytes | None, warnings: list[str]
) -> tuple[_Samples, NDArray[np.uint8] | None, str]:
    """Convert a decoded image.

    Args:
        image: the image.
        stored: what `inspect` said of it.
        orientation: EXIF's, 1 to 8; the result is upright.
        icc: a colour profile, for CMYK.
        warnings: gets a line for each loss.

    Returns:
        (H, W, 3) RGB; (H, W) alpha, or None; and the colours of the file, "RGB" or "L".
    """
    transparent = image.has_transparency_data
    height, width = image.size[::-1] if orientation <= 4 else image.size
    pixels = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if transparent else None
    convert, mode = _converter(image, stored, icc, warnings)
    for top in range(0, image.height, _BAND):
        rows = slice(top, min(top + _BAND, image.height))
        band = convert(image.crop((0, rows.start, image.width, rows.stop)))
        if alpha is not None:
            shown = band[..., -1] if stored.hidden is None else np.where(stored.hidden[rows], 0, 255)
            as_stored(alpha, orientation)[rows] = shown
            band = band if stored.hidden is not None else band[..., :-1]
        as_stored(pixels, orientation)[rows] = band  # one grey channel fills all three
    return pixels, alpha, mode


def fitting(icc: bytes | None, mode: str, stored: str, warnings: list[str]) -> tuple[bytes | None, str]:
    """The colour profile, if it describes the pixels, and the colours of the picture.

    Grey with a profile for RGB counts as RGB: only then does the profile keep its meaning.

    Args:
        icc: the file's profile.
        mode: the colours of the pixels, "RGB" or "L".
        stored: Pillow's mode for the file; CMYK has been converted by its profile.
        warnings: gets a line where the profile cannot stay.
    """
    if not icc or stored == "CMYK":
        return None, mode
    space = icc[16:20]
    if space == b"RGB " or (space == b"GRAY" and mode == "L"):
        return icc, "RGB" if space == b"RGB " else "L"
    name, colours = space.decode("latin-1").strip(), {"RGB": "RGB", "L": "grey"}[mode]
    warnings.append(f"its colour profile is for {name}, not for {colours}, and was left out: colours may shift")
    return None, mode


def _converter(image: Image.Image, stored: Stored, icc: bytes | None, warnings: list[str]) -> tuple[_Convert, str]:
    """How to turn bands of this image into samples, with alpha if it has any; and its colours."""
    sixteen = image.mode.startswith("I;16")
    if stored.reduced or sixteen:
        warnings.append(REDUCED)
    if sixteen:
        return lambda band: _from_16_bits(band, stored, image.info.get("transparency")), "L"
    if image.mode == "CMYK":
        return _cmyk_converter(icc, warnings), "RGB"
    if image.mode not in _TARGETS:
        raise InputError(f"samples of kind {image.mode!r}; {EXPECTED}")
    target = _TARGETS[image.mode]
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        target = "L" if (palette == palette[:, :1]).all() else "RGB"
    if stored.hidden is None and image.has_transparency_data and not target.endswith("A"):
        target += "A"

    def convert(band: Image.Image) -> _Samples:
        samples = np.asarray(band if band.mode == target else band.convert(target))
        return samples[..., None] if samples.ndim == 2 else samples

    return convert, "L" if stored.grey else target.removesuffix("A")


def _from_16_bits(band: Image.Image, stored: Stored, key: int | None) -> _Samples:
    """Grey of 16 bits as 8; where one level is transparent, with the alpha."""
    samples = np.asarray(band).astype(np.uint32)
    grey = ((samples * 255 + stored.white // 2) // stored.white).astype(np.uint8)
    if stored.negative:
        grey = 255 - grey
    return np.stack([grey] if key is None else [grey, np.where(samples == key, 0, 255).astype(np.uint8)], 2)


def _cmyk_converter(icc: bytes | None, warnings: list[str]) -> _Convert:
    """CMYK through its embedded profile into sRGB; without a profile, by the plain formula."""
    if icc:
        try:
            transform = ImageCms.buildTransform(
                io.BytesIO(icc),
                ImageCms.createProfile("sRGB"),
                "CMYK",
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except ImageCms.PyCMSError:
            warnings.append("CMYK was converted to sRGB; its colour profile is damaged: colours may shift")
        else:
            warnings.append("CMYK was converted to sRGB through its colour profile")
            return lambda band: np.asarray(ImageCms.applyTransform(band, transform))
    else:
        warnings.append("CMYK was converted to sRGB; it has no colour profile: colours may shift")
    return lambda band: np.asarray(band.convert("RGB"))
