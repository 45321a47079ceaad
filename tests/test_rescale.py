"""Pictures through the network: sizes, modes, draws, latents, blotches, and what upscaling doubts."""

import dataclasses
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from irn_cli import artifact, rescale
from irn_cli.border import LEAST, Border
from irn_cli.colour import colour_difference
from irn_cli.errors import InputError, OutputError, UsageError
from irn_cli.image import read, write
from irn_cli.latent import Latent, latent_path, read_latent
from irn_cli.metrics import psnr
from irn_cli.model import IRN, quantise
from irn_cli.picture import Picture
from irn_cli.record import Record, Restored, from_text, hash_pixels, to_text
from irn_cli.rescale import Rescaler
from irn_cli.resize import bicubic_small
from irn_cli.weights import load_model
from tests.helpers import photo_like
from tests.test_alpha import disc

Models = Callable[..., IRN]


def grey(pixels: np.ndarray) -> Picture:
    return Picture(np.repeat(pixels[..., :1], 3, 2), mode="L")


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (7, 9), (16, 24), (33, 20)])
def test_sizes_come_back(tiny_model: Models, scale: int, shape: tuple[int, int]) -> None:
    scaler = Rescaler(tiny_model(scale), "cpu", "fp32")
    small = scaler.downscale(Picture(photo_like(*shape)))
    assert small.size == (-(-shape[0] // scale), -(-shape[1] // scale))
    assert small.record.small_size == small.size
    assert scaler.upscale(small).size == shape


def test_whatever_people_have_at_hand_is_made_small_and_large(tiny_model: Models, tmp_path: Path) -> None:
    scaler = Rescaler(tiny_model(2), "cpu", "fp32")
    pixels = photo_like(65, 70)
    small = scaler.downscale(Picture(pixels))
    write(tmp_path / "a.png", Picture(pixels))
    for source in (pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(scaler.downscale(source), small)
    large = scaler.upscale(small)
    write(tmp_path / "b.png", small)
    with Image.open(tmp_path / "b.png") as opened:
        for source in (opened, tmp_path / "b.png"):
            assert np.array_equal(scaler.upscale(source), large)
    assert scaler.upscale(np.asarray(small)).size == (66, 70)  # without a record
    for method in (scaler.downscale, scaler.upscale):
        with pytest.raises(TypeError, match="expected a Picture, a PIL image, a path"):
            method(b"a.png")  # type: ignore[operator]


def test_it_shows_itself_in_a_line(tiny_model: Models) -> None:
    assert repr(Rescaler(tiny_model(2), "cpu", "fp32")) == "Rescaler(tiny-x2 revision 1, 2x, cpu, fp32)"


def test_the_small_picture_is_the_networks_with_edges_repeated(tiny_model: Models) -> None:
    model = tiny_model(4)
    pixels = photo_like(30, 41)
    padded = np.pad(pixels, ((0, 2), (0, 3), (0, 0)), mode="edge")
    x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = (quantise(model.downscale(x).y)[0] * 255).permute(1, 2, 0).numpy()
    small = Rescaler(model, "cpu", "fp32").downscale(Picture(pixels), border="zero")
    assert np.abs(small.pixels - expected).max() <= 1
    assert (small.pixels != expected).mean() < 0.001


def test_the_record_tells_all(tiny_model: Models) -> None:
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    small = scaler.downscale(grey(photo_like(30, 41)), border="zero")
    assert small.record == Record(4, 41, 30, "L", "tiny-x4", "1", scaler.hash, hash_pixels(small.pixels))
    large = scaler.upscale(small, seed=5, temperature=0.5, sample=2)
    assert large.record == Restored(4, "tiny-x4", "1", scaler.hash, 5, 0.5, 2)


def test_a_temperature_that_the_network_does_not_know_is_told(tiny_model: Models) -> None:
    model = tiny_model(4)
    scaler = Rescaler(model, "cpu", "fp32")
    small = dataclasses.replace(scaler.downscale(Picture(photo_like(130, 141))), warnings=())
    assert scaler.upscale(small).warnings == ()
    (told,) = scaler.upscale(small, temperature=0.5).warnings
    assert told == "tiny-x4 was trained for temperature 1 only: at 0.5 the restoration may be poor"
    model.temperatures = (0.0, 1.0)
    assert scaler.upscale(small, temperature=0.5).warnings == ()
    (told,) = scaler.upscale(small, temperature=1.2).warnings
    assert told == "tiny-x4 was trained for temperatures from 0 to 1: at 1.2 the restoration may be poor"


def test_draws_depend_on_seed_sample_and_pixels_alone(tiny_model: Models) -> None:
    model = tiny_model(4)
    scaler = Rescaler(model, "cpu", "fp32")
    small = scaler.downscale(Picture(photo_like(64, 80)))
    large = scaler.upscale(small).pixels
    scaler.upscale(scaler.downscale(Picture(photo_like(20, 20))))  # order of files
    assert np.array_equal(large, scaler.upscale(small).pixels)
    limited = Rescaler(model, "cpu", "fp32", memory="300MB").upscale(small).pixels
    difference = np.abs(large.astype(int) - limited)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.001
    for other in ({"seed": 1}, {"sample": 1}, {"temperature": 0.5}):
        assert (scaler.upscale(small, **other).pixels != large).mean() > 0.1
    changed = dataclasses.replace(small, pixels=np.roll(small.pixels, 1, 0))
    assert (scaler.upscale(changed).pixels != large).mean() > 0.1


def test_seeds_out_of_an_array_do(tiny_model: Models, tmp_path: Path) -> None:
    scaler = Rescaler(tiny_model(2))
    small = scaler.downscale(Picture(photo_like(16, 16)))
    large = scaler.upscale(small, seed=np.arange(4)[3], temperature=np.float32(0.5))
    write(tmp_path / "a.png", large)
    assert read(tmp_path / "a.png").record == scaler.upscale(small, seed=3, temperature=0.5).record
    assert np.array_equal(large.pixels, scaler.upscale(small, seed=3, temperature=0.5).pixels)


def test_global_random_state_is_left_alone(tiny_model: Models) -> None:
    before = torch.random.get_rng_state()
    scaler = Rescaler(tiny_model(2), "cpu", "fp32")
    scaler.upscale(scaler.downscale(Picture(photo_like(9, 9))))
    assert torch.equal(before, torch.random.get_rng_state())


def test_progress_is_reported(tiny_model: Models) -> None:
    shares: list[float] = []
    Rescaler(tiny_model(4), "cpu", "fp32").downscale(Picture(photo_like(64, 64)), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


# Colour and alpha -----------------------------------------------------------------------------------------------------


def test_grey_comes_back_grey_with_its_profile(tiny_model: Models, tmp_path: Path) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"GRAY"
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    small = scaler.downscale(dataclasses.replace(grey(photo_like(30, 40)), icc=bytes(profile)))
    assert small.mode == "RGB"
    assert small.icc is None
    write(tmp_path / "small.png", small)
    large = scaler.upscale(read(tmp_path / "small.png"))
    assert large.mode == "L"
    assert large.icc == bytes(profile)
    assert (large.pixels == large.pixels[..., :1]).all()


def test_metadata_travel_both_ways(tiny_model: Models) -> None:
    scaler = Rescaler(tiny_model(2), "cpu", "fp32")
    picture = Picture(photo_like(8, 8), icc=b"icc", exif=b"exif", xmp=b"xmp", dpi=(72.0, 72.0), warnings=("told",))
    large = scaler.upscale(scaler.downscale(picture))
    for name in ("icc", "exif", "xmp", "dpi", "warnings"):
        assert getattr(large, name) == getattr(picture, name)


def test_alpha_comes_back_exactly(tiny_model: Models, tmp_path: Path) -> None:
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    alpha = disc(61, 83, soft=5)
    small = scaler.downscale(Picture(photo_like(61, 83), alpha))
    assert small.alpha.shape == small.size
    for name in ("small.png", "small.webp", "small.tif"):
        write(tmp_path / name, small)
        large = scaler.upscale(read(tmp_path / name))
        assert np.array_equal(large.alpha, alpha)
        assert not [warning for warning in large.warnings if "transparency" in warning]


def test_hidden_colours_do_not_matter(tiny_model: Models) -> None:
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    alpha = disc(64, 64)
    pixels = photo_like(64, 64)
    garish = np.where(alpha[..., None] > 0, pixels, [255, 0, 255]).astype(np.uint8)
    assert np.array_equal(
        scaler.downscale(Picture(pixels, alpha)).pixels, scaler.downscale(Picture(garish, alpha)).pixels
    )


def test_lost_alpha_is_enlarged_and_told(tiny_model: Models) -> None:
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    alpha = disc(61, 83, soft=12)
    small = dataclasses.replace(scaler.downscale(Picture(photo_like(61, 83), alpha)), full_alpha=None, warnings=())
    large = scaler.upscale(small)
    assert "transparency was lost" in large.warnings[0]
    assert np.abs(large.alpha.astype(int) - alpha).mean() < 3


# Borders --------------------------------------------------------------------------------------------------------------


def bicubic_and_back(pixels: np.ndarray, scale: int) -> np.ndarray:
    small = np.rint(rescale.bicubic_small(pixels, scale)).astype(np.uint8)
    large = np.concatenate([np.rint(band) for _, band in rescale.bicubic_large(small, scale)])
    return large[: pixels.shape[0], : pixels.shape[1]].astype(np.uint8)


@pytest.mark.parametrize("name", ["irn-x2", "irn-x4"])
def test_tiny_and_thin_pictures_come_back_no_worse_than_bicubic(name: str, photos: Path) -> None:
    scaler = Rescaler(load_model(name), "cpu")
    photo = read(photos / "chelsea.png").pixels
    methods = set()
    for height, width in [(1, 1), (8, 8), (120, 4), (30, 40)]:
        pixels = photo[100 : 100 + height, 150 : 150 + width]
        small = scaler.downscale(Picture(pixels))
        restored = scaler.upscale(dataclasses.replace(small, record=from_text(to_text(small.record))))
        assert restored.size == (height, width)
        assert restored.warnings == ()
        assert psnr(pixels, restored.pixels) >= psnr(pixels, bicubic_and_back(pixels, scaler.scale))
        methods.add(small.record.method)
    assert "network" in methods


def test_only_what_has_a_short_side_is_tried_and_remembered(tiny_model: Models) -> None:
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    ordinary = scaler.downscale(Picture(photo_like(LEAST, LEAST))).record
    assert (ordinary.method, ordinary.border, ordinary.border_rows) == ("network", "zero", 0)
    assert '"irn":1' in to_text(ordinary)
    thin = scaler.downscale(Picture(photo_like(LEAST - 1, LEAST))).record
    assert thin.method == "bicubic"  # these weights are random
    assert '"irn":2' in to_text(thin)


@pytest.mark.parametrize("border", ["mirror", "edge"])
@pytest.mark.parametrize("shape", [(5, 70), (66, 81)])
def test_a_border_by_name_is_added_and_taken_off(tiny_model: Models, border: str, shape: tuple[int, int]) -> None:
    model, pixels = tiny_model(4), photo_like(*shape)
    scaler = Rescaler(model, "cpu", "fp32")
    small = scaler.downscale(Picture(pixels), border=border)
    whole = np.pad(pixels, ((0, -shape[0] % 4), (0, -shape[1] % 4), (0, 0)), mode="edge")
    rows, columns = 4 * small.record.border_rows, 4 * small.record.border_columns
    assert min(rows, columns) >= 32
    assert min(len(whole) + 2 * rows, whole.shape[1] + 2 * columns) >= LEAST
    mode = {"mirror": "symmetric", "edge": "edge"}[border]
    padded = np.pad(whole, ((rows, rows), (columns, columns), (0, 0)), mode=mode)
    plain = scaler.downscale(Picture(padded), border="zero").pixels
    assert np.array_equal(small.pixels, plain[rows // 4 : -rows // 4, columns // 4 : -columns // 4])
    assert scaler.upscale(small).size == shape


def test_without_a_record_a_tiny_picture_is_mirrored(tiny_model: Models) -> None:
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    tiny = scaler.downscale(Picture(photo_like(8, 8)), border="zero")
    border = Border.of("mirror", (8, 8), 4)
    record = dataclasses.replace(tiny.record, border="mirror", border_rows=border.rows, border_columns=border.columns)
    mirrored = scaler.upscale(dataclasses.replace(tiny, record=record)).pixels
    assert np.array_equal(scaler.upscale(dataclasses.replace(tiny, record=None)).pixels, mirrored)


# What is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["irn-x2", "irn-x4"])
@pytest.mark.parametrize("kind", ["photo", "grey", "transparent", "noise", "tiny"])
def test_a_kept_original_comes_back_bit_for_bit(name: str, kind: str) -> None:
    pixels = photo_like(65, 94)
    picture = {
        "photo": Picture(pixels),
        "grey": grey(pixels),
        "transparent": Picture(pixels, disc(65, 94)),
        "tiny": Picture(pixels[:6, :11]),
        "noise": Picture(np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)),
    }[kind]
    scaler = Rescaler(load_model(name), "cpu")
    small = scaler.downscale(picture, keep_latent=True)
    assert np.array_equal(small.pixels, scaler.downscale(picture).pixels)
    large = scaler.upscale(small)
    assert np.array_equal(large.pixels, picture.pixels)
    assert (large.alpha is None) == (picture.alpha is None)
    assert picture.alpha is None or np.array_equal(large.alpha, picture.alpha)
    assert (large.mode, large.warnings) == (picture.mode, small.warnings)


def test_a_kept_original_needs_neither_the_right_weights_nor_a_record(tiny_model: Models) -> None:
    picture = Picture(photo_like(30, 41))
    small = Rescaler(tiny_model(4), "cpu", "fp32").downscale(picture, keep_latent=True, refine=2)
    other = Rescaler(tiny_model(4, seed=1), "cpu", "bf16")
    for record in (small.record, None):
        large = other.upscale(dataclasses.replace(small, record=record))
        assert np.array_equal(large.pixels, picture.pixels)
        assert large.warnings == small.warnings


def test_writing_a_picture_writes_its_original_beside_it(tiny_model: Models, tmp_path: Path) -> None:
    original = Picture(photo_like(30, 40))
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    small = scaler.downscale(original, keep_latent=True)
    path = tmp_path / "a.png"
    write(path, small)
    again = dataclasses.replace(read(path), latent=read_latent(latent_path(path)))
    assert np.array_equal(scaler.upscale(again).pixels, original.pixels)
    path.unlink()
    with pytest.raises(OutputError, match=r"a\.latent\.safetensors exists already"):
        write(path, small)
    assert not path.exists()  # a picture whose original is another's
    write(path, small, overwrite=True)
    with pytest.raises(UsageError, match="expected a path, not a stream"):
        write(io.BytesIO(), small)


@pytest.mark.parametrize(
    ("name", "value"), [("on_artifact", "Warn"), ("border", "reflect"), ("border", ""), ("orientations", 3)]
)
def test_words_that_mean_nothing_are_refused(tiny_model: Models, name: str, value: str | int) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(UsageError, match=f"{name}: expected one of .*, not {value!r}"):
        Rescaler(tiny_model(2), "cpu", "fp32").downscale(Picture(photo_like(70, 66)), **options)


@pytest.mark.parametrize("temperature", [-1.0, math.inf, math.nan])
def test_temperatures_that_mean_nothing_are_refused(tiny_model: Models, temperature: float) -> None:
    """A record with such a number could not be read again."""
    with pytest.raises(UsageError, match=f"temperature: expected a number from 0 up, not {temperature}"):
        Rescaler(tiny_model(2), "cpu", "fp32").upscale(Picture(photo_like(8, 8)), temperature=temperature)


def test_an_original_of_another_picture_is_refused(tiny_model: Models) -> None:
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    small = scaler.downscale(Picture(photo_like(30, 40)), keep_latent=True)
    other = scaler.downscale(Picture(photo_like(30, 40, seed=1)), keep_latent=True)
    with pytest.raises(InputError, match="belongs to another picture"):
        scaler.upscale(dataclasses.replace(small, latent=other.latent))
    with pytest.raises(InputError, match="or the small picture has changed since"):
        scaler.upscale(dataclasses.replace(small, pixels=small.pixels ^ 1))


def with_latent(scaler: Rescaler, original: Picture) -> Picture:
    """A small picture with the latent that earlier versions kept."""
    x = torch.from_numpy(original.pixels).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        y, z = scaler.model.downscale(x)
    y, z = (part[0].permute(1, 2, 0).numpy() for part in (y, z))
    small = scaler.downscale(original, border="zero")
    rounding = y - small.pixels.astype(np.float32) / 255
    return dataclasses.replace(small, latent=Latent(z, rounding, small.record.pixels, hash_pixels(original.pixels)))


def test_with_the_latent_of_an_earlier_version_the_original_comes_back_bit_for_bit() -> None:
    """By irn-x2: no such latent was made with irn-x4's revision 7, which makes levels of float32's rounding."""
    scaler = Rescaler(load_model("irn-x2"), "cpu")  # the precision follows from the latent
    original = Picture(photo_like(64, 96))
    small = with_latent(scaler, original)
    large = scaler.upscale(small)
    assert np.array_equal(large.pixels, original.pixels)
    assert large.warnings == ()
    cut = dataclasses.replace(small.latent, z=small.latent.z[:, :, :8])
    with pytest.raises(InputError, match=r"the latent does not fit: expected \(\d+, \d+, \d+\), found"):
        scaler.upscale(dataclasses.replace(small, latent=cut))
    worse = dataclasses.replace(small.latent, z=small.latent.z * 1.5)
    assert "bit for bit" in scaler.upscale(dataclasses.replace(small, latent=worse)).warnings[-1]


# What upscaling doubts ------------------------------------------------------------------------------------------------


def test_doubts_are_told_once(tiny_model: Models) -> None:
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    small = scaler.downscale(Picture(photo_like(32, 40)))
    small = dataclasses.replace(small, warnings=())
    assert scaler.upscale(small).warnings == ()

    def told(**changes: object) -> str:
        (warning,) = scaler.upscale(dataclasses.replace(small, **changes)).warnings
        return warning

    assert "no record" in told(record=None)
    assert "pixels have changed" in told(pixels=small.pixels ^ 1)
    assert "size has changed" in told(pixels=small.pixels[:-1])
    assert "which is not tiny-x4" in told(record=dataclasses.replace(small.record, weights="0" * 64))
    with pytest.raises(InputError, match="made 2 times smaller; tiny-x4 makes 4 times larger"):
        scaler.upscale(dataclasses.replace(small, record=dataclasses.replace(small.record, scale=2)))


# Blotches -------------------------------------------------------------------------------------------------------------


class Blotching(Rescaler):
    """The shipped network, with a blotch put into what it makes of a picture."""

    def __init__(self, height: float) -> None:
        super().__init__(load_model("irn-x4"), "cpu", "fp32")
        engine = self._engine(exact=False)
        plain = engine.downscale

        def with_blotch(x: torch.Tensor, progress: object = None) -> torch.Tensor:
            u = plain(x).clone()
            u[12:22, 16:28, 0] += height
            return u

        engine.downscale = with_blotch  # type: ignore[method-assign]


def texture(grain: float) -> Picture:
    """A picture that bicubic restores nearly perfectly without grain, and badly with it."""
    y, x = np.mgrid[:128, :160]
    waves = np.stack([110 + 60 * np.sin(x / 30 + y / 40 + c) for c in range(3)], 2)
    grains = np.random.default_rng(0).normal(0, grain, (128, 160, 1))
    return Picture(np.clip(waves + grains, 0, 255).astype(np.uint8))


def test_blotches_are_told_or_refused() -> None:
    scaler = Blotching(0.3)
    (warning,) = scaler.downscale(texture(20)).warnings
    found = re.search(r"coloured blotch in the small picture at x (\d+), y (\d+): red is 7\d levels off", warning)
    assert found, warning
    assert 16 <= int(found[1]) <= 20, "8 pixels wide, within the blotch"
    assert 12 <= int(found[2]) <= 14
    with pytest.raises(InputError, match="coloured blotch"):
        scaler.downscale(texture(20), on_artifact="fail")
    assert Blotching(0).downscale(texture(20), on_artifact="fail").warnings == ()


@pytest.mark.parametrize(("height", "grain"), [(0.15, 25), (0.4, 25), (0.4, 0)])
def test_blotches_are_blended_until_they_restore_as_well_as_bicubic(height: float, grain: float) -> None:
    scaler, picture = Blotching(height), texture(grain)
    bad = scaler.downscale(picture)
    mended = scaler.downscale(picture, on_artifact="bicubic")
    reference = rescale.bicubic_small(picture.pixels, 4)
    assert artifact.find_artifact(mended.pixels, reference).deviation <= artifact.THRESHOLD
    assert mended.record.pixels == hash_pixels(mended.pixels)
    mask = artifact.artifact_mask(bad.pixels, reference) > 0
    assert np.array_equal(mended.pixels[~mask], bad.pixels[~mask])

    where = np.repeat(np.repeat(mask, 4, 0), 4, 1)
    enlarged = np.concatenate([band for _, band in rescale.bicubic_large(np.rint(reference).astype(np.uint8), 4)])
    bicubic, before, after = (
        np.square(pixels[where] - picture.pixels[where].astype(float)).mean()
        for pixels in (enlarged, scaler.upscale(bad).pixels, scaler.upscale(mended).pixels)
    )
    (warning,) = mended.warnings
    found = re.search(r"(\d+) % of the bicubic picture blended in there", warning)
    assert found
    assert (int(found[1]) < 100) == (height < 0.2), "no more than it takes"
    assert ("restores worse than bicubic" in warning) == (after > bicubic)
    if grain:  # without it nothing restores as well as bicubic: that is told, and the best is taken
        assert after <= bicubic
    else:
        assert after < before / 4


def test_fidelity_is_that_of_the_default_restoration(tiny_model: Models) -> None:
    from irn_cli.metrics import luma, psnr

    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    picture = Picture(photo_like(50, 60))
    small = scaler.downscale(picture)
    fidelity = scaler.verify(picture, small)
    large = scaler.upscale(small).pixels
    assert fidelity.rgb == pytest.approx(psnr(picture.pixels, large))
    assert fidelity.luma == pytest.approx(psnr(luma(picture.pixels), luma(large)))
    bicubic = bicubic_small(picture.pixels, 4).round().astype(np.uint8)
    assert fidelity.small == colour_difference(bicubic, small.pixels)
