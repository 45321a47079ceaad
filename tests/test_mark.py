"""The mark in a small picture's pixels: what it tells, what it costs, and what it outlasts."""

import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irn_cli import mark
from irn_cli.errors import InputError
from irn_cli.evaluation.dataset import DataSet, load
from irn_cli.image import read, write
from irn_cli.latent import KeptOriginal
from irn_cli.mark import Mark
from irn_cli.picture import Picture
from irn_cli.record import Record, hash_pixels
from irn_cli.train.data import load_pictures
from tests.helpers import photo_like

SIDE = 128


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mark, "LEAST", SIDE**2)


def small(
    scale: int = 4, mode: str = "RGB", cut: tuple[int, int] = (1, 2), side: int = SIDE, **fields: object
) -> Picture:
    pixels = photo_like(side, side)
    record = Record(
        scale=scale, height=side * scale - cut[0], width=side * scale - cut[1], mode=mode, model="irn-x4", revision="1",
        weights="0a1b2c" + "7" * 58, pixels=hash_pixels(pixels), **fields,  # type: ignore[arg-type]
    )  # fmt: skip
    return Picture(pixels, record=record)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_it_tells_how_to_restore(scale: int, mode: str) -> None:
    for cut in ((0, 0), (1, 0), (scale - 1, scale - 1)):
        plain = small(scale, mode, cut)
        marked = mark.put(plain)
        assert mark.find(marked) == Mark(scale, (SIDE * scale - cut[0], SIDE * scale - cut[1]), mode, "0a1b2")
        assert mark.find(plain) is None
        changed = marked.pixels.astype(int) - plain.pixels
        assert np.abs(changed).max() == 1
        assert np.count_nonzero(changed) <= 64
        assert not changed[..., [0, 2]].any()
        assert isinstance(marked.record, Record)
        assert marked.record.pixels == hash_pixels(marked.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_tells_the_orientation(orientation: int) -> None:
    found = mark.find(mark.put(small(orientation=orientation)))
    assert found is not None
    assert found.orientation == orientation


def test_a_stripped_small_picture_is_no_original(tmp_path: Path) -> None:
    stripped, told = Picture(mark.put(small()).pixels), "irn made it, though its record was stripped"
    write(path := tmp_path / "a.png", stripped)
    with pytest.raises(InputError, match=told):
        load(DataSet("d", tmp_path, (path,)), path, 4, 4)
    assert np.array_equal(
        load(DataSet("d", tmp_path, (path,), include_own=True), path, 4, 4).picture.pixels, stripped.pixels
    )
    write(other := tmp_path / "b.png", Picture(photo_like(SIDE, SIDE)))
    pictures = load_pictures([path, other], 4, 32)
    assert (len(pictures), len(pictures.skipped)) == (1, 1)
    assert told in pictures.skipped[0]
    assert len(load_pictures([path, other], 4, 32, include_own=True)) == 2


def test_a_kept_original_still_belongs_to_the_marked_picture() -> None:
    plain = small()
    original = photo_like(9, 9)
    marked = mark.put(replace(plain, latent=KeptOriginal(original, plain.record.pixels)))
    assert isinstance(marked.latent, KeptOriginal)
    assert marked.latent.pixels == marked.record.pixels != plain.record.pixels
    assert marked.latent.original is original


def test_where_there_is_none() -> None:
    for plain in (small(side=SIDE - 1), small(method="bicubic"), small(border="edge", border_rows=4),
                  Picture(photo_like(SIDE, SIDE))):  # fmt: skip
        assert mark.put(plain) is plain
    for seed in range(50):
        noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        assert mark.find(Picture(noise)) is None


def test_a_change_or_another_size_is_no_mark() -> None:
    marked = mark.put(small())
    for bit in (0, 31, 63):
        changed = marked.pixels.copy()
        changed.reshape(-1, 3)[(2 * bit + 1) * SIDE**2 // 128, 1] ^= 1
        assert mark.find(Picture(changed)) is None
    assert mark.find(Picture(marked.pixels[:, ::-1])) is None
    assert mark.find(Picture(np.concatenate([marked.pixels, marked.pixels[:1]]))) is None


def commands() -> list[list[str]]:
    """Optimisers that drop texts, where they are installed."""
    known = [
        ["zopflipng", "-y", "--iterations=1", "in.png", "out.png"],
        ["zopflipng", "-y", "--iterations=1", "--lossy_transparent", "in.png", "out.png"],
        ["optipng", "-quiet", "-strip", "all", "-out", "out.png", "in.png"],
        ["pngcrush", "-q", "-rem", "alla", "-reduce", "in.png", "out.png"],
        ["oxipng", "-q", "--strip", "all", "--alpha", "--out", "out.png", "in.png"],
        ["exiftool", "-q", "-all=", "-o", "out.png", "in.png"],
    ]
    return [command for command in known if shutil.which(command[0])]


def resaves() -> list[Callable[[], str]]:
    """Other programs' lossless ways from in.png to the file that they name."""

    def pillow(name: str, **options: object) -> Callable[[], str]:
        def save() -> str:
            Image.open("in.png").save(name, **options)  # type: ignore[arg-type]
            return name

        return save

    def palette() -> str:
        Image.fromarray(read("in.png").pixels).quantize(256, dither=Image.Dither.NONE).save("out.png")
        return "out.png"

    def tool(command: list[str]) -> Callable[[], str]:
        def run() -> str:
            subprocess.run(command, check=True, capture_output=True)
            return "out.png"

        return run

    return [pillow("out.png", optimize=True), pillow("out.webp", lossless=True, exact=False), pillow("out.tif"),
            palette, *map(tool, commands())]  # fmt: skip


@pytest.mark.parametrize("kind", ["photo", "transparent", "few colours"])
def test_it_outlasts_what_keeps_the_pixels(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = small(side=160)
    if kind == "transparent":
        plain = replace(plain, alpha=np.where(np.indices((160, 160))[1] < 30, 0, 200).astype(np.uint8))
    if kind == "few colours":
        plain = replace(plain, pixels=plain.pixels // 128 * 100)
    marked = mark.put(plain)
    write("in.png", marked)
    for resave in resaves():
        if resave.__name__ == "palette" and kind != "few colours":
            continue
        name = resave()
        assert mark.find(read(name)) == mark.find(marked) is not None, name
        Path(name).unlink()


def test_jpeg_leaves_none() -> None:
    data = io.BytesIO()
    Image.fromarray(mark.put(small()).pixels).save(data, "JPEG", quality=95)
    data.seek(0)
    assert mark.find(read(data)) is None
