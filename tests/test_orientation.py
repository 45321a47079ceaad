"""The eight ways in which a picture can lie, and small pictures made in the one that is restored best."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from irn_cli import load_model, rescale
from irn_cli.artifact import Artifact
from irn_cli.metrics import Psnr, psnr
from irn_cli.model import IRN
from irn_cli.orientation import as_stored, as_upright
from irn_cli.picture import Picture, Pixels
from irn_cli.record import Record, to_text
from irn_cli.rescale import Rescaler
from tests.helpers import photo_like

Models = Callable[..., IRN]
ALL = range(1, 9)


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_they_are_exifs(orientation: int, shape: tuple[int, ...]) -> None:
    upright = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(np.ascontiguousarray(as_stored(upright, orientation)))
    image.getexif()[ExifTags.Base.Orientation] = orientation
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), upright)
    assert np.array_equal(as_upright(np.asarray(image), orientation), upright)


def made(scaler: Rescaler, pixels: Pixels, orientation: int) -> Picture:
    """A small picture as it must be if this orientation is chosen, by turning what goes in and what comes out."""
    laid = scaler.downscale(np.ascontiguousarray(as_stored(pixels, orientation)), border="zero")
    small = as_upright(laid.pixels, orientation)
    record = replace(scaler.record(small, pixels.shape[:2], "RGB"), orientation=orientation)
    return Picture(small, record=record)


def best(scaler: Rescaler, pixels: Pixels, count: int = 8) -> int:
    """The orientation that `upscale` restores best, each decoded as its record says."""

    def reached(orientation: int) -> float:
        found = Psnr.of(pixels, scaler.upscale(made(scaler, pixels, orientation)).pixels)
        return found.luma + found.rgb

    return max(range(1, count + 1), key=reached)


@pytest.fixture
def scaler(tiny_model: Models) -> Rescaler:
    return Rescaler(tiny_model(4), "cpu", "fp32")


@pytest.mark.parametrize("orientation", ALL)
def test_a_record_is_obeyed(scaler: Rescaler, orientation: int) -> None:
    pixels = photo_like(67, 70)
    restored = scaler.upscale(made(scaler, pixels, orientation), temperature=0)
    plain = scaler.downscale(np.ascontiguousarray(as_stored(pixels, orientation)), border="zero")
    turned = as_upright(scaler.upscale(plain, temperature=0).pixels, orientation)
    assert np.array_equal(restored.pixels, turned)
    assert restored.size == (67, 70)


@pytest.mark.parametrize("count", [4, 8])
def test_the_best_of_them_is_kept(scaler: Rescaler, count: int) -> None:
    for seed in range(3):
        pixels = photo_like(67, 70, seed=seed)
        small = scaler.downscale(pixels, orientations=count)  # type: ignore[arg-type]
        chosen = best(scaler, pixels, count)
        assert isinstance(small.record, Record)
        assert small.record.orientation == chosen
        assert np.array_equal(small.pixels, made(scaler, pixels, chosen).pixels)
        assert json.loads(to_text(small.record))["irn"] == (1 if chosen == 1 else 3), "which older versions refuse"
    assert scaler.downscale(pixels).record.orientation == 1


def test_one_with_a_blotch_is_left_for_one_without(scaler: Rescaler, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = photo_like(67, 70)
    otherwise = best(scaler, pixels)
    looked_at = iter(range(1, 10))  # the eight, and the one that is kept
    monkeypatch.setattr(
        rescale, "find_artifact", lambda *_: Artifact(99.0 * (next(looked_at) == otherwise), "red", 0, 0)
    )
    small = scaler.downscale(pixels, orientations=8)
    assert small.record.orientation != otherwise
    assert not small.warnings


@pytest.mark.parametrize("orientation", ALL)
def test_a_border_lies_as_the_picture_does(scaler: Rescaler, orientation: int) -> None:
    small = photo_like(5, 18)  # of a picture that had more added where it is thin
    border = {"border": "mirror", "border_rows": 6, "border_columns": 1}
    record = replace(scaler.record(small, (20, 70), "RGB"), orientation=orientation, **border)  # type: ignore[arg-type]
    restored = scaler.upscale(Picture(small, record=record), temperature=0).pixels
    laid = np.ascontiguousarray(as_stored(small, orientation))
    if orientation > 4:
        border |= {"border_rows": 1, "border_columns": 6}
    size = as_stored(restored, orientation).shape
    plain = replace(scaler.record(laid, size[:2], "RGB"), **border)  # type: ignore[arg-type]
    turned = scaler.upscale(Picture(laid, record=plain), temperature=0).pixels
    assert np.array_equal(restored, as_upright(turned, orientation))


def test_grey_pictures_stay_grey(scaler: Rescaler) -> None:
    grey = Picture(np.repeat(photo_like(67, 70)[..., :1], 3, 2), mode="L")
    restored = scaler.upscale(scaler.downscale(grey, orientations=8)).pixels
    assert (restored == restored[..., :1]).all()


def test_refining_goes_on_from_there() -> None:
    scaler = Rescaler(load_model("irn-x2"), "cpu", "fp32")
    pixels = photo_like(66, 72)
    orientation = next(k for k in (6, 5, 7, 8) if best(scaler, np.ascontiguousarray(as_stored(pixels, k))) > 4)
    pixels = np.ascontiguousarray(as_stored(pixels, orientation))
    turned = scaler.downscale(pixels, orientations=8)
    refined = scaler.downscale(pixels, orientations=8, refine=3)
    assert refined.record.orientation == turned.record.orientation > 4
    before, after = (psnr(pixels, scaler.upscale(small).pixels) for small in (turned, refined))
    assert refined.refinement.before.rgb == before
    assert refined.refinement.after.rgb == after > before + 0.1
