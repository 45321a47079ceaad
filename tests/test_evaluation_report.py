"""Tables, JSON and CSV against rows made by hand; the page in a real browser."""

import base64
import csv
import dataclasses
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from irn_cli import IRN, Rescaler
from irn_cli.cluster import WorkersChanged
from irn_cli.console import show_pair
from irn_cli.evaluation.dataset import DataSet, find_data_set
from irn_cli.evaluation.evaluate import evaluate
from irn_cli.evaluation.methods import Baseline, Codec, Method, Network, find_results
from irn_cli.evaluation.page import render
from irn_cli.evaluation.published import comparison, counterpart, remarks
from irn_cli.evaluation.report import collect, protocol, show, to_csv, to_json, write_text
from irn_cli.evaluation.scores import Failure, Results, Score
from irn_cli.metrics import Metric
from tests.helpers import ROOT

METRICS = [
    {"key": key, "label": label, "digits": digits, "higher_is_better": True}
    for key, label, digits in (("psnr_y", "PSNR Y", 2), ("ssim_y", "SSIM Y", 4), ("psnr_rgb", "PSNR RGB", 2))
]
OPTIONS: dict[str, Any] = {"crop": None, "seed": 3, "temperature": 1.0, "samples": 2}


def score(method: str, dataset: str, name: str, psnr_y: float, **values: Any) -> Score:
    filled = {
        "psnr_y_samples": (psnr_y, psnr_y), "lr_psnr_y": 40.0, "lr_ssim_y": 0.99, "lr_worst_patch": 5.0,
        "lr_delta_e": 1.5, "lr_delta_e_95": 4.5,
        "lr_bits_per_pixel": 16.0, "bytes": 384, "bits_per_pixel": 1.0, "seconds": 1.5, **values,
    }  # fmt: skip
    return Score(
        quality={"psnr_y": psnr_y, "ssim_y": 0.9, "psnr_rgb": psnr_y - 2},
        method=method, scale=4, dataset=dataset, name=name, width=64, height=48, **filled,
    )  # fmt: skip


def results(*rows: Score | Failure, scale: int = 4, methods: tuple[str, ...] = ("irn-x4", "bicubic")) -> Results:
    scores = tuple(row for row in rows if isinstance(row, Score))
    sets = dict.fromkeys(row.dataset for row in rows)
    told = {
        "date": "2026-01-02T03:04:05+00:00",
        "scale": scale,
        "crop": scale,
        "seed": 0,
        "samples": 1,
        "temperature": 1.0,
        "metrics": METRICS,
        "methods": [
            {"name": name, "kind": "baseline", "parameters": None, "revision": None, "weights_hash": None}
            if name in ("bicubic", "area")
            else {"name": name, "kind": "model", "parameters": 4355136, "revision": "1", "weights_hash": "ab" * 32}
            for name in methods
        ],
        "datasets": [{"name": name, "directory": f"/data/{name}", "pictures": 2} for name in sets],
        "device": "cpu",
        "precision": "fp32",
        "versions": dict.fromkeys(("irn", "python", "torch", "numpy", "pillow"), "0"),
    }
    return Results(told, scores, tuple(row for row in rows if isinstance(row, Failure)))


@pytest.fixture
def found() -> Results:
    return results(
        score("irn-x4", "Set5", "a.png", 36.0, psnr_y_samples=(35.9, 36.1)),
        score("bicubic", "Set5", "a.png", 28.0, lr_psnr_y=math.inf, psnr_y_samples=(28.0,)),
        score("irn-x4", "Set5", "b.png", 35.0, psnr_y_samples=(35.0, 35.0), lr_worst_patch=9.0),
        score("bicubic", "Set5", "b.png", 29.0, lr_psnr_y=math.inf, psnr_y_samples=(29.0,)),
        score("irn-x4", "mine", "c.png", 30.0),
        Failure("mine", "broken.png", None, "cannot read broken.png: truncated"),
    )


def test_comparison_sets_each_method_against_its_published_row(found: Results) -> None:
    rows = comparison(found)
    assert [(row.kind, row.method) for row in rows[:4]] == [
        ("measured", "irn-x4"),
        ("difference", "IRN"),
        ("measured", "bicubic"),
        ("difference", "Bicubic & Bicubic"),
    ]
    assert rows[0].pairs == ((35.5, 0.9), (30.0, 0.9))
    assert rows[1].pairs == (pytest.approx((35.5 - 36.19, 0.9 - 0.9451)), None)
    assert rows[2].pairs == ((28.5, 0.9), None)
    published = {row.method: row for row in rows[4:]}
    assert all(row.kind == "published" for row in published.values())
    assert len(published) == 11
    assert published["CAR & EDSR"].pairs == ((33.88, 0.9174), None)
    assert published["TAD & TAU"].pairs == ((31.81, None), None)


