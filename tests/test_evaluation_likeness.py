"""`irn compare`: which pictures belong together, what is measured of them, and what is said."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from irn_cli.errors import InputError, UsageError
from irn_cli.evaluation.likeness import Incomparable, Likeness, Pair, compare, find_pairs, to_json
from irn_cli.metrics import Metric, luma, psnr, ssim
from tests.helpers import ROOT, photo_like

SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "compare.schema.json").read_text("utf-8")))


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def compared(first: Path, second: Path, **options: object) -> Likeness:
    pairs, _ = find_pairs(first, second)
    (row,) = compare(pairs, **options)  # type: ignore[arg-type]
    assert isinstance(row, Likeness), row
    SCHEMA.validate(json.loads(to_json(row)))
    return row


def test_two_pictures_are_measured_by_the_papers_definitions(tmp_path: Path) -> None:
    a, b = photo_like(40, 50, 1), photo_like(40, 50, 2)
    row = compared(save(tmp_path / "a.png", a), save(tmp_path / "other.png", b), crop=3)
    a, b = a[3:-3, 3:-3], b[3:-3, 3:-3]
    assert row.quality == {
        "psnr_y": pytest.approx(psnr(luma(a), luma(b))),
        "ssim_y": pytest.approx(ssim(luma(a), luma(b))),
        "psnr_rgb": pytest.approx(psnr(a, b)),
    }
    assert (row.name, row.width, row.height, row.identical) == ("a.png", 50, 40, False)


def test_identical_means_transparency_and_borders_too(tmp_path: Path) -> None:
    pixels = photo_like(32, 32)
    alpha = np.full((32, 32, 1), 255, np.uint8)
    plain = save(tmp_path / "plain.png", pixels)
    opaque = save(tmp_path / "opaque.png", np.concatenate([pixels, alpha], 2))
    alpha[5, 5] = 0
    holed = save(tmp_path / "holed.png", np.concatenate([pixels, alpha], 2))
    pixels[0, 0] ^= 1
    edge = save(tmp_path / "edge.png", pixels)
    same = compared(plain, opaque)
    assert (same.identical, json.loads(to_json(same))["psnr_y"]) == (True, None)
    assert not compared(plain, holed).identical
    border = compared(plain, edge, crop=4)
    assert (border.identical, border.quality["psnr_rgb"]) == (False, np.inf)


def test_grey_levels_are_measured_as_they_are(tmp_path: Path) -> None:
    a, b = photo_like(32, 32, 1)[..., 0], photo_like(32, 32, 2)[..., 0]
    row = compared(save(tmp_path / "a.png", a), save(tmp_path / "b.png", b))
    assert row.quality["psnr_y"] == pytest.approx(psnr(a.astype(float), b.astype(float)))


def test_what_a_metric_cannot_measure_is_none(tmp_path: Path) -> None:
    size = Metric("size", "size", 0, True, lambda a, b, grey: float(a.size))
    a = save(tmp_path / "a.png", photo_like(8, 30))
    b = save(tmp_path / "b.png", photo_like(8, 30, 3))
    row = compared(a, b, metrics=[size])
    assert row.quality["ssim_y"] is None
    assert row.quality["size"] == 8 * 30 * 3
    assert row.quality["psnr_y"]


def test_pictures_of_folders_belong_together_by_name(tmp_path: Path) -> None:
    for name in ("b.jpg", "deep/a.png", "missing.png", "twin.jpg", "twin.png", "same.jpg", "same.png"):
        save(tmp_path / "A" / name, photo_like(16, 16))
    for name in ("b_up4.png", "deep/a.png", "twin_SR.png", "same.jpg", "same.png", "more.png"):
        save(tmp_path / "B" / name, photo_like(16, 16))
    pairs, lone = find_pairs(tmp_path / "A", tmp_path / "B")
    found = {pair.name: pair.second.relative_to(tmp_path / "B").as_posix() for pair in pairs if isinstance(pair, Pair)}
    assert found == {
        "b.jpg": "b_up4.png",
        "deep/a.png": "deep/a.png",
        "same.jpg": "same.jpg",
        "same.png": "same.png",
    }
    errors = {pair.name: pair.error for pair in pairs if isinstance(pair, Incomparable)}
    twin = f"{tmp_path}/B/twin_SR.png is the counterpart of 2 pictures in {tmp_path}/A"
    assert errors == {
        "missing.png": f"no picture for missing.png in {tmp_path}/B",
        "twin.jpg": twin,
        "twin.png": twin,
    }
    assert lone == [tmp_path / "B" / "more.png"]


def test_a_folder_and_a_picture_are_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    picture = save(tmp_path / "set" / "a.png", photo_like(16, 16))
    with pytest.raises(UsageError, match=r"expected two pictures or two folders: .*set is a folder, .*a\.png is not"):
        find_pairs(tmp_path / "set", picture)
    with pytest.raises(InputError, match=r"no such file or directory: .*nothing$"):
        find_pairs(tmp_path / "nothing", tmp_path / "set")
    with pytest.raises(UsageError, match="no pictures in"):
        find_pairs(tmp_path / "empty", tmp_path / "set")


def irn(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "irn_cli", "compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(tmp_path: Path) -> None:
    pixels = photo_like(32, 40)
    for name in ("a.png", "b.png", "c.png", "d.png"):
        save(tmp_path / "A" / name, pixels)
    save(tmp_path / "B" / "a_x4.png", pixels)
    save(tmp_path / "B" / "b.png", photo_like(32, 40, 5))
    save(tmp_path / "B" / "c.png", pixels[:-1])
    save(tmp_path / "B" / "else.png", pixels)
    (tmp_path / "B" / "d.png").write_bytes(b"nothing")
    ran = irn(tmp_path / "A", tmp_path / "B")
    assert ran.returncode == 1
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert lines[0] == ["picture", "PSNR", "Y", "SSIM", "Y", "PSNR", "RGB"]
    assert lines[1] == ["a.png", "∞", "1.0000", "∞", "identical"]
    assert lines[2][0] == "b.png"
    assert lines[3][:4] == ["mean", "of", "2", lines[2][1]]
    assert float(lines[3][4]) == pytest.approx((1 + float(lines[2][2])) / 2, abs=1e-4)
    assert lines[3][5:] == [lines[2][3], "1", "identical"]
    assert ran.stdout.splitlines()[4:] == [
        f"PSNR {kind} is infinite for 1 of 2, which its mean leaves out" for kind in ("Y", "RGB")
    ]
    told = ran.stderr.splitlines()
    assert told[0] == f"irn: {tmp_path}/B/c.png: expected 40 x 32 pixels, found 40 x 31"
    assert told[1].startswith(f"irn: {tmp_path}/B/d.png is not a picture that irn reads")
    assert told[2:] == [
        f"irn: only in {tmp_path}/B: 1, the first is {tmp_path}/B/else.png",
        "irn: 2 of 4 could not be compared",
    ]
    ran = irn(tmp_path / "A", tmp_path / "B", "--json")
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["name"] for row in rows] == ["a.png", "b.png", "c.png", "d.png"]
    for row in rows:
        SCHEMA.validate(row)
    ran = irn(tmp_path / "A" / "a.png", tmp_path / "B" / "absent.png")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"irn: a.png: no such file: {tmp_path}/B/absent.png\n"
    assert irn(tmp_path / "A", tmp_path / "A" / "a.png").returncode == 2
