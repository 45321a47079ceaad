"""A picture in memory: what the network works on, and what travels with it from file to file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from irn_cli.errors import InputError, RecordError
from irn_cli.formats.embedded import in_image
from irn_cli.formats.samples import IN_MEMORY, fitting, to_rgb
from irn_cli.latent import Kept
from irn_cli.metrics import Psnr
from irn_cli.record import Record, Restored

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB, levels


@dataclass(frozen=True)
class Refinement:
    """What refining a small picture came to, so far or in all."""

    iterations: int
    before: Psnr  # of what the picture, as the network made it, is restored to
    after: Psnr  # of what the best one is restored to


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in memory, upright, with what travels with it; NumPy takes it for its pixels."""

    pixels: Pixels  # a grey picture has three equal channels
    alpha: NDArray[np.uint8] | None = None  # (H, W), straight (not premultiplied); 255 is opaque
    mode: str = "RGB"  # the colours of its file: "RGB" or "L" (grey)
    icc: bytes | None = None  # colour profile, of the kind that `mode` needs
    exif: bytes | None = None  # without orientation and thumbnail
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None  # horizontal, vertical
    chunks: tuple[tuple[bytes, bytes], ...] = ()  # texts, and what colours mean, as the chunks of a PNG: (kind, data)
    record: Record | Restored | None = None  # where it came from, if we made it
    full_alpha: NDArray[np.uint8] | None = None  # on a small picture: the original's alpha, full size
    latent: Kept | None = None  # on a small picture: what its original comes back with bit for bit
    refinement: Refinement | None = None  # on a small picture just made: what refining it came to
    name: str = ""  # of the file that it was read from, without directories
    format: str = ""  # of that file, as `Record.format`
    warnings: tuple[str, ...] = ()  # what was lost or doubtful on the way here; one line each

    def __post_init__(self) -> None:
        """Refuse arrays of another kind with an `InputError`; copy reversed and read-only ones, which torch refuses."""
        size = self.pixels.shape[:2]
        for name, array, shape in (("pixels", self.pixels, (*size, 3)), ("alpha", self.alpha, size)):
            if array is None:
                continue
            if array.dtype != np.uint8 or array.shape != shape or not array.size:
                raise InputError(f"a picture's {name}: expected uint8, {shape}, found {array.dtype}, {array.shape}")
            object.__setattr__(self, name, np.require(array, requirements=["C", "W"]))

    @classmethod
    def from_pil(cls, image: Image.Image) -> "Picture":
        """Take over a Pillow image: pixels, transparency, colour profile, and the record of a picture that irn made.

        EXIF orientation is applied. `irn_cli.read` brings all metadata of a file, and decodes some kinds more exactly.

        Raises:
            InputError: samples that we cannot convert, as floating-point ones.
        """
        image.load()
        warnings: list[str] = []
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        icc = image.info.get("icc_profile")
        pixels, alpha, colours = to_rgb(image, IN_MEMORY, orientation, icc, warnings)
        icc, mode = fitting(icc, colours, image.mode, warnings)
        try:
            record, full_alpha = in_image(image)
        except RecordError as error:
            warnings.append(str(error))
            record = full_alpha = None
        return cls(pixels, alpha, mode, icc, record=record, full_alpha=full_alpha, warnings=tuple(warnings))

    def to_pil(self) -> Image.Image:
        """Make a Pillow image: `L`, `LA`, `RGB` or `RGBA`, with the colour profile in its `info`.

        Saved by Pillow it is an ordinary picture: only `irn_cli.write` keeps the record and the other metadata.
        """
        samples = self.pixels if self.mode == "RGB" else self.pixels[..., :1]
        if self.alpha is not None:
            samples = np.concatenate([samples, self.alpha[..., None]], axis=2)
        image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
        if self.icc:
            image.info["icc_profile"] = self.icc
        return image

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The pixels, (H, W, 3) uint8 RGB, for `numpy.asarray`."""
        return np.array(self.pixels, dtype, copy=bool(copy)) if copy else np.asarray(self.pixels, dtype)

    def __repr__(self) -> str:
        told = [f"{self.size[1]}x{self.size[0]}", "RGB" if self.mode == "RGB" else "grey"]
        told += ["with alpha"] if self.alpha is not None else []
        if isinstance(self.record, Record):
            told.append(f"small picture of {self.record.width}x{self.record.height} by {self.record.model}")
        elif self.record:
            told.append(f"restored by {self.record.model}")
        return f"Picture({', '.join(told)})"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.pixels.shape[:2]
        return height, width