@pytest.mark.parametrize(
    ("scale", "name", "expected"),
    [(4, "DIV2K_valid_HR", (35.07, 0.9318)), (4, "B100", (31.64, 0.8826)), (2, "urban100", (39.92, 0.9865))],
)
def test_data_sets_are_known_by_their_usual_names(scale: int, name: str, expected: tuple[float, float]) -> None:
    rows = comparison(results(score("irn-x4", name, "a.png", 30), scale=scale))
    assert next(row for row in rows if (row.kind, row.method) == ("published", "IRN")).pairs == (expected,)


def test_what_is_unknown_has_no_published_rows() -> None:
    rows = comparison(results(score("irn-x8", "Set5", "a.png", 30), scale=8, methods=("irn-x8",)))
    assert [row.kind for row in rows] == ["measured"]
    rows = comparison(results(score("irn-x4", "holiday", "a.png", 30), methods=("irn-x4",)))
    assert [row.kind for row in rows] == ["measured"]


def test_a_plus_model_is_held_against_the_papers() -> None:
    rows = comparison(results(score("irn-plus-x4", "Set5", "a.png", 33.59), methods=("irn-plus-x4",)))
    assert (rows[1].kind, rows[1].method, rows[1].pairs[0]) == ("difference", "IRN+", pytest.approx((0, 0.9 - 0.9147)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("RCAN_BIX4", "Bicubic & RCAN"), ("edsr-mine", "Bicubic & EDSR"), ("RRDB_PSNR_x4", "Bicubic & ESRGAN"),
     ("CAR", "CAR & EDSR"), ("scarf", None)],
)  # fmt: skip
def test_other_programs_are_known_by_a_word_of_their_names(name: str, expected: str | None) -> None:
    assert counterpart({"kind": "results", "name": name}) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("irn-x4", "IRN"), ("irn-x4 + 10", "IRN"), ("irn-plus-x4", "IRN+"), ("IRN+_x4", "IRN+"), ("Plus", "IRN+")],
)
def test_models_are_held_against_irn_or_its_perceptual_sister(name: str, expected: str) -> None:
    assert counterpart({"kind": "model", "name": name}) == expected


def test_means_over_fewer_pictures_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    found = results(
        score("irn-x4", "Set5", "a.png", 36.0),
        Failure("Set5", "b.png", "irn-x4", "no memory"),
        score("bicubic", "Set5", "a.png", 28.0),
        score("bicubic", "Set5", "b.png", 30.0),
    )
    rows = comparison(found)
    assert [row.pictures for row in rows if row.kind == "measured"] == [(1,), (None,)]
    show(found)
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "method parameters s/picture Set5 (2)" in out
    assert "irn-x4 4.36 M 1.50 36.00 / 0.9000 (1)" in out
    assert "bicubic 1.50 29.00 / 0.9000" in out
    assert "(n) on n pictures only: the others could not be measured" in out


def test_figures_on_rgb_are_marked_and_no_difference_to_them_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    found = results(score("bicubic", "DIV2K", "a.png", 28.0), score("irn-x4", "DIV2K", "a.png", 35.0))
    rows = {(row.kind, row.method): row for row in comparison(found)}
    assert ("difference", "Bicubic & Bicubic") not in rows
    assert ("difference", "IRN") in rows
    assert [rows["published", name].on_rgb for name in ("Bicubic & Bicubic", "Bicubic & EDSR", "IRN")] == [
        (True,),
        (True,),
        (False,),
    ]
    show(found)
    out = capsys.readouterr().out
    assert "26.66 / 0.8521*" in out
    assert "* on RGB, not on Y" in out


def test_marks_and_missing_figures_do_not_move_digits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    long = "a data set with a long name"
    found = results(
        score("irn-x4", "DIV2K", "a.png", 36.0),
        score("irn-x4", long, "a.png", 36.0),
        Failure("DIV2K", "b.png", "irn-x4", "no memory"),
        Failure(long, "b.png", "irn-x4", "no memory"),
        *(score("bicubic", dataset, name, 28.0) for dataset in ("DIV2K", long) for name in ("a.png", "b.png")),
    )
    show(found)
    head, *lines = capsys.readouterr().out.partition("\n\nsmall:")[0].splitlines()[1:]
    own, difference, bicubic, *published = [
        found for line in lines if (found := [*map(re.Match.start, re.finditer(" / ", line))])
    ]
    assert own == bicubic
    assert len(own) == 2
    assert difference == [own[0] - 1], "a sign is before the digits"
    assert len(published) > 5, "among them TAD & TAU, whose SSIM is not known"
    assert all(places == own[:1] for places in published)
    assert f"{long} (2)" in head
    assert len(head.rstrip()) == own[1] + len(" / 0.9000 (1)")


