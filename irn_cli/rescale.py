"""Pictures made small and large again: colour, alpha, padding, the latent, the network and rounding."""

import base64
import dataclasses
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irn_cli.alpha import Alpha, enlarge_alpha, fill_hidden, shrink_alpha
from irn_cli.artifact import THRESHOLD, artifact_mask, find_artifact
from irn_cli.border import LEAST, Border, Kind
from irn_cli.canvas import HUGE, Canvas, to_pixels
from irn_cli.colour import ColourDifference, colour_difference
from irn_cli.device import Precision, resolve_device, resolve_precision, trim_memory
from irn_cli.engine import Engine, Progress
from irn_cli.errors import Code, InputError, UsageError
from irn_cli.gradient import Gradient
from irn_cli.hardware import parse_memory
from irn_cli.image import PictureLike, as_picture
from irn_cli.latent import KeptOriginal
from irn_cli.mark import put as put_mark
from irn_cli.metrics import Psnr
from irn_cli.model import IRN
from irn_cli.orientation import as_stored, as_upright
from irn_cli.picture import Picture, Pixels, Refinement
from irn_cli.record import Record, Restored, hash_pixels
from irn_cli.refine import Rails, find_better, residual
from irn_cli.resize import bicubic_large, bicubic_small
from irn_cli.weights import weights_hash

OnArtifact = Literal["warn", "fail", "bicubic"]
BorderChoice = Literal["auto", Kind]
Orientations = Literal[1, 4, 8]  # upright; flipped, too; on its side, too

_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the bicubic small picture, tried in turn where a blotch is
_BORDER = 32  # pixels of the original that a border asked for by name adds at least


@dataclass(frozen=True)
class Fidelity:
    """How near a restored picture comes to its original, and the small one to bicubic."""

    luma: float  # PSNR on Y of BT.601, over all pixels, dB
    rgb: float
    small: ColourDifference


