"""`irn eval` from the outside: what goes where, and the exit status."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jsonschema
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from irn_cli import IRN
from irn_cli.cli import main
from irn_cli.evaluation.methods import Baseline, Small
from irn_cli.evaluation.upscaler import SuperResolutionNetwork
from irn_cli.image import read, write
from irn_cli.metrics import Metric
from irn_cli.picture import Picture
from irn_cli.rescale import Rescaler
from irn_cli.weights import save_model, weights_hash
from tests.helpers import ROOT, need_torchvision


class Ran(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def irn_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ran]:
    """Runs `irn eval` with the given arguments in an empty directory that holds a data set, `set`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("irn_cli.device.tune_allocator", lambda: None)  # is for a process of its own
    random = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for name in ("a.png", "b.png"):
        small = Image.fromarray(random.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        small.resize((70, 65), Image.Resampling.BICUBIC).save(tmp_path / "set" / name)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["irn", "eval", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert isinstance(exit_.value.code, int)
        return Ran(exit_.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def models(tiny_model: Callable[..., IRN], tmp_path: Path) -> Path:
    """A directory of weights: two at 4x of one name, one at 2x."""
    directory = tmp_path / "models"
    save_model(directory / "run1" / "weights.safetensors", tiny_model(4, seed=1))
    save_model(directory / "run2" / "weights.safetensors", tiny_model(4, seed=2))
    save_model(directory / "two.safetensors", tiny_model(2))
    return directory


def test_pictures_that_irn_made_are_no_originals(irn_eval: Callable[..., Ran], tiny_model: Callable[..., IRN]) -> None:
    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    write("set/small.png", scaler.downscale(read("set/a.png")))
    baseline = ("--data", "set", "--baseline", "area", "--json", "-", "-q")
    ran = irn_eval(*baseline)
    assert ran.status == 0
    assert ran.err == "irn: left out as made by irn: 1, the first is set/small.png; include-own takes them too\n"
    assert [row["name"] for row in json.loads(ran.out)["pictures"]] == ["a.png", "b.png"]
    ran = irn_eval(*baseline, "--include-own")
    assert ran.status == 1
    assert [row["name"] for row in json.loads(ran.out)["failures"]] == ["small.png"], "too small to be measured"


def test_json_and_csv_to_a_file_and_standard_output(irn_eval: Callable[..., Ran], models: Path) -> None:
    weights = models / "run1" / "weights.safetensors"
    ran = irn_eval("--data", "set", "-m", weights, "--baseline", "area", "--samples", 2, "--seed", 7, "--crop", 3,
                   "--json", "out/all.json", "--csv", "-", "--device", "cpu", "--precision", "fp32")  # fmt: skip
    assert ran.status == 0
    lines = list(csv.DictReader(io.StringIO(ran.out)))  # nothing but the data on standard output
    assert [(line["method"], line["name"]) for line in lines] == [
        ("weights", "a.png"),
        ("area", "a.png"),
        ("weights", "b.png"),
        ("area", "b.png"),
    ]
    assert "4x, PSNR (dB) / SSIM on Y, 3 pixels cropped" in ran.err
    found = json.loads(Path("out/all.json").read_text(encoding="utf-8"))
    told = found["protocol"]
    assert (told["scale"], told["crop"], told["seed"], told["samples"], told["precision"]) == (4, 3, 7, 2, "fp32")
    from irn_cli import load_model

    assert told["methods"][0]["weights_hash"] == weights_hash(load_model(weights).state_dict())
    assert told["methods"][0]["parameters"] > 1000
    assert told["datasets"] == [{"name": "set", "directory": "set", "pictures": 2}]
    assert [(row["method"], row["pictures"]) for row in found["summary"]] == [("weights", 2), ("area", 2)]
    assert found["summary"][0]["psnr_y_std_over_samples"] > 0
    assert found["summary"][1]["psnr_y_std_over_samples"] is None
    for row, line in zip(found["pictures"], lines, strict=True):
        assert float(line["psnr_y"]) == row["psnr_y"]
    assert found["failures"] == []


def test_the_table_goes_to_standard_output(irn_eval: Callable[..., Ran]) -> None:
    ran = irn_eval("--data", "set", "--baseline", "bicubic", "--baseline", "lanczos", "-s", 2)
    assert ran.status == 0
    assert ran.err == ""
    assert ran.out.startswith("2x, PSNR (dB) / SSIM on Y, 2 pixels cropped off each border; one draw, seed 0")
    assert "set (2)" in ran.out
    assert "lanczos" in ran.out


def test_unreadable_pictures_are_told_counted_and_fail_the_command(irn_eval: Callable[..., Ran]) -> None:
    Path("set/c.png").write_bytes(Path("set/a.png").read_bytes()[:300])
    ran = irn_eval("--data", "set", "--baseline", "area", "--json", "all.json", "-q")
    assert ran.status == 1
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("irn: cannot read set/c.png: ")
    found = json.loads(Path("all.json").read_text())
    assert found["summary"][0]["pictures"] == 2
    assert [failure["name"] for failure in found["failures"]] == ["c.png"]
    ran = irn_eval("--data", "set", "--baseline", "area")
    assert "1 could not be measured" in ran.out


def test_names_that_are_no_utf8_do_not_lose_the_results(irn_eval: Callable[..., Ran]) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Path("set/a.png").rename(f"set/{name}")
    ran = irn_eval("--data", "set", "--baseline", "area", "--json", "all.json", "--csv", "-", "--report", "page.html")
    assert ran.status == 0
    assert name in [picture["name"] for picture in json.loads(Path("all.json").read_text())["pictures"]]
    assert "caf\\udce9.png" in ran.out
    assert "caf\\udce9.png" in Path("page.html").read_text()


@pytest.mark.parametrize(("option", "begin"), [("--json", "{"), ("--csv", "method,"), ("--report", "<!doctype html>")])
def test_what_goes_to_standard_output_is_alone_there(irn_eval: Callable[..., Ran], option: str, begin: str) -> None:
    ran = irn_eval("--data", "set", "--baseline", "area", option, "-")
    assert (ran.status, ran.out[: len(begin)]) == (0, begin)
    assert ran.err.startswith("4x, PSNR")
    assert "wrote" not in ran.err


def test_nothing_measurable_is_no_crash(irn_eval: Callable[..., Ran]) -> None:
    Path("bad").mkdir()
    Path("bad/x.jpg").write_bytes(b"\xff\xd8\xff")
    ran = irn_eval("--data", "bad", "--baseline", "area", "--report", "page.html", "--csv", "all.csv")
    assert ran.status == 1
    assert "1 could not be measured" in ran.out
    assert len(Path("all.csv").read_text().splitlines()) == 1
    assert Path("page.html").stat().st_size > 1000


def test_the_page_and_existing_files(irn_eval: Callable[..., Ran]) -> None:
    arguments = ("--data", "set", "--baseline", "area", "--report", "page.html", "-q")
    assert irn_eval(*arguments) == (0, "", "")
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    ran = irn_eval(*arguments)
    assert ran == (1, "", "irn: page.html exists already (--force replaces it)\n")
    Path("page.html").write_text("old")
    ran = irn_eval(*arguments[:-1], "--force")
    assert (ran.status, ran.err) == (0, f"irn: wrote page.html ({Path('page.html').stat().st_size / 1e6:.1f} MB)\n")
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_page_makes_no_picture_again(irn_eval: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def upscale(method: Baseline, small: Small, **_: object) -> Picture:
        made.append(method.name)
        return restore(method, small)

    restore = Baseline.upscale
    monkeypatch.setattr(Baseline, "upscale", upscale)
    assert irn_eval("--data", "set", "--baseline", "area", "--report", "page.html", "-q").status == 0
    assert made == ["area", "area"]  # two pictures, both of which the page shows
    assert Path("page.html").read_text(encoding="utf-8").count('"restored":') == 2


@pytest.mark.parametrize("option", ["--json", "--csv", "--report"])
def test_an_impossible_output_is_told_before_measuring(irn_eval: Callable[..., Ran], option: str) -> None:
    Path("file").write_text("")
    ran = irn_eval("--data", "set", "--baseline", "area", option, "file/out.html")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("irn: cannot write file/out.html: ")


def test_scales_must_agree(irn_eval: Callable[..., Ran], models: Path) -> None:
    four, two = models / "run1" / "weights.safetensors", models / "two.safetensors"
    ran = irn_eval("--data", "set", "-m", four, "-m", two)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == f"irn: expected methods of one scale: {four} is 4x, {two} is 2x\n"
    ran = irn_eval("--data", "set", "-m", two, "-s", 4)
    assert (ran.status, ran.err) == (2, f"irn: expected methods of one scale, 4x: {two} is 2x\n")
    ran = irn_eval("--data", "set", "-m", two, "--baseline", "area", "--json", "-", "--device", "cpu")
    assert (ran.status, json.loads(ran.out)["protocol"]["scale"]) == (0, 2)


def test_models_and_data_sets_of_one_name_are_told_apart(irn_eval: Callable[..., Ran], models: Path) -> None:
    one, two = (models / run / "weights.safetensors" for run in ("run1", "run2"))
    Path("other").mkdir()
    Path("set").rename("other/set")
    Path("set").symlink_to("other/set")
    ran = irn_eval("--data", "other/set", "-m", one, "-m", two, "--json", "-", "--device", "cpu", "-q")
    assert [row["method"] for row in json.loads(ran.out)["summary"]] == [str(one), str(two)]
    ran = irn_eval("--data", "set", "--data", "other/set", "--baseline", "area", "--json", "-", "-q")
    assert [row["dataset"] for row in json.loads(ran.out)["summary"]] == ["set", "other/set"]
    ran = irn_eval("--data", "set", "--baseline", "area", "--baseline", "area")
    assert (ran.status, ran.err) == (2, "irn: area is given twice\n")


def test_the_shipped_model_is_the_default(irn_eval: Callable[..., Ran]) -> None:
    ran = irn_eval("--data", "set", "--json", "-", "--temperature", 0)
    assert ran.status == 0
    told = json.loads(ran.out)["protocol"]
    assert (told["scale"], told["temperature"], [method["name"] for method in told["methods"]]) == (4, 0, ["irn-x4"])


def test_an_official_checkpoint_is_a_model(irn_eval: Callable[..., Ran], tiny_model: Callable[..., IRN]) -> None:
    torch.save(tiny_model(4).state_dict(), "official.pth")
    ran = irn_eval("--data", "set", "-m", "official.pth", "--json", "-", "-q", "--device", "cpu")
    assert (ran.status, json.loads(ran.out)["summary"][0]["method"]) == (0, "official")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--data'"),
        (("--data", "absent"), "irn: no folder absent"),
        (("--data", "set", "-m", "nonsense"), "irn: no model named 'nonsense'"),
        (("--data", "set", "-s", "3"), "Invalid value for '-s'"),
        (("--data", "set", "-s", "8"), "irn: no model is known for 8x"),
        (("--data", "set", "--samples", "0"), "Invalid value for '--samples'"),
        (("--data", "set", "--temperature", "-1"), "Invalid value for '--temperature'"),
        (("--data", "set", "--json", "-", "--csv", "-"), "only one of --json, --csv and --report"),
        (("--data", "set", "--report", "-", "--csv", "-"), "only one of --json, --csv and --report"),
        (("--data", "set", "--results", "set"), "irn: --results set: expected NAME=DIR or NAME=DIR,LRDIR"),
        (("--data", "set", "--results", "N=absent"), "irn: no folder absent"),
        (("--data", "set", "--results", "bicubic=set", "--baseline", "bicubic"), "irn: bicubic is given twice"),
        (("--data", "set", "--baseline", "png"), "Invalid value for '--baseline'"),
        (("--data", "set", "--baseline", "bicubic", "--refine"), "irn: --refine needs a model: name one with -m"),
        (("--data", "set", "--metric", "niqe"), "Invalid value for '--metric'"),
        (("--compare", "a.json", "b.json", "--data", "set"), "it measures and writes nothing"),
        (("--compare", "a.json", "b.json", "--report", "-"), "it measures and writes nothing"),
        (("--compare", "a.json", "b.json", "--baseline", "area"), "it measures and writes nothing"),
        (("--compare", "a.json", "b.json", "--metric", "lpips"), "it measures and writes nothing"),
        (("--data", "set", "--baseline", "area", "--device", "toaster"), "irn: unknown device 'toaster'"),
    ],
)
def test_wrong_usage(irn_eval: Callable[..., Ran], arguments: tuple[str, ...], message: str) -> None:
    ran = irn_eval(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_damaged_weights_are_one_clear_line(irn_eval: Callable[..., Ran]) -> None:
    Path("bad.safetensors").write_bytes(b"nothing")
    ran = irn_eval("--data", "set", "-m", "bad.safetensors")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("irn: bad.safetensors is not a complete safetensors file")
    assert len(ran.err.splitlines()) == 1


def test_ctrl_c_is_130_and_writes_nothing(irn_eval: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("irn_cli.evaluation.methods.Baseline.upscale", interrupted)
    ran = irn_eval("--data", "set", "--baseline", "area", "--json", "all.json")
    assert ran.status == 130
    assert not Path("all.json").exists()


def test_other_programs_and_codecs_are_rows(irn_eval: Callable[..., Ran]) -> None:
    for kind, size in (("sr", (68, 64)), ("lr", (17, 16))):
        Path(kind).mkdir()
        for name in ("a", "b"):
            Image.open(f"set/{name}.png").crop((0, 0, 68, 64)).resize(size).save(f"{kind}/{name}_x4.png")
    Path("sr/b_x4.png").unlink()
    ran = irn_eval("--data", "set", "--baseline", "jpeg", "--baseline", "bicubic", "--results", "Theirs=sr,lr",
                   "--json", "-")  # fmt: skip
    assert ran.status == 1
    assert "irn: set/b.png (Theirs): no picture for b.png in sr\n" in ran.err
    assert "1 could not be measured" in ran.err
    found = json.loads(ran.out)
    rows = {(row["method"], row["name"]): row for row in found["pictures"]}
    assert list(rows) == [("bicubic", "a.png"), ("Theirs", "a.png"), ("jpeg", "a.png"), ("bicubic", "b.png"),
                          ("jpeg", "b.png")]  # fmt: skip
    assert rows["Theirs", "a.png"]["psnr_y"] is None  # infinite
    assert rows["jpeg", "a.png"]["bytes"] <= rows["bicubic", "a.png"]["bytes"]
    assert [method["kind"] for method in found["protocol"]["methods"]] == ["baseline", "results", "codec"]
    assert found["protocol"]["methods"][1]["small_directory"] == "lr"


def test_two_runs_are_compared(irn_eval: Callable[..., Ran]) -> None:
    for name in ("area", "lanczos"):
        assert irn_eval("--data", "set", "--baseline", name, "--json", f"{name}.json", "-q").status == 0
    ran = irn_eval("--compare", "area.json", "lanczos.json")
    assert (ran.status, ran.err) == (0, "")
    rows = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert any(row.startswith("set area → lanczos PSNR Y ") and row.endswith(" 2/0/0") for row in rows)
    Path("area.json").write_text("{}")
    ran = irn_eval("--compare", "area.json", "lanczos.json")
    assert ran == (1, "", "irn: area.json is not what irn eval --json writes\n")


def test_a_learned_metric_is_a_column(irn_eval: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Metric:
        return Metric(name, name.upper(), 4, False, lambda a, b, grey: float(np.abs(a.astype(float) - b).mean()))

    monkeypatch.setattr("irn_cli.evaluation.learned.load_metric", load)
    ran = irn_eval("--data", "set", "--baseline", "area", "--metric", "lpips", "--json", "all.json", "--csv", "all.csv")
    assert ran.status == 0
    assert "LPIPS" in ran.out
    found = json.loads(Path("all.json").read_text())
    assert found["protocol"]["metrics"][-1] == {
        "key": "lpips", "label": "LPIPS", "digits": 4, "higher_is_better": False,
    }  # fmt: skip
    assert found["summary"][0]["lpips"] == pytest.approx(np.mean([row["lpips"] for row in found["pictures"]]))
    assert "lpips" in Path("all.csv").read_text().splitlines()[0]


SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "eval.schema.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        ("-m MODEL --baseline bicubic --baseline lanczos --baseline area", "model baseline baseline baseline"),
        ("-m MODEL -m OTHER --baseline jpeg --baseline webp --baseline avif", "model model codec codec codec"),
        ("-m MODEL --precision bf16 --samples 3 --seed -5 --temperature 0.5 --crop 0", "model"),
        ("-m MODEL --precision fp32 --temperature 0 --refine 1 --memory 500MB", "model model"),
        ("--baseline bicubic -s 8", "baseline"),
        (
            "--baseline area --results A=set --results B=same,small --baseline avif",
            "baseline results results codec",
        ),
        ("--results Some=mixed,small --results Few=few --samples 2", "results results"),
        ("--results Big=small", "results"),
        ("--upscaler UP -m MODEL --metric lpips --metric dists", "model upscaler"),
        ("--data other --data more/set --baseline area", "baseline"),
        ("--data broken -m MODEL --baseline jpeg --metric lpips", "model codec"),
    ],
)
def test_json_is_what_the_schema_says_whatever_is_asked_for(
    irn_eval: Callable[..., Ran],
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    kinds: str,
) -> None:
    original = Image.open("set/a.png")
    for folder in ("same", "few", "mixed", "small", "other", "more/set", "broken"):
        Path(folder).mkdir(parents=True)
    for name in ("a", "b"):
        Image.open(f"set/{name}.png").crop((0, 0, 68, 64)).save(f"same/{name}.png")
        original.crop((0, 0, 68, 64)).save(f"mixed/{name}.png")  # a's is a's, b's is not
        original.crop((0, 0, 68, 64)).resize((17, 16)).save(f"small/{name}.png")
    original.save("few/a.png")
    original.convert("L").save("other/grey.png")
    Image.new("RGB", (48, 48)).save("more/set/black.png")
    Path("broken/a.png").write_bytes(b"nothing")
    Image.new("RGB", (9, 9)).save("broken/tiny.png")

    def load_metric(name: str) -> Metric:
        return Metric(name, name.upper(), 4, False, lambda a, b, grey: float(np.abs(a.astype(float) - b).mean()))

    monkeypatch.setattr("irn_cli.evaluation.learned.load_metric", load_metric)
    upscaler = SuperResolutionNetwork(
        "Nearest", 4, 12, "ab" * 32, partial(F.interpolate, scale_factor=4.0), torch.device("cpu"), 96
    )
    monkeypatch.setattr("irn_cli.evaluation.methods.load_upscaler", lambda *_: upscaler)
    places = {"MODEL": models / "run1/weights.safetensors", "OTHER": models / "run2/weights.safetensors",
              "UP": "up.pth"}  # fmt: skip
    given = [str(places.get(word, word)) for word in arguments.split()]
    ran = irn_eval("--data", "set", *given, "--json", "-", "-q")
    found = json.loads(ran.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    SCHEMA.validate(found)
    assert [method["kind"] for method in found["protocol"]["methods"]] == kinds.split()
    assert ran.status == bool(found["failures"])
    assert len(found["pictures"]) + len(found["failures"]) >= 2 * len(kinds.split())
    keys = {metric["key"] for metric in found["protocol"]["metrics"]}
    assert all(keys <= set(row) for row in (*found["pictures"], *found["summary"]))
    assert {row["method"] for row in found["summary"]} <= {method["name"] for method in found["protocol"]["methods"]}


def test_an_upscaler_that_is_none_is_one_line(irn_eval: Callable[..., Ran]) -> None:
    need_torchvision()
    pytest.importorskip("spandrel")
    Path("up.pth").write_bytes(b"nothing")
    wanted = ("--json", "out.json", "--csv", "out.csv", "--report", "out.html")
    ran = irn_eval("--data", "set", "--upscaler", "up.pth", *wanted)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("irn: up.pth is damaged, or not a network that spandrel knows (")
    assert len(ran.err.splitlines()) == 1
    ran = irn_eval("--data", "set", "--upscaler", "absent.pth", *wanted)
    assert ran == (2, "", "irn: no weights file absent.pth\n")
    assert not list(Path().glob("out.*"))