def test_tables(found: Results, capsys: pytest.CaptureFixture[str]) -> None:
    show(found)
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert out[0].startswith("4x, PSNR (dB) / SSIM on Y, 4 pixels cropped off each border; one draw, seed 0")
    assert "method parameters s/picture Set5 (2) mine (1)" in out
    assert "irn-x4 4.36 M 1.50 35.50 / 0.9000 30.00 / 0.9000" in out
    assert "against IRN -0.69 / -0.0451 -" in out
    assert "TAD & TAU 31.81 / - -" in out
    assert "irn-x4 Set5 33.50 0.0707 40.00 / 0.9900 9.0 4.5 1.000" in out
    assert "bicubic Set5 26.50 - ∞ / 0.9900 5.0 4.5 1.000" in out
    assert out[-1] == "1 could not be measured; the means leave them out"


def test_a_difference_of_nothing_has_no_minus() -> None:
    assert (show_pair((-0.001, -0.00001), "+"), show_pair((-0.006, 0.0), "+")) == ("+0.00 / +0.0000", "-0.01 / +0.0000")


def test_json(found: Results) -> None:
    read = json.loads(to_json(found), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(read) == ["version", "protocol", "summary", "pictures", "failures"]
    assert read["protocol"] == found.protocol
    row = read["summary"][1]
    assert {key: row[key] for key in ("method", "dataset", "pictures", "psnr_y", "lr_psnr_y")} == {
        "method": "bicubic", "dataset": "Set5", "pictures": 2, "psnr_y": 28.5, "lr_psnr_y": None,
    }  # fmt: skip
    assert set(row) >= {
        "method", "scale", "dataset", "pictures", "psnr_y", "ssim_y", "psnr_rgb", "lr_psnr_y", "lr_ssim_y",
        "lr_worst_patch", "psnr_y_std_over_samples", "seconds_per_picture",
    }  # fmt: skip
    assert [(row["method"], row["dataset"], row["name"]) for row in read["pictures"][:2]] == [
        ("irn-x4", "Set5", "a.png"),
        ("bicubic", "Set5", "a.png"),
    ]
    assert read["pictures"][0]["psnr_y_samples"] == [35.9, 36.1]
    assert read["failures"][0]["name"] == "broken.png"


SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "eval.schema.json").read_text(encoding="utf-8")))


def test_json_is_what_the_schema_says(found: Results, measured: tuple[Results, list[Method], list[DataSet]]) -> None:
    SCHEMA.check_schema(SCHEMA.schema)
    for each in (found, measured[0]):
        SCHEMA.validate(json.loads(to_json(each)))
    written = json.loads(to_json(found))
    for row in (written["summary"][0], written["pictures"][0], written["protocol"], written["protocol"]["methods"][0]):
        for key in [key for key in row if key not in ("psnr_y_samples", "datasets")]:
            value = row.pop(key)
            assert not SCHEMA.is_valid(written), f"the schema does not ask for {key}"
            row[key] = value
    written["pictures"][0]["lpips"] = 0.125
    assert SCHEMA.is_valid(written)
    written["pictures"][0]["lpips"] = "low"
    assert not SCHEMA.is_valid(written)


def test_csv(found: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [(row["method"], row["name"]) for row in rows][:2] == [("irn-x4", "a.png"), ("bicubic", "a.png")]
    assert (rows[0]["psnr_y_samples"], rows[0]["weights_hash"], rows[0]["crop"]) == ("35.9 36.1", "ab" * 32, "4")
    assert (rows[1]["lr_psnr_y"], rows[1]["weights_hash"], rows[1]["device"]) == ("inf", "", "cpu")
    for field in dataclasses.fields(Score):
        assert field.name in {*rows[0], "quality"}
    assert (rows[0]["psnr_y"], rows[0]["psnr_rgb"]) == ("36.0", "34.0")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_standard_output_gets_utf8_as_a_file_does(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, "backslashreplace"))
    sys.stdout.write("before ")
    write_text("-", '"é 😀 \udce9"')
    assert written.getvalue() == 'before "é 😀 \\udce9"'.encode()


def test_what_a_mean_leaves_out_is_told() -> None:
    found = results(
        score("irn-x4", "mine", "a.png", math.inf), score("irn-x4", "mine", "b.png", 30.0),
        score("bicubic", "mine", "a.png", math.inf), score("bicubic", "mine", "b.png", math.inf),
    )  # fmt: skip
    assert remarks(found) == ["irn-x4 on mine: PSNR is infinite for 1 of 2, which its mean leaves out"]
    assert [row.pairs for row in comparison(found)[:2]] == [((30.0, 0.9),), ((math.inf, 0.9),)]


def test_the_time_is_the_mean_over_pictures_not_data_sets() -> None:
    times = {"a": ("one", 1.0), "b": ("one", 1.0), "c": ("two", 4.0)}
    rows = comparison(results(*(score("irn-x4", set_, name, 30.0, seconds=one) for name, (set_, one) in times.items())))
    assert rows[0].seconds == 2.0


def test_a_picture_that_fails_counts_for_all_methods(monkeypatch: pytest.MonkeyPatch, found: Results) -> None:
    done: list[int] = []
    monkeypatch.setattr("irn_cli.evaluation.report.Throughput.describe", lambda _, count: str(done.append(count) or ""))
    collect([found.failures[0], *found.scores[:2], Failure("Set5", "b.png", "irn-x4", "no memory")], found.protocol)
    assert done == [0, 1, 1, 2]


