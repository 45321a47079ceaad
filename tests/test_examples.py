"""The shell scripts and the README's first command, which people copy, run as they stand."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
from PIL import Image

from irn_cli.image import read
from irn_cli.model import IRN
from irn_cli.weights import save_model
from tests.helpers import photo_like

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTOS = "-photos"
ODD = '--it\'s "x" *?[1] 写\n'
Script = Callable[..., str]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., IRN]) -> Script:
    """`script("folder.sh", "in", "out")` runs it beside two pictures, with tiny weights and `irn` on the path.

    The folder and one picture have names like options, the other one of all that a name can hold.
    """
    model = tiny_model(4)
    for name, parameter in model.named_parameters():
        if "conv5" in name:
            parameter.data *= 0.1
    save_model(tmp_path / "weights" / "irn-x4.safetensors", model)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "irn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m irn_cli "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    work = tmp_path / "work"
    (work / PHOTOS / "a b").mkdir(parents=True)
    monkeypatch.chdir(work)
    Image.fromarray(photo_like(40, 50)).save(f"{PHOTOS}/-one.png")
    Image.fromarray(photo_like(30, 20, seed=1)).save(f"{PHOTOS}/a b/{ODD}.png")

    def run(name: str, *arguments: str, status: int = 0) -> str:
        done = subprocess.run([EXAMPLES / name, *arguments], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout

    return run


def made(directory: str) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in Path(directory).rglob("*") if path.is_file())


def test_folder(script: Script) -> None:
    script("folder.sh", PHOTOS, "-small", "-large")
    assert made("-small") == ["-one_down4.png", f"a b/{ODD}_down4.png"]
    assert made("-large") == ["-one_up4.png", f"a b/{ODD}_up4.png"]


def test_folder_with_a_bad_picture_is_done_but_for_that_twice_in_a_row(script: Script) -> None:
    Path(f"{PHOTOS}/a b/{ODD}.png").write_text("no picture")
    for number in range(2):
        script("folder.sh", PHOTOS, "-small", "-large", status=1)
        names = ["-one_{}4.png"] + [f"new{seed}_{{}}4.png" for seed in range(number)]
        assert made("-small") == [name.format("down") for name in names]
        assert made("-large") == [name.format("up") for name in names]
        Image.fromarray(photo_like(20, 30, seed=number)).save(f"{PHOTOS}/new{number}.png")
    script("folder.sh", f"{PHOTOS}/none", "-small", "-large", status=1)
    script("folder.sh", PHOTOS, "-small/-one_down4.png", "-large", status=2)


def test_gallery(script: Script) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(f"{PHOTOS}/noise.png")
    Path(f"{PHOTOS}/a b/bad.png").write_text("no picture")
    expected = ["-one_down4.png", f"a b/{ODD}_down4.png", "noise.png"]
    for _ in range(2):
        script("gallery.sh", PHOTOS, "-gallery", "18", status=1)  # one cannot be read
        assert made("-gallery") == expected
    assert Path("-gallery/noise.png").read_bytes() == Path(f"{PHOTOS}/noise.png").read_bytes()
    later = Path("-gallery/-one_down4.png").stat().st_mtime + 10
    Image.fromarray(noise).save(f"{PHOTOS}/-one.png")
    os.utime(f"{PHOTOS}/-one.png", (later, later))
    script("gallery.sh", PHOTOS, "-gallery", "18", status=1)
    assert made("-gallery") == ["-one.png", f"a b/{ODD}_down4.png", "noise.png"]


def test_samples(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PHOTOS)
    names = script("samples.sh", "-one.png").split()
    assert names == ["large_1.png", "large_2.png", "large_3.png", "large_spread.png", "small.png"]
    assert read("samples/large_spread.png").mode == "L"


def test_slurm(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ID": "2", "MIN": "1", "STEP": "1", "COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    script("slurm.sh", PHOTOS, "-small")
    assert made("-small") == [f"a b/{ODD}_down4.png"]


@pytest.mark.usefixtures("script")
def test_the_readmes_picture_is_drawn() -> None:
    Image.fromarray(photo_like(66, 71)).save("photo.png")
    run_path(str(EXAMPLES / "comparison.py"))["main"]("photo.png", 8, 4, 32, "drawn.png")
    pixels = read("drawn.png").pixels
    assert np.array_equal(pixels[:96:3, :96:3], photo_like(66, 71)[4:36, 8:40])  # the first panel, three times as large


@pytest.mark.usefixtures("script")
def test_the_readmes_first_command_adds_nothing_to_the_photos() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    (line,) = (line for line in readme.splitlines() if line.startswith("python3 -m venv"))
    _, _, *commands = line.replace(".venv/bin/", "").split(" && ")  # less making the environment
    Path("examples/photos").mkdir(parents=True)
    Path(f"{PHOTOS}/-one.png").rename("examples/photos/coffee.png")
    done = subprocess.run(["bash", "-c", " && ".join(commands)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert " dB Y" in done.stderr
    assert made("examples") == ["photos/coffee.png"]
    assert Path("coffee_up4.png").is_file()