class Rescaler:
    """Makes pictures small and large again with one network::

        picture -> fill what is transparent -> pad to a multiple of s, and by the border
                -> downscale -> take the border off -> round y -> small picture + record
        (so in several orientations, if asked for, and the one kept that is restored best)
        small picture -> (refined, if asked for, until what `upscale` makes of it comes nearest to the picture)

        small picture -> add the border, and z drawn from N(0, T^2)
                      -> upscale -> crop to the recorded size -> round -> picture

    On the CPU, and without a limit of memory, several threads may use it at once.

    Attributes:
        model: the network.
        hash: its weights' hash, which small pictures remember.
    """

    def __init__(
        self,
        model: IRN,
        device: str = "auto",
        precision: str = "auto",
        memory: str | int | None = None,
    ) -> None:
        """Prepare a network for use.

        Args:
            model: the network; not changed.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or, untested, `mps`.
            precision: of the convolutions: `auto`, `fp32` or `bf16`. With a latent that an earlier version kept, `auto`
                is `fp32`: only then does the original come back bit for bit.
            memory: most bytes to use on the device, or a text such as `2GB`; None is what there is.

        Raises:
            UsageError: an option means nothing.
            DeviceError: no such device.
        """
        self.model = model
        self.hash = weights_hash(model.state_dict())
        self._device = resolve_device(device)
        self._memory = parse_memory(memory) if isinstance(memory, str) else memory
        self._sampling = resolve_precision(precision, self._device)
        self._exact: Precision = "fp32" if precision == "auto" else self._sampling
        self._engines: dict[Precision, Engine] = {}
        self._gradient: Gradient | None = None
        self._building = threading.Lock()

    @property
    def scale(self) -> int:
        """How many times smaller or larger each side becomes."""
        return self.model.config.scale

    def __repr__(self) -> str:
        model = f"{self.model.name} revision {self.model.revision}"
        return f"Rescaler({model}, {self.scale}x, {self._device}, {self._sampling})"

    def downscale(
        self,
        picture: PictureLike,
        *,
        keep_latent: bool = False,
        on_artifact: OnArtifact = "warn",
        border: BorderChoice = "auto",
        orientations: Orientations = 1,
        refine: int = 0,
        mark: bool = False,
        progress: Progress | None = None,
        refining: Callable[[Refinement], None] | None = None,
    ) -> Picture:
        """Make a picture small.

        Args:
            picture: a `Picture`, a Pillow image, a uint8 array (H, W, 3), RGB, or a path; of any size: right and bottom
                edges are repeated up to a multiple of the scale.
            keep_latent: give the small picture as its `latent` the original's pixels, with which `upscale` gives them
                back bit for bit.
            on_artifact: what to do about a coloured blotch, a patch far from the bicubic small picture: `warn`, `fail`,
                or blend the region towards the bicubic one until it restores no worse than `bicubic` does.
            border: what surrounds the picture in the network: `zero`, as the network was trained; `mirror` or `edge`,
                the picture continued. `auto` is `zero`, but a picture with a side below `border.LEAST` is tried with
                `zero`, with `mirror`, and with bicubic interpolation in the network's place, and the best one taken: it
                restores no worse than interpolation.
            orientations: how many of EXIF's eight to try in the network: 1, 4 (flipped) or 8 (turned on its side, too);
                each is made small and restored, and the one kept that is restored best (PSNR on Y plus that on RGB),
                without a blotch if there is one without. A picture restored best without the network is left as it is.
            refine: how often to change the small picture so that it is restored better, about four ways through the
                network each. It stays as near to bicubic as it was, but for little, and where nothing is better, as it
                is.
            mark: put into the lowest bits of 64 pixels how to restore the picture, for where its record is lost.
            progress: called from this thread now and then with the share done, 0 to 1; what it raises ends the work.
            refining: called with what has been reached, before each of these changes and after the last.

        Returns:
            The small picture, of ceil(size / scale), with the record that `upscale` needs; metadata as they were.

        Raises:
            TypeError: no such picture.
            UsageError: an option means nothing: another word, a negative `refine` or another number of orientations.
            InputError: there is a blotch, and `on_artifact` is `fail`; or a file cannot be read.
        """
        if refine < 0:
            raise UsageError(f"refine: expected a number of iterations, not {refine}")
        for name, value, known in (
            ("on_artifact", on_artifact, OnArtifact),
            ("border", border, BorderChoice),
            ("orientations", orientations, Orientations),
        ):
            if value not in get_args(known):
                raise UsageError(f"{name}: expected one of {', '.join(map(str, get_args(known)))}, not {value!r}")
        picture = as_picture(picture)
        pixels = fill_hidden(picture.pixels, picture.alpha)
        height, width = picture.size
        if border != "auto":
            surroundings: Border | None = Border.of(border, picture.size, self.scale, _BORDER)
        elif min(picture.size) < LEAST:
            surroundings = self._best_border(pixels)
        else:
            surroundings = Border()
        alpha = None if picture.alpha is None else shrink_alpha(picture.alpha, self.scale)

        def finish(small: Pixels, orientation: int = 1) -> Picture:
            """What comes of pixels: a small picture with its record and, if asked for, its mark."""
            record = dataclasses.replace(
                self.record(small, (height, width), picture.mode),
                grey_icc=base64.b64encode(picture.icc).decode() if picture.icc and picture.mode == "L" else "",
                **_remembered(surroundings),
                orientation=orientation,
                name=picture.name,
                format=picture.format,
            )
            finished = dataclasses.replace(
                picture,
                pixels=small,
                alpha=alpha,
                mode="RGB",  # detail hides in the channels' differences, of a grey picture too
                icc=picture.icc if picture.mode == "RGB" else None,
                record=record,
                full_alpha=picture.alpha,
                latent=KeptOriginal(picture.pixels, record.pixels) if keep_latent else None,
            )
            return put_mark(finished) if mark else finished

        refinement, orientation, warnings = None, 1, list(picture.warnings)
        if surroundings is None:
            small = _rounded(bicubic_small(pixels, self.scale))
            if refine:
                warnings.append("not refined: so small a picture is restored best without the network")
        else:
            tried = 2 * orientations if orientations > 1 else 1
            stages = _stages(progress, [*[1] * tried, *[1, 3] * refine, *[1, 1, 1] * (refine > 0)])
            canvases = [self._canvas(surroundings, picture.size, orientation=k + 1) for k in range(orientations)]
            making = [next(stages) for _ in range(tried)]
            canvas, small = self._best_laid(canvases, pixels, picture.mode == "L", making)
            orientation = canvas.orientation
            small, told = self._without_blotch(canvas, pixels, small, on_artifact, making[-1])
            warnings += told
            if refine:
                restored = dataclasses.replace(canvas, grey=picture.mode == "L")
                finished = partial(finish, orientation=orientation)
                small, refinement = self._refine(restored, pixels, small, refine, finished, stages, refining)
        return dataclasses.replace(finish(small, orientation), refinement=refinement, warnings=tuple(warnings))

    def upscale(
        self,
        picture: PictureLike,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        sample: int = 0,
        progress: Progress | None = None,
    ) -> Picture:
        """Make a small picture large again.

        Args:
            picture: the small picture, as `downscale` takes one; with its `latent`, if that was kept, the original is
                given back. One without a record, as an array is, is only enlarged, `scale` times.
            seed: which latents to draw; equal seeds draw equal latents for equal small pictures.
            temperature: the latent's standard deviation; `model.temperatures` is what the network was trained for.
            sample: which of the draws of this seed, from 0.
            progress: as `downscale`'s.

        Returns:
            The large picture, of the recorded size and mode; doubts about it stand in its `warnings`.

        Raises:
            TypeError: no such picture.
            UsageError: the temperature is negative, infinite or no number.
            InputError: the picture was made small by another factor than the network's, or the latent is not its; or a
                file cannot be read.
        """
        if not 0 <= temperature < math.inf:
            raise UsageError(f"temperature: expected a number from 0 up, not {temperature}")
        picture = as_picture(picture)
        record = picture.record if isinstance(picture.record, Record) else None
        digest = hash_pixels(picture.pixels)
        size = picture.size[0] * self.scale, picture.size[1] * self.scale
        doubts = self._doubts(picture, record, digest)
        if record and record.small_size == picture.size:
            size = record.height, record.width
        mode = record.mode if record else picture.mode
        kept = picture.latent
        surroundings = _surroundings(record, picture.size, self.scale)
        drawn = 0, 0.0, 0
        if kept and kept.pixels != digest:
            raise InputError(
                "the kept original belongs to another picture, or the small picture has changed since; "
                "without its file a latent is drawn"
            )
        if isinstance(kept, KeptOriginal):
            pixels, doubts = kept.original, []
            size = pixels.shape[0], pixels.shape[1]
        elif surroundings is None:
            x = torch.from_numpy(np.concatenate([band for _, band in bicubic_large(picture.pixels, self.scale)])) / 255
            pixels = to_pixels(x, size, grey=mode == "L")
        elif kept:
            canvas = self._canvas(surroundings, size, exact=True, grey=mode == "L")
            pixels = canvas.restore(canvas.with_latent(picture.pixels, kept), progress)
            if kept.original != hash_pixels(pixels):
                doubts.append("the kept latent did not bring the original back bit for bit: other hardware?")
        else:
            orientation = record.orientation if record else 1
            canvas = self._canvas(surroundings, size, grey=mode == "L", orientation=orientation)
            u = canvas.draw(picture.pixels, seed=seed, temperature=temperature, sample=sample)
            pixels = canvas.restore(u, progress)
            drawn = int(seed), float(temperature), int(sample)  # a record takes no numbers of NumPy's
            doubts += self._unknown(temperature)
        alpha, remarks = _full_alpha(picture, size, self.scale)
        icc = picture.icc
        if mode == "L" and record:
            icc = base64.b64decode(record.grey_icc) or None
        name = record.name if record else picture.name
        return dataclasses.replace(
            picture,
            pixels=pixels,
            alpha=alpha,
            mode=mode,
            icc=icc,
            record=Restored(self.scale, self.model.name, self.model.revision, self.hash, *drawn, name=name),
            full_alpha=None,
            latent=None,
            refinement=None,
            warnings=(*picture.warnings, *doubts, *remarks),
        )

    def verify(self, original: Picture, small: Picture, progress: Progress | None = None) -> Fidelity:
        """Restore a small picture, as `upscale` does by default, and compare both with the original."""
        restored = self.upscale(small, progress=progress).pixels
        pixels = fill_hidden(original.pixels, original.alpha)
        reference = _rounded(bicubic_small(pixels, self.scale, self._device))
        found = Psnr.of(pixels, restored)
        return Fidelity(found.luma, found.rgb, colour_difference(reference, small.pixels))

    def record(self, small: Pixels, size: tuple[int, int], mode: str) -> Record:
        """What a small picture remembers of an original of (H, W) and mode, where this network made it."""
        return Record(
            scale=self.scale,
            width=size[1],
            height=size[0],
            mode=mode,
            model=self.model.name,
            revision=self.model.revision,
            weights=self.hash,
            pixels=hash_pixels(small),
        )

    def _engine(self, exact: bool) -> Engine:
        precision = self._exact if exact else self._sampling
        with self._building:
            if precision not in self._engines:
                self._engines[precision] = Engine(self.model, self._device, precision, self._memory)
            return self._engines[precision]

    def _canvas(
        self,
        border: Border,
        size: tuple[int, int],
        *,
        exact: bool = False,
        grey: bool = False,
        orientation: int = 1,
    ) -> Canvas:
        if orientation > 4:
            border = Border(border.kind, border.columns, border.rows)
        return Canvas(self._engine(exact), border, size, grey, orientation)

    def _best_laid(
        self, canvases: list[Canvas], pixels: Pixels, grey: bool, stages: list[Progress | None]
    ) -> tuple[Canvas, Pixels]:
        """The orientation in which a picture restores best, with the small picture; one with a blotch is the last."""
        if len(canvases) == 1:
            return canvases[0], canvases[0].downscale(pixels, stages[0])
        reference = bicubic_small(pixels, self.scale, self._device)
        reached, best = (False, -math.inf), (canvases[0], pixels)
        for canvas, down, up in zip(canvases, stages[::2], stages[1::2], strict=True):
            small = canvas.downscale(pixels, down)
            restored = dataclasses.replace(canvas, grey=grey).upscale(small, up)
            psnr = Psnr.of(pixels, restored)
            found = find_artifact(small, reference).deviation <= THRESHOLD, psnr.luma + psnr.rgb
            if found > reached:
                reached, best = found, (canvas, small)
        return best

    def _unknown(self, temperature: float) -> list[str]:
        """A warning about a temperature that the network was not trained for, if it is one."""
        low, high = self.model.temperatures
        if low <= temperature <= high:
            return []
        known = f"temperatures from {low:g} to {high:g}" if low < high else f"temperature {high:g} only"
        return [f"{self.model.name} was trained for {known}: at {temperature:g} the restoration may be poor"]

    def _refine(
        self,
        canvas: Canvas,
        pixels: Pixels,
        small: Pixels,
        iterations: int,
        finish: Callable[[Pixels], Picture],
        stages: Iterator[Progress | None],
        refining: Callable[[Refinement], None] | None,
    ) -> tuple[Pixels, Refinement]:
        """The best small picture found, judged by what `upscale` makes of it by default."""
        with self._building:
            if self._gradient is None:
                self._gradient = Gradient(self.model, self._device, self._sampling, self._memory)
        gradient = self._gradient
        laid, orientation = as_stored(pixels, canvas.orientation), canvas.orientation
        border, (height, width) = canvas.border, as_stored(small, orientation).shape[:2]
        inside = slice(border.rows, border.rows + height), slice(border.columns, border.columns + width)
        corner = border.rows * self.scale, border.columns * self.scale

        def give_back() -> None:
            if pixels.size > 3 * HUGE:  # glibc puts a map seldom where the last one was: freed ones would add up
                trim_memory()

        def restore(tried: Pixels, sample: int) -> tuple[Tensor, Pixels]:
            give_back()
            x = canvas.engine.upscale(canvas.draw(finish(tried).pixels, sample=sample), next(stages))
            return x, canvas.cut(x)

        def pull_back(x: Tensor) -> Tensor:
            give_back()
            _, found = gradient.pull_back(x, residual(x, laid, corner, grey=canvas.grey), next(stages))
            # What a border copies counts at its own place only: exact is not needed. A copy lets go of the whole map.
            return torch.from_numpy(as_upright(found[inside][..., :3].clone().cpu().numpy(), orientation))

        rails = Rails(small, _rounded(bicubic_small(pixels, self.scale, self._device)))
        return find_better(small, pixels, iterations, rails, restore=restore, pull_back=pull_back, told=refining)

    def _doubts(self, picture: Picture, record: Record | None, digest: str) -> list[str]:
        """What makes a good restoration unlikely, one line each."""
        if not record:
            return ["no record of irn: foreign, or stripped; if irn made it, the original's size restores it whole"]
        if record.scale != self.scale:
            raise InputError(f"made {record.scale} times smaller; {self.model.name} makes {self.scale} times larger")
        doubts = []
        if record.weights != self.hash:
            doubts.append(
                f"made with {record.model} revision {record.revision} ({record.weights[:12]}), which is not "
                f"{self.model.name} ({self.hash[:12]}): the restoration will be poor without the right ones"
            )
        if record.small_size != picture.size:
            doubts.append("its size has changed since irn made it: the restoration will be poor")
        elif record.pixels != digest:
            doubts.append("its pixels have changed since irn made it: the restoration will be poorer")
        return doubts

    def _best_border(self, pixels: Pixels) -> Border | None:
        """What a picture with a short side restores best with: a border, or None for bicubic interpolation."""
        size = (pixels.shape[0], pixels.shape[1])
        errors: dict[Border | None, float] = {}
        for border in (Border(), Border.of("mirror", size, self.scale)):
            canvas = self._canvas(border, size)
            errors[border] = _error(pixels, [(0, canvas.upscale(canvas.downscale(pixels)))])
        bands = bicubic_large(_rounded(bicubic_small(pixels, self.scale)), self.scale)
        errors[None] = _error(pixels, ((top, np.rint(band)) for top, band in bands))
        return min(errors, key=lambda border: errors[border])

    def _without_blotch(
        self, canvas: Canvas, pixels: Pixels, small: Pixels, on_artifact: OnArtifact, progress: Progress | None
    ) -> tuple[Pixels, list[str]]:
        """A small picture after what is to be done about a blotch in it, if there is one, and a line about that."""
        reference = bicubic_small(pixels, self.scale, self._device)
        artifact = find_artifact(small, reference)
        if artifact.deviation <= THRESHOLD:
            return small, []
        if on_artifact == "fail":
            raise InputError(str(artifact), Code.ARTIFACT)
        if on_artifact == "warn":
            return small, [f"{artifact} (on-artifact bicubic blends it away)"]
        small, outcome = _blend(canvas, pixels, small, reference, progress)
        return small, [f"{artifact}; {outcome}"]