def test_following_tells_failures_at_once(capsys: pytest.CaptureFixture[str], found: Results) -> None:
    rows = [*found.scores, *found.failures, Failure("mine", "d [b].png", "irn-x4", "no memory")]
    gathered = collect(rows, found.protocol)
    assert (gathered.scores, len(gathered.failures)) == (found.scores, 2)
    assert capsys.readouterr().err.splitlines() == [
        "irn: cannot read broken.png: truncated",
        "irn: mine/d [b].png (irn-x4): no memory",
    ]


def test_following_a_cluster_tells_its_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: Results
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as far as rich can tell
    monkeypatch.setenv("TERM", "xterm")
    collect([WorkersChanged(2), *found.scores, WorkersChanged(1, "no weights there"), found.scores[0]], found.protocol)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "irn: a worker was given up: no weights there\n" in shown
    assert re.search(r"Set5, 1 worker, \d+\.\d files/s", shown)


def test_rows_of_a_summary_come_in_the_order_of_the_methods() -> None:
    found = results(
        Failure("mine", "a.png", "irn-x4", "no memory"), score("bicubic", "mine", "a.png", 28.0),
        score("irn-x4", "mine", "b.png", 30.0), score("bicubic", "mine", "b.png", 28.0),
        score("irn-x4", "set", "b.png", 30.0),
    )  # fmt: skip
    assert [(row.dataset, row.method) for row in found.summary] == [
        ("mine", "irn-x4"),
        ("mine", "bicubic"),
        ("set", "irn-x4"),
    ]


# The page -----------------------------------------------------------------------------------------------------------


def picture(height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6 + seed, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def measured(tiny_model: Callable[..., IRN], tmp_path: Path) -> tuple[Results, list[Method], list[DataSet]]:
    """Three pictures, one with an awkward name, one that cannot be read, on a tiny network and a baseline."""
    directory = tmp_path / "Set5"
    (directory / "<").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b & <i>ü.png", "</script><script>throw 1<script>.png"]):
        Image.fromarray(picture(80 + 4 * seed, 96, seed)).save(directory / name)
    (directory / "broken.png").write_bytes(b"")
    methods: list[Method] = [Network("tiny", Rescaler(tiny_model(4), "cpu", "fp32")), Baseline("bicubic", 4)]
    datasets = [find_data_set(directory)]
    told = protocol(methods, datasets, **OPTIONS, device="cpu", precision="fp32")
    return collect(evaluate(methods, datasets, **OPTIONS), told), methods, datasets


def page_data(page: str) -> dict[str, Any]:
    start = page.index('id="data">') + len('id="data">')
    return json.loads(page[start : page.index("</script>", start)])  # type: ignore[no-any-return]


def test_the_page_carries_what_was_measured(measured: tuple[Results, list[Method], list[DataSet]]) -> None:
    data = page_data(render(*measured))
    found = measured[0]
    assert len(data["pictures"]) == 6
    assert len(data["failures"]) == 1
    exhibits = {exhibit["name"]: exhibit for exhibit in data["exhibits"]}
    ranked = sorted((row for row in found.scores if row.method == "tiny"), key=lambda row: row.psnr_y)
    bicubic = {row.name: row.psnr_y for row in found.scores if row.method == "bicubic"}
    wanted: dict[str, set[str]] = {row.name: set() for row in ranked}
    for row, role in zip(ranked, ("worst", "median", "best"), strict=True):
        wanted[row.name].add(role)
    wanted[max(ranked, key=lambda row: bicubic[row.name] - row.psnr_y).name].add("largest loss")
    wanted[max(found.scores, key=lambda row: row.lr_worst_patch or 0).name].add("worst small picture")
    assert {name: set(exhibit["roles"]) for name, exhibit in exhibits.items()} == wanted
    assert data["exhibits"][0]["roles"][0] == "largest loss"
    for exhibit in exhibits.values():
        assert [method["name"] for method in exhibit["methods"]] == ["tiny", "bicubic"]
        shown = [exhibit["original"], exhibit["guide"]]
        for method in exhibit["methods"]:
            shown += [method["restored"], method["small"]]
        assert set(shown) <= set(data["images"])
        assert exhibit["methods"][1]["small"] == exhibit["guide"]  # made once, carried once
    shown_pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["images"][exhibits["a.png"]["original"]]))))
    assert np.array_equal(shown_pixels, np.asarray(Image.open(measured[2][0].directory / "a.png"))[:80, :96])


