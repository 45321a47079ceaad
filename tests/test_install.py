"""`weights/install.py`: what it fills in, keeps, and refuses."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from irn_cli import IRN, Rescaler, load_model
from irn_cli.evaluation.dataset import find_data_set
from irn_cli.evaluation.evaluate import evaluate
from irn_cli.evaluation.methods import Baseline, Network
from irn_cli.evaluation.report import collect, protocol, to_json
from irn_cli.train.recipe import load_recipe, recipe_toml
from irn_cli.weights import read_info, save_model

SCRIPT = Path(__file__).parents[1] / "weights" / "install.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_run(directory: Path, model: IRN) -> None:
    notes = {"recipe": "irn-shipped", "data": "20 pictures of tiles", "steps": "1000", "training_time": "60 s"}
    save_model(directory / "weights.safetensors", model, notes=notes)
    (directory / "recipe.toml").write_text(recipe_toml(load_recipe("irn-shipped")))
    (directory / "validation.txt").write_text("/somewhere/tiles/a.avif\n")
    (directory / "curve.svg").write_text("<svg/>")
    rows: list[dict[str, Any]] = [{"step": k, "loss": 1000 / k, "lr": 1e-4} for k in range(1, 1001)]
    rows.insert(501, {"step": 500, "val_psnr_y": 30.123456789})
    (directory / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def measure(directory: Path, target: Path) -> None:
    """What `irn eval --json` does."""
    data = target.parent / "Set5"
    data.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(data / "a.png")
    network = Network("weights", Rescaler(load_model(directory / "weights.safetensors"), "cpu", "fp32"))
    methods, datasets = [network, Baseline("bicubic", 4)], [find_data_set(data)]
    options: dict[str, Any] = {"crop": None, "seed": 0, "temperature": 1.0, "samples": 2}
    told = protocol(methods, datasets, **options, device="cpu", precision="fp32")
    target.write_text(to_json(collect(evaluate(methods, datasets, **options), told)))


@pytest.fixture
def install(script: ModuleType, tmp_path: Path, tiny_model: Callable[..., IRN]) -> Callable[..., Result]:
    """Installs a tiny run under the name `irn-x4` into a room of the test's own."""
    (tmp_path / "run").mkdir()
    make_run(tmp_path / "run", tiny_model(4))
    measure(tmp_path / "run", tmp_path / "eval.json")
    (tmp_path / "sources.csv").write_text('tile,licence\na,CC0\nb,"CC BY, or so"\nc,CC0\n')

    def run(*arguments: str) -> Result:
        given = [tmp_path / "run", "irn-x4", "--eval", tmp_path / "eval.json", "--sources", tmp_path / "sources.csv"]
        return CliRunner().invoke(script.install, [*map(str, given), "--room", str(tmp_path / "room"), *arguments])

    return run


def test_header_run_and_card(install: Callable[..., Result], tmp_path: Path) -> None:
    ran = install()
    assert ran.exit_code == 0, ran.output
    room = tmp_path / "room"
    info = read_info(room / "irn-x4.safetensors")
    assert (info.hash, info.revision) == (read_info(tmp_path / "run" / "weights.safetensors").hash, "1")
    assert info.notes["steps"] == "1000"
    assert info.notes["data"] == "20 pictures of tiles; all 3 by licence: 2 CC0; 1 CC BY, or so"
    row = json.loads((tmp_path / "eval.json").read_text())["summary"][0]
    assert info.notes["scores_Set5"].startswith(f"{row['psnr_y']:.2f} dB / {row['ssim_y']:.4f} on Y, mean of 2 draws")
    assert load_model(room / "irn-x4.safetensors").name == "irn-x4"
    assert info.temperatures == (1, 1)
    install("--temperatures", "0.05", "1")
    assert read_info(room / "irn-x4.safetensors").temperatures == (0.05, 1)

    kept = room / "runs" / "irn-x4"
    assert sorted(path.name for path in kept.iterdir()) == [
        "curve.svg", "log.jsonl", "recipe.toml", "scores.json", "validation.txt",
    ]  # fmt: skip
    log = [json.loads(line) for line in (kept / "log.jsonl").read_text().splitlines()]
    assert 250 < len(log) < 350
    assert (log[0]["step"], log[-1]["step"]) == (1, 1000)
    assert [entry["val_psnr_y"] for entry in log if "val_psnr_y" in entry] == [30.123]
    assert (kept / "validation.txt").read_text() == "tiles/a.avif\n"
    assert not [path for path in kept.iterdir() if str(tmp_path) in path.read_text()]  # no path of this machine

    card = (room / "README.md").read_text()
    assert f"**{row['psnr_y']:.2f} / {row['ssim_y']:.4f}** | 36.19 / 0.9451 |" in card
    assert "    irn eval --data Set5 -m irn-x4 --baseline bicubic --samples 2 --seed 0\n" in card
    assert "Set5's a " in card
    assert "| training time | 60 s |" in card