def _blend(
    canvas: Canvas, pixels: Pixels, small: Pixels, reference: NDArray[np.float32], progress: Progress | None
) -> tuple[Pixels, str]:
    """Blend blotches towards the bicubic small picture, as little as restores no worse than bicubic."""
    mask, scale = artifact_mask(small, reference), canvas.scale
    where = np.repeat(np.repeat(mask > 0, scale, 0), scale, 1)[: pixels.shape[0], : pixels.shape[1]]
    target = _error(pixels, bicubic_large(_rounded(reference), scale), where)
    best, least, best_share = small, np.inf, 0.0
    for share in _SHARES:
        weight = share * mask[..., None]
        blended = _rounded(small * (1 - weight) + reference * weight)
        if share < 1 and find_artifact(blended, reference).deviation > THRESHOLD:
            continue
        error = _error(pixels, [(0, canvas.upscale(blended, progress))], where)
        if error < least:
            best, least, best_share = blended, error, share
        if error <= target:
            break
    outcome = f"{100 * best_share:.0f} % of the bicubic picture blended in there"
    return best, outcome if least <= target else f"{outcome}, yet it restores worse than bicubic"


def _remembered(border: Border | None) -> dict[str, Any]:
    """A border, or None for bicubic interpolation, as fields of a record."""
    if border is None:
        return {"method": "bicubic"}
    return {"border": border.kind, "border_rows": border.rows, "border_columns": border.columns}