def test_methods_without_small_pictures_and_failures_are_shown_too(tmp_path: Path) -> None:
    directory = tmp_path / "set"
    directory.mkdir()
    for seed, name in enumerate(["a.png", "b.png"]):
        Image.fromarray(picture(64, 72, seed)).save(directory / name)
    (tmp_path / "sr").mkdir()
    Image.fromarray(picture(64, 72, 1)).save(tmp_path / "sr" / "b_SR.png")
    given = find_results(f"T={tmp_path}/sr", 4)
    methods: list[Method] = [given, Baseline("area", 4), Codec("jpeg", 4)]
    datasets = [find_data_set(directory)]
    told = protocol(methods, datasets, **OPTIONS, device="cpu", precision="fp32")
    found = collect(evaluate(methods, datasets, **OPTIONS), told)
    data = page_data(render(found, methods, datasets))
    assert [(failure["method"], failure["name"]) for failure in data["failures"]] == [
        ("T", "a.png"),
        ("jpeg", "a.png"),
        ("jpeg", "b.png"),
    ]
    shown = {exhibit["name"]: exhibit for exhibit in data["exhibits"]}
    assert [(method["name"], method["small"] is None) for method in shown["b.png"]["methods"]] == [
        ("T", True),
        ("area", False),
    ]


def test_a_large_picture_is_shown_around_its_worst_spot(tmp_path: Path) -> None:
    pixels = np.zeros((1100, 1500, 3), np.uint8)
    pixels[1000:1040:2, 1400:1440] = 255  # hard for area averaging, far at the lower right
    Image.fromarray(pixels).save(tmp_path / "large.png")
    methods: list[Method] = [Baseline("area", 4)]
    datasets = [find_data_set(tmp_path)]
    options = {**OPTIONS, "samples": 1}
    told = protocol(methods, datasets, **options, device="cpu", precision="fp32")
    data = page_data(render(collect(evaluate(methods, datasets, **options), told), methods, datasets))
    (exhibit,) = data["exhibits"]
    assert exhibit["roles"] == ["worst", "worst small picture"]
    assert exhibit["full"] == [1500, 1100]
    assert (exhibit["width"], exhibit["height"]) == (960, 720)
    left, top = 1500 - 960, 1100 - 720  # the part lies in the picture's corner
    x, y = left + exhibit["spot"]["x"] + 32, top + exhibit["spot"]["y"] + 32
    assert 1400 <= x <= 1440
    assert 1000 <= y <= 1040


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


DRIVER = """
<script>
window.addEventListener("load", async () => {
  const told = {};
  const stage = document.querySelector(".stage"), wipe = stage.querySelector("input");
  const [left, right] = stage.querySelectorAll("canvas");
  const pixels = (canvas) => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
  const differs = (a, b) => a.some((value, k) => value !== b[k]);
  for (let wait = 0; wait < 200 && !stage.closest("article").dataset.ready; wait++)
    await new Promise((resolve) => setTimeout(resolve, 20));

  told.before = getComputedStyle(stage).getPropertyValue("--at");
  wipe.value = 200;
  wipe.dispatchEvent(new Event("input", { bubbles: true }));
  told.moved = getComputedStyle(stage).getPropertyValue("--at");
  const all = (selector) => [...stage.closest("article").querySelectorAll(selector)];
  told.clips = [right, ...all(".split .right")].map((one) => getComputedStyle(one).clipPath);
  const press = (key) => wipe.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  press("ArrowRight");
  told.stepped = getComputedStyle(stage).getPropertyValue("--at");
  const box = stage.getBoundingClientRect();
  told.reached = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === wipe; // by a mouse
  told.said = wipe.getAttribute("aria-valuetext");

  const original = pixels(left);
  told.sides = differs(original, pixels(right));
  const [select, other] = stage.parentElement.querySelectorAll("select");
  told.views = {};
  for (const option of select.options) {
    select.value = option.value;
    select.dispatchEvent(new Event("change"));
    told.views[option.value] = option.value === "original" ? true : differs(original, pixels(left));
  }
  told.chosen = ["2", "e", "0"].map((key) => (press(key), other.value));
  const cards = () => all(".card").map((card) => [...card.querySelectorAll("canvas")].map(pixels));
  const before = cards();
  told.cards = before.map((card) => card.length);
  told.restored = differs(before[0][1], before[1][1]); // two methods, side by side
  told.error = differs(before[0][2], before[1][2]);
  const gain = stage.closest("article").querySelector(".gain input");
  gain.value = 40;
  gain.dispatchEvent(new Event("input"));
  told.amplified = differs(before[0][2], cards()[0][2]);
  const place = stage.querySelector(".marker").style.left + stage.querySelector(".marker").style.top;
  for (const key of ["a", "d", "w", "s", "s"]) press(key);
  told.walked = place !== stage.querySelector(".marker").style.left + stage.querySelector(".marker").style.top;

  const texts = (selector) => [...document.querySelectorAll(selector)].map((cell) => cell.textContent);
  const column = (k) => texts(`#list tbody td:nth-child(${k})`);
  const click = (k) => document.querySelector(`#list th:nth-child(${k}) button`).click();
  told.losses = column(2);
  told.psnr = [column(3), column(4)];
  told.best = document.querySelectorAll("#list td.best").length;
  click(3);
  told.turned = column(3);
  click(1);
  told.names = column(1);
  told.sorted = document.querySelector("#list th:nth-child(1)").getAttribute("aria-sort");
  const focus = document.getElementById("focus");
  focus.value = "bicubic";
  focus.dispatchEvent(new Event("change"));
  told.heading = texts("#list th:nth-child(2)")[0];
  const rival = document.getElementById("rival");
  told.rivals = [...rival.options].map((option) => option.value);
  rival.value = "tiny";
  rival.dispatchEvent(new Event("change"));
  told.against = [column(2), column(3), column(4)];
  told.note = texts("#list-note")[0];
  told.failed = document.querySelector("#failed").textContent;
  told.rows = document.querySelectorAll("#comparison tbody tr").length;
  told.marks = document.querySelectorAll("#trade path").length;
  told.facts = document.querySelector("#facts").textContent;
  const theme = document.getElementById("theme");
  told.grounds = ["dark", "light"].map((name) => {
    theme.value = name;
    theme.dispatchEvent(new Event("change"));
    return getComputedStyle(document.body).backgroundColor;
  });
  for (let wait = 0; wait < 200 && document.querySelectorAll("article[data-ready]").length < 3; wait++)
    await new Promise((resolve) => setTimeout(resolve, 20));
  told.ready = document.querySelectorAll("article[data-ready]").length;
  told.wide = document.documentElement.scrollWidth <= innerWidth;
  data.comparison = [-0.004, -0.006, 0.004, 0.006].map((change) => ({ kind: "difference", method: "IRN",
    pairs: [[change, change]], marks: [""], seconds: null, parameters: null }));
  showComparison();
  told.differences = [...document.querySelectorAll("#comparison tr.difference td:nth-child(2)")]
    .slice(-4).map((cell) => [cell.textContent.split(" /")[0], cell.className]);
  document.body.append(Object.assign(document.createElement("pre"), { id: "told", textContent: JSON.stringify(told) }));
});
</script>
"""
CATCHER = """<script>
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"])
  window.addEventListener(kind, (event) => {
    document.documentElement.dataset.wrong = `${kind}: ${event.message ?? event.reason ?? event.blockedURI}`;
  }, true);
</script>"""