def test_small_pictures_that_are_bicubic_ones(install: Callable[..., Result], tmp_path: Path) -> None:
    found = json.loads((tmp_path / "eval.json").read_text())
    found["summary"][0]["lr_psnr_y"] = found["pictures"][0]["psnr_y"] = None  # as JSON has infinity
    (tmp_path / "eval.json").write_text(json.dumps(found))
    ran = install()
    assert ran.exit_code == 0, ran.output
    card = (tmp_path / "room" / "README.md").read_text()
    assert f"| ∞ / {found['summary'][0]['lr_ssim_y']:.4f} |" in card
    assert "Set5's a ∞ dB" in card


def test_what_people_wrote_stays(
    install: Callable[..., Result], tmp_path: Path, tiny_model: Callable[..., IRN]
) -> None:
    card = tmp_path / "room" / "README.md"
    card.parent.mkdir()
    card.write_text("# Cards\n\n## irn-x2\n\nother\n\n## irn-x4\n\nWhat was tried: much.\n\n## Thanks\n")
    assert install().exit_code == 0
    first = card.read_text()
    head, rest = first.split("<!-- measured: irn-x4, by install.py -->")
    assert head == "# Cards\n\n## irn-x2\n\nother\n\n## irn-x4\n\n"
    assert rest.endswith("<!-- end of measured: irn-x4 -->\n\nWhat was tried: much.\n\n## Thanks\n")
    assert install().exit_code == 0
    assert card.read_text() == first  # the same weights: nothing changes, the revision neither

    (tmp_path / "run" / "weights.safetensors").unlink()
    make_run(tmp_path / "run", tiny_model(4, seed=5))
    measure(tmp_path / "run", tmp_path / "eval.json")
    assert install().exit_code == 0
    assert read_info(tmp_path / "room" / "irn-x4.safetensors").revision == "2"
    assert card.read_text() != first
    assert card.read_text().count("## irn-x4") == card.read_text().count("What was tried") == 1


def test_an_evaluation_of_other_weights_is_refused(
    install: Callable[..., Result], tmp_path: Path, tiny_model: Callable[..., IRN]
) -> None:
    save_model(tmp_path / "run" / "weights.safetensors", tiny_model(4, seed=9), overwrite=True)
    ran = install()
    assert ran.exit_code == 1
    assert "is not of these weights" in ran.output
    assert not (tmp_path / "room").exists()


def test_a_run_without_a_curve_is_refused(install: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "run" / "curve.svg").unlink()
    ran = install()
    assert ran.exit_code == 1
    assert "no curve.svg" in ran.output
    assert not (tmp_path / "room").exists()


def test_weights_that_shipping_would_round_are_refused(install: Callable[..., Result], tmp_path: Path) -> None:
    model = load_model(tmp_path / "run" / "weights.safetensors")
    with torch.no_grad():
        next(model.parameters()).mul_(1.0001)
    save_model(tmp_path / "run" / "weights.safetensors", model, dtype=torch.float32, overwrite=True)
    measure(tmp_path / "run", tmp_path / "eval.json")
    ran = install()
    assert ran.exit_code == 1
    assert "rounded to float16" in ran.output


def test_the_mean_of_two_runs(tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    spec = importlib.util.spec_from_file_location("mean", SCRIPT.with_name("mean.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, scale in (("one", 4), ("two", 4), ("wide", 2)):
        (tmp_path / name).mkdir()
        model = tiny_model(scale)
        model.temperatures = (0.0, 1.0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1 + (name == "two"))
        make_run(tmp_path / name, model)

    def run(*names: str) -> Result:
        return CliRunner().invoke(
            module.mean, [*(str(tmp_path / name) for name in names[:2]), "-o", str(tmp_path / names[2])]
        )

    result = run("one", "two", "new")
    assert result.exit_code == 0, result.output
    one, two, new = (load_model(tmp_path / name / "weights.safetensors") for name in ("one", "two", "new"))
    assert new.temperatures == (0.0, 1.0)
    for a, b, c in zip(one.parameters(), two.parameters(), new.parameters(), strict=True):
        torch.testing.assert_close(c, (a + b) / 2, rtol=0.004, atol=1e-6)
    info = read_info(tmp_path / "new" / "weights.safetensors")
    assert info.notes["steps"] == "1000"
    hashes = [read_info(tmp_path / name / "weights.safetensors").hash[:12] for name in ("one", "two")]
    assert info.notes["mean_of"] == ", ".join(hashes)
    assert (tmp_path / "new" / "log.jsonl").read_bytes() == (tmp_path / "one" / "log.jsonl").read_bytes()
    for others, message in ((("one", "wide", "bad"), "different shapes"), (("one", "two", "new"), "new")):
        result = run(*others)
        assert result.exit_code == 1
        assert message in result.output
        assert result.output.startswith("Error: ")
    assert not (tmp_path / "bad").exists()
