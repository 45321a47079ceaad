"""The command group: version, exit statuses, and the `weights` commands."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from irn_cli.cli import irn
from irn_cli.errors import WeightsError
from irn_cli.model import IRN
from irn_cli.weights import load_model, save_model


def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `irn` as a process of its own, for what only a process has: its exit status and both its streams."""
    done = subprocess.run([sys.executable, "-m", "irn_cli", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_version_names_torch_device_and_weights() -> None:
    lines = run("--version").stdout.splitlines()
    assert lines[0].startswith("irn ")
    assert lines[1].startswith(f"torch {torch.__version__}, device ")
    assert "irn-x4 (revision" in lines[2]


def test_an_expected_failure_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"not weights")
    done = run("weights", "show", str(tmp_path / "a.safetensors"), status=1)
    assert done.stdout == ""
    assert done.stderr.startswith("irn: ")
    assert done.stderr.count("\n") == 1


def test_wrong_usage_is_status_2() -> None:
    done = run("weights", "show", "nonsense", status=2)
    assert done.stderr.startswith("irn: no model named 'nonsense'; there are: ")
    assert done.stderr.count("\n") == 1
    assert "No such option" in run("weights", "list", "--nonsense", status=2).stderr
    assert "Missing argument" in run("weights", "show", status=2).stderr


def test_h_works_everywhere() -> None:
    for command in ([], ["weights"], ["weights", "list"], ["downscale"], ["upscale"]):
        result = CliRunner().invoke(irn, [*command, "-h"])
        assert result.exit_code == 0
        assert "Example:" in result.stdout


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., IRN]) -> Path:
    """A directory with one model, `tiny`, where names are looked up first."""
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path))
    save_model(tmp_path / "tiny.safetensors", tiny_model(2), notes={"licence": "CC0"})
    return tmp_path


def test_weights_list_and_show(shelf: Path) -> None:
    listed = CliRunner().invoke(irn, ["weights", "list"]).stdout.splitlines()
    assert listed[0].split() == ["name", "scale", "revision", "hash", "file"]
    assert listed[1].split()[:3] == ["tiny", "2x", "1"]
    shown = CliRunner().invoke(irn, ["weights", "show", "tiny"]).stdout
    assert "network:     2 blocks, growth 8, clamp 1\n" in shown
    assert "licence:     CC0\n" in shown
    assert str(shelf / "tiny.safetensors") in shown


def test_weights_import(shelf: Path, tiny_model: Callable[..., IRN]) -> None:
    torch.save(tiny_model(4).state_dict(), shelf / "official.pth")
    target = shelf / "new.safetensors"
    arguments = ["weights", "import", str(shelf / "official.pth"), "-o", str(target)]
    assert CliRunner().invoke(irn, arguments).stdout == f"{target}\n"
    assert load_model("new").config == tiny_model(4).config
    again = CliRunner().invoke(irn, arguments)
    assert "exists already" in str(again.exception)
    assert CliRunner().invoke(irn, [*arguments, "--force"]).exit_code == 0


def test_weights_import_goes_to_the_users_directory_by_default(shelf: Path, tiny_model: Callable[..., IRN]) -> None:
    torch.save(tiny_model(2).state_dict(), shelf / "official.pth")
    assert CliRunner().invoke(irn, ["weights", "import", str(shelf / "official.pth")]).exit_code == 0
    assert load_model("official").config == tiny_model(2).config


def test_weights_import_refuses_what_is_no_checkpoint(shelf: Path) -> None:
    (shelf / "text.pth").write_text("not a checkpoint")
    for name in ("text.pth", "absent.pth"):
        result = CliRunner().invoke(irn, ["weights", "import", str(shelf / name), "-o", str(shelf / "b.safetensors")])
        assert isinstance(result.exception, WeightsError)
    assert not (shelf / "b.safetensors").exists()