def in_browser(page: str, tmp_path: Path) -> dict[str, Any]:
    """Open a page that puts what it found, as JSON, into an element called `told`; or skip where no browser is."""
    browser = chromium()
    if not browser:
        pytest.skip("no chromium, with which the page is tested")
    file = tmp_path / "page.html"
    file.write_text(page)
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=20000 --window-size=1200,4000 --dump-dom"
    )
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert 'id="told"' in ran.stdout, ran.stderr[-2000:]
    assert "data-wrong" not in ran.stdout, ran.stdout[:300]
    start = ran.stdout.index('id="told">') + len('id="told">')
    text = ran.stdout[start : ran.stdout.index("</pre>", start)]
    return json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))  # type: ignore[no-any-return]


def test_the_page_in_a_browser(measured: tuple[Results, list[Method], list[DataSet]], tmp_path: Path) -> None:
    page = render(*measured)
    assert "http://" not in page
    assert "https://" not in page
    driven = page.replace("<head>", f"<head>{CATCHER}", 1).replace("</body>", f"{DRIVER}</body>", 1)
    told = in_browser(driven, tmp_path)
    assert (told["before"], told["moved"], told["stepped"]) == ("50%", "20%", "22%")
    assert told["clips"] == ["inset(0px 0px 0px 20%)"] * 3  # the stage and two methods: one slider
    assert told["said"] == "Original on the left 22 %"
    assert told["reached"]
    assert told["ready"] == len(page_data(page)["exhibits"])
    assert told["sides"]
    restored = {f"{what} {name}" for what in ("restored", "error", "small") for name in ("tiny", "bicubic")}
    assert set(told["views"]) == {"original", "guide", *restored}
    assert all(told["views"].values())
    assert told["chosen"] == ["restored bicubic", "error bicubic", "original"]
    assert told["cards"] == [4, 4]
    assert told["restored"]
    assert told["error"]
    assert told["amplified"]
    assert told["walked"]
    losses = [float(text.replace("\N{MINUS SIGN}", "-")) for text in told["losses"]]
    assert losses == sorted(losses, reverse=True)
    differences = [float(b) - float(a) for a, b in zip(*told["psnr"], strict=True)]
    assert differences == pytest.approx(losses, abs=0.011)
    assert told["best"] == 3
    assert told["turned"] == sorted(told["psnr"][0], key=float)
    assert told["sorted"] == "ascending"
    assert told["names"] == ["</script><script>throw 1<script>.png", "a.png", "b & <i>ü.png"]
    assert told["heading"].startswith("bicubic loses")
    assert told["rivals"] == ["", "tiny"]
    lost, tiny, bicubic = ([float(text.replace("\N{MINUS SIGN}", "-")) for text in cells] for cells in told["against"])
    assert lost == sorted(lost, reverse=True)
    assert [a - b for a, b in zip(tiny, bicubic, strict=True)] == pytest.approx(lost, abs=0.011)
    better = sum(a > b for a, b in zip(tiny, bicubic, strict=True))
    assert told["note"].endswith(f"Better than bicubic: tiny on {better} of 3.")
    assert "broken.png" in told["failed"]
    assert told["rows"] == len(comparison(measured[0])) + 1
    assert told["marks"] == 2 * (3 + 1)  # two methods: three pictures and their mean
    assert measured[0].protocol["methods"][0]["weights_hash"][:12] in told["facts"]
    dark, light = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in told["grounds"])
    assert dark < 150 < 600 < light
    assert told["wide"]
    assert told["differences"] == [["+0.00", ""], ["\N{MINUS SIGN}0.01", "bad"], ["+0.00", ""], ["+0.01", "good"]]


