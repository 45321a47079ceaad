"""`irn info`: what a file says of itself, for people and programs."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from irn_cli import mark
from irn_cli.cli import irn
from irn_cli.image import write
from irn_cli.info import Info, describe
from irn_cli.inputs import find_pictures
from irn_cli.latent import latent_path
from irn_cli.model import IRN
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.weights import load_model, save_model
from tests.helpers import ROOT, photo_like

SCHEMA = json.loads((ROOT / "docs" / "info.schema.json").read_text(encoding="utf-8"))
ORIGINAL = Picture(photo_like(66, 71), alpha=np.full((66, 71), 9, np.uint8), dpi=(72, 72))


@pytest.fixture
def scaler(tmp_path: Path, tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch) -> Rescaler:
    """Of a model that is known by name; the tests' directory is the current one."""
    save_model(tmp_path / "weights" / "irn-x2.safetensors", tiny_model(2))
    monkeypatch.setenv("IRN_WEIGHTS", "weights")
    monkeypatch.chdir(tmp_path)
    return Rescaler(load_model("irn-x2"), "cpu", "fp32")


def about(name: str, **options: int) -> Info:
    (source,) = find_pictures([name])
    return describe(source, **options)


def run(*arguments: str, data: bytes | None = None) -> Result:
    return CliRunner().invoke(irn, ["info", *arguments], input=data, standalone_mode=False)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_a_small_picture(scaler: Rescaler, suffix: str) -> None:
    small = scaler.downscale(ORIGINAL, keep_latent=True)
    write(f"a.{suffix}", small)
    found = about(f"a.{suffix}")
    assert (found.record, found.size, found.unchanged) == (small.record, (36, 33), True)
    assert (found.weights, found.latent) == (Path("weights/irn-x2.safetensors"), latent_path(f"a.{suffix}"))
    assert "transparency" in found.carries
    assert list(found.lines())[1:5] == [
        "  made by irn: 2 times smaller than 71x66",
        f"  weights: irn-x2 revision 1 ({scaler.hash[:12]}), here: weights/irn-x2.safetensors",
        "  pixels: unchanged",
        f"  restores bit for bit with: {latent_path(f'a.{suffix}')}",
    ]


def test_changed_pixels_and_weights_that_are_not_here(scaler: Rescaler) -> None:
    small = scaler.downscale(ORIGINAL)
    write("a.png", dataclasses.replace(small, pixels=small.pixels ^ 1))
    write("b.png", dataclasses.replace(small, pixels=small.pixels[:-1].copy(), alpha=None, full_alpha=None))
    Path("weights/irn-x2.safetensors").unlink()
    for name in ("a.png", "b.png"):
        found = about(name)
        assert (found.unchanged, found.weights, found.error) == (False, None, "")
        told = "\n".join(found.lines())
        assert "not here: it cannot be restored well" in told
        assert "changed since: it will restore poorly" in told


@pytest.mark.parametrize("known", [True, False])
def test_a_small_picture_with_nothing_but_its_mark(
    scaler: Rescaler, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mark, "LEAST", 64 * 64)
    small = scaler.downscale(Picture(photo_like(127, 128), mode="L"), mark=True)
    Image.fromarray(small.pixels).save("a.png")
    if not known:
        Path("weights/irn-x2.safetensors").unlink()
    found = about("a.png")
    row = json.loads(json.dumps(found.as_json()))
    jsonschema.validate(row, SCHEMA)
    digits, here = scaler.hash[:5], "weights/irn-x2.safetensors"
    assert (row["kind"], row["record"], row["weights"]) == ("small", None, here if known else None)
    assert row["mark"] == {"scale": 2, "size": [128, 127], "mode": "L", "weights": digits, "orientation": 1}
    assert list(found.lines())[1:] == [
        "  made by irn: 2 times smaller than 128x127 in grey",
        f"  weights: {digits}..., {f'here: {here}' if known else 'not here: it cannot be restored well'}",
        "  stripped of its record: the mark in its pixels restores it",
    ]


def test_a_restored_picture(scaler: Rescaler) -> None:
    write("a.png", scaler.upscale(scaler.downscale(ORIGINAL), seed=3, temperature=0.5))
    found = about("a.png")
    assert (found.as_json()["kind"], found.small_size, found.unchanged) == ("restored", None, None)
    assert "  restored by irn: irn-x2 revision 1; seed 3, temperature 0.5, sample 0" in found.lines()


def test_what_would_become_of_any_other(scaler: Rescaler) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(photo_like(66, 71)).convert("CMYK").save("a.jpg", exif=exif)
    found = about("a.jpg", scale=2)
    assert (found.format, found.size, found.scale, found.small_size) == ("JPEG", (66, 71), 2, (33, 36))
    assert found.model == "irn-x2 revision 1"
    assert "CMYK was converted to sRGB" in found.warnings[0]
    assert "  irn downscale: 33x36 with irn-x2 revision 1" in found.lines()
    assert about("a.jpg", scale=8).model is None  # no weights are known for it


def test_what_is_wrong_is_told(scaler: Rescaler) -> None:
    Image.new("L", (30, 20)).save("a.png")
    Path("b.png").write_bytes(Path("a.png").read_bytes()[:50])
    Path("c.png").write_text("no picture")
    assert about("a.png", max_pixels=100).error == "a.png is too large: 30x20 is 600 pixels, the limit is 100"
    assert about("b.png").error.startswith("cannot read b.png")
    assert about("c.png").error.startswith("c.png is not a picture")
    text = run("a.png", "b.png", "c.png", "d.png")
    assert text.return_value == 1
    assert [line.partition(":")[0] for line in text.stdout.splitlines() if line[0] != " "] == [
        f"{name}.png" for name in "abcd"
    ]


def test_the_command_in_text_and_json(scaler: Rescaler) -> None:
    write("small.png", scaler.downscale(ORIGINAL))
    write("large.png", scaler.upscale(scaler.downscale(ORIGINAL)))
    Image.fromarray(ORIGINAL.pixels).save("photo.png")
    Path("no.png").write_text("no picture")
    result = run(".", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    for row in rows:
        jsonschema.validate(row, SCHEMA)
    assert {row["source"]: row["kind"] for row in rows} == {
        "large.png": "restored", "no.png": "unusable", "photo.png": "foreign", "small.png": "small",
    }  # fmt: skip
    assert result.return_value == 1
    result = run("-", data=Path("small.png").read_bytes())
    assert result.return_value == 0
    assert result.stdout.startswith("-: PNG, 36x33, ")