def _full_alpha(small: Picture, size: tuple[int, int], scale: int) -> tuple[Alpha | None, list[str]]:
    """The alpha (H, W) of a restored picture, if it has any; and a line where only that of the small one is left."""
    if small.alpha is None or (small.full_alpha is not None and small.full_alpha.shape == size):
        return small.full_alpha, []
    told = "the original's transparency was lost from the file: enlarged from the small one"
    alpha = enlarge_alpha(small.alpha, scale)[: size[0], : size[1]]
    return alpha, [told] if isinstance(small.record, Record) else []


def _surroundings(record: Record | None, size: tuple[int, int], scale: int) -> Border | None:
    """The border of a small picture of (h, w), or None for bicubic interpolation; without a record, a likely one."""
    if record and record.method == "bicubic":
        return None
    if record:
        return Border(cast("Kind", record.border), record.border_rows, record.border_columns)
    original = size[0] * scale, size[1] * scale
    return Border.of("mirror", original, scale) if min(original) < LEAST else Border()


def _error(pixels: Pixels, bands: Iterable[tuple[int, NDArray[Any]]], where: NDArray[np.bool_] | None = None) -> float:
    """Sum of the squared differences from a picture that comes in bands of rows, over all or some of the pixels."""
    total = 0.0
    for top, band in bands:
        part = pixels[top : top + len(band)]
        difference = part - band[: len(part), : part.shape[1]].astype(np.float64)
        if where is not None:
            difference = difference[where[top : top + len(part)]]
        total += float((difference * difference).sum())
    return total


def _stages(progress: Progress | None, weights: Iterable[int]) -> Iterator[Progress | None]:
    """The progress of one stage after another, each of its part of the whole."""
    weights = tuple(weights)
    for index, weight in enumerate(weights):
        begin = sum(weights[:index])
        yield progress and partial(_report, progress, begin / sum(weights), weight / sum(weights))


def _report(progress: Progress, begin: float, part: float, share: float) -> None:
    progress(begin + part * share)


def _rounded(levels: NDArray[Any]) -> Pixels:
    pixels: Pixels = np.rint(levels).astype(np.uint8)
    return pixels