LOSSLESS = """
<script>
window.addEventListener("load", async () => {
  const told = {};
  for (let wait = 0; wait < 200 && document.querySelectorAll("article:not([data-ready])").length; wait++)
    await new Promise((resolve) => setTimeout(resolve, 20));
  const named = (name) => (article) => article.querySelector("h4").textContent === name;
  const failing = [...document.querySelectorAll("article")].find(named("b.png"));
  const [wipe, right] = [failing.querySelector(".stage input"), failing.querySelectorAll(".controls select")[1]];
  told.keys = ["2", "4", "5", "6"].map((key) => {
    wipe.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    return right.value;
  });
  const places = (selector) => [...document.querySelectorAll(selector)].map((mark) => mark.getBoundingClientRect());
  told.infinite = [...document.querySelectorAll("#trade text")].filter((text) => text.textContent === "\u221e").length;
  told.marks = [...document.querySelectorAll("#trade path title")].map((title) => title.textContent);
  const names = places("#trade .name"), svg = places("#trade svg")[0];
  told.names = [...document.querySelectorAll("#trade .name")].map((name) => name.firstChild.textContent);
  told.inside = names.every((box) => box.left >= svg.left && box.right <= svg.right && box.top >= svg.top);
  told.overlap = names.some((a, k) => names.slice(k + 1).some((b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2));
  const texts = (selector) => [...document.querySelectorAll(selector)].map((cell) => cell.textContent);
  const column = (k) => texts(`#list tbody td:nth-child(${k})`);
  told.losses = column(2);
  told.psnr = column(3);
  const partial = methods.indexOf("partial") + 3;
  const head = document.querySelector(`#list th:nth-child(${partial}) button`);
  told.partial = [0, 1].map(() => (head.click(), column(partial)));
  told.cards = document.querySelector("#exhibits").textContent;
  const digits = [...document.querySelectorAll("#comparison tr.measured td:nth-child(2)")].map((cell) => {
    const range = document.createRange();
    range.selectNode(cell.firstChild);
    return Math.round(range.getBoundingClientRect().right);
  });
  told.aligned = new Set(digits).size;
  document.body.append(Object.assign(document.createElement("pre"), { id: "told", textContent: JSON.stringify(told) }));
});
</script>
"""


def test_methods_without_loss_have_their_place_on_the_page(tmp_path: Path) -> None:
    for folder in ("set", "equal", "small", "partial"):
        (tmp_path / folder).mkdir()
    for seed, name in enumerate(["a.png", "b.png", "c.png"]):
        image = Image.fromarray(picture(64, 72, seed))
        small = image.resize((18, 16), Image.Resampling.BICUBIC)
        image.save(tmp_path / "set" / name)
        image.save(tmp_path / "equal" / name)
        small.save(tmp_path / "small" / name)
        if name != "b.png":
            small.resize((72, 64)).save(tmp_path / "partial" / name)
    folders = {"whole": "equal,small", "shut": "equal", "partial": "partial", "w" * 200: "equal,small"}
    given = [
        find_results(f"{name}={','.join(str(tmp_path / folder) for folder in found.split(','))}", 4)
        for name, found in folders.items()
    ]
    methods: list[Method] = [Baseline("area", 4), *given]
    datasets = [find_data_set(tmp_path / "set")]
    options = {**OPTIONS, "samples": 1}
    told = protocol(methods, datasets, **options, device="cpu", precision="fp32")
    page = render(collect(evaluate(methods, datasets, **options), told, quiet=True), methods, datasets)
    shown = in_browser(
        page.replace("<head>", f"<head>{CATCHER}", 1).replace("</body>", f"{LOSSLESS}</body>", 1), tmp_path
    )
    last = f"restored {'w' * 200}"
    assert shown["keys"] == ["restored whole", "restored whole", last, last]  # the fourth failed, and there is no sixth
    assert shown["infinite"] == 2  # at the end of either axis
    assert sum("restored \N{INFINITY} dB" in mark for mark in shown["marks"]) == 2 * (3 + 1)
    assert "shut (no small picture)" in shown["names"]
    assert len(shown["names"]) == len(methods)
    assert shown["inside"]
    assert not shown["overlap"]
    assert shown["losses"] == ["\N{INFINITY}"] * 3
    assert shown["psnr"] == sorted(shown["psnr"], key=float)  # of equal losses the worst picture comes first
    assert [cells[-1] for cells in shown["partial"]] == ["\N{EN DASH}"] * 2  # what is missing is last either way
    assert "\N{MINUS SIGN}\N{INFINITY}" not in shown["cards"]
    assert shown["aligned"] == 1  # a mark behind a figure does not move its digits


WIDTHS = """<!doctype html><body><script>
const page = {{page}};
window.addEventListener("load", async () => {
  const told = {};
  for (const width of [390, 768, 1280, 1920]) {
    const frame = document.createElement("iframe");
    Object.assign(frame.style, { width: `${width}px`, height: "900px", border: 0 });
    frame.srcdoc = page;
    document.body.append(frame);
    await new Promise((resolve) => frame.addEventListener("load", resolve));
    const { document: inner } = frame.contentWindow;
    told[width] = ["html", "#comparison td:nth-child(2)", "#list td:nth-child(3)", ".stage"].map((place) => {
      const element = inner.querySelector(place);
      return place === "html" ? element.scrollWidth : element.getBoundingClientRect().right;
    });
    told.list ??= 0;
    if (width === 1280) told.list = inner.querySelector("#list table").offsetWidth;
  }
  document.body.append(Object.assign(document.createElement("pre"), { id: "told", textContent: JSON.stringify(told) }));
});
</script>"""


def test_nothing_is_cut_off_on_any_screen(
    measured: tuple[Results, list[Method], list[DataSet]], tmp_path: Path
) -> None:
    page = json.dumps(render(*measured)).replace("<", "\\u003c")
    told = in_browser(WIDTHS.replace("{{page}}", page, 1), tmp_path)
    for width in (390, 768, 1280, 1920):  # the page, and the columns with PSNR, are in view
        assert max(told[str(width)]) <= width, told
    assert told["list"] <= 1280


PRINTED = """<!doctype html><body><script>
const page = {{page}};
window.addEventListener("load", async () => {
  const told = {};
  const frame = document.createElement("iframe");
  Object.assign(frame.style, { width: "{{width}}px", height: "1000px", border: 0 });
  frame.srcdoc = page;
  document.body.append(frame);
  await new Promise((resolve) => frame.addEventListener("load", resolve));
  const inner = frame.contentWindow.document;
  const all = (places) => [...inner.querySelectorAll(places)];
  told.page = inner.documentElement.scrollWidth;
  told.tables = all("table").map((table) => [table.offsetWidth, table.parentElement.clientWidth]);
  told.cut = all("th, td:not(:first-child)").filter((cell) => cell.scrollWidth > cell.clientWidth)
    .map((cell) => cell.textContent);
  told.columns = all("#list th").length;
  told.screen = all(".screen").filter((element) => element.offsetWidth).length;
  document.body.append(Object.assign(document.createElement("pre"), { id: "told", textContent: JSON.stringify(told) }));
});
</script>"""
A4 = 717  # CSS pixels between the margins that Chromium leaves on a sheet 210 mm wide


def test_ten_methods_on_five_data_sets_fit_a_printed_sheet(tmp_path: Path) -> None:
    names = ["irn-x4", "irn-x4_refined", "RCAN_BIX4", "RRDB_PSNR_x4", "SwinIR_classical", "EDSR_baseline", "CAR", "RDN"]
    sets = ["Set5", "Set14", "BSD100", "Urban100", "DIV2K_valid_HR"]
    for seed, name in enumerate(sets):
        (tmp_path / name).mkdir()
        Image.fromarray(picture(48, 64, seed)).save(tmp_path / name / "a picture with a long name 0123456789.png")
    methods: list[Method] = [Baseline("bicubic", 4), Baseline("area", 4)]
    methods += [find_results(f"{name}={tmp_path}", 4) for name in names]
    further = [Metric(key, key.upper(), 4, False, lambda *_: 0.1234) for key in ("lpips", "dists")]
    datasets = [find_data_set(tmp_path / name) for name in sets]
    options = {**OPTIONS, "samples": 1}
    told = protocol(methods, datasets, metrics=further, **options, device="cpu", precision="fp32")
    found = collect(evaluate(methods, datasets, metrics=further, **options), told, quiet=True)
    assert not found.failures
    # Chromium's command line prints, but does not measure what it prints: a screen as wide gets the sheet's rules.
    page = render(found, methods, datasets).replace("@media print {", "@media screen {")
    text = json.dumps(page).replace("<", "\\u003c")
    shown = in_browser(PRINTED.replace("{{width}}", str(A4), 1).replace("{{page}}", text, 1), tmp_path)
    assert shown["screen"] == 0, "what is of no use on paper is hidden"
    assert shown["columns"] >= 2 + len(methods) + 5
    assert shown["page"] <= A4, shown["tables"]
    assert all(table <= place for table, place in shown["tables"]), shown["tables"]
    assert shown["cut"] == []
