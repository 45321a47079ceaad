"""The command group: version, exit statuses, and the `weights` commands."""

import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from PIL import Image

from irn_cli import cli
from irn_cli.cli import irn
from irn_cli.commands import options
from irn_cli.commands.options import searching
from irn_cli.errors import UsageError, WeightsError
from irn_cli.model import IRN
from irn_cli.train.recipe import recipe_names
from irn_cli.weights import load_model, read_info, save_model
from tests.helpers import PHOTOS, ROOT, make_tiny_model, photo_like, without_privileges


def run(*arguments: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `irn` as a process of its own, for what only a process has: its exit status and both its streams."""
    command = [sys.executable, "-m", "irn_cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == status, done.stderr
    return done


def test_version_names_torch_device_and_weights() -> None:
    lines = run("--version").stdout.splitlines()
    assert lines[0].startswith("irn ")
    assert lines[1].startswith(f"torch {torch.__version__}, device ")
    assert "irn-x4 (revision" in lines[2]


def test_ctrl_c_before_anything_is_loaded_ends_it_without_a_word() -> None:
    code = """if True:
        import signal, sys
        from irn_cli import __main__ as irn

        class Interrupted:
            def find_spec(name, path, target=None):
                if name == "irn_cli.cli":
                    signal.raise_signal(signal.SIGINT)

        sys.meta_path.insert(0, Interrupted)
        irn.main()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_search_that_takes_long_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with searching():
        pass
    monkeypatch.setattr(options, "_MOMENT", 0)
    with searching(quiet=True):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
    with searching():
        while not (told := capsys.readouterr().err):
            time.sleep(0.01)
    assert told == "irn: searching for pictures ...\n"


def test_next_to_nothing_is_loaded_before_ctrl_c_is_seen_to() -> None:
    code = "import sys; sys.path.insert(0, '.'); import irn_cli.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert {name for name in loaded if name.startswith("irn_cli")} == {"irn_cli", "irn_cli.__main__"}
    assert {"importlib.metadata", "pathlib"}.isdisjoint(loaded)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compare", "", "b.png"], "expected a path, not an empty one"),
        (
            ["export", "s3://bucket/a.onnx", "--direction", "up"],
            "expected a path of this machine, not s3://bucket/a.onnx",
        ),
        (["train", "--data", ".", "--threads", "100000"], "100000 is not in the range 1<=x<=1024"),
        (["eval", "--data", ".", "--samples", "9" * 400], "is not in the range 1<=x<=9999"),
    ],
)
def test_values_that_mean_nothing_are_wrong_usage(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(irn, arguments)
    assert result.exit_code == 2
    assert told in result.stderr


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


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`main(*arguments)` does all that `irn` does, in this process, and gives the exit status."""
    for name in ("tune_allocator", "tune_convolutions"):  # settings of a process, and this one has other tests to run
        monkeypatch.setattr(f"irn_cli.device.{name}", lambda *_: None)
    monkeypatch.setattr("gc.freeze", lambda: None)

    def call(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["irn", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return call


@pytest.mark.parametrize("ask", [["--debug"], []])
def test_a_traceback_is_shown_to_who_asks(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ask: list[str]
) -> None:
    command = ["weights", "show", "nonsense"]
    if not ask:
        assert main(*command) == 2
        assert capsys.readouterr().err.count("\n") == 1
        monkeypatch.setenv("IRN_DEBUG", "1")
    for place in (0, len(command)):
        with warnings.catch_warnings():
            assert main(*command[:place], *ask, *command[place:]) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("Traceback (most recent call last):\n")
        assert "\nirn: no model named 'nonsense'" in errors


def test_an_error_of_ours_is_one_line_that_says_so(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("irn_cli.weights.look_up", lambda: [][0])
    assert main("weights", "list") == 1
    expected = "irn: unexpected IndexError: list index out of range; this is a bug in irn: please report it with what "
    assert capsys.readouterr().err == expected + "--debug shows\n"


@pytest.mark.parametrize(
    "command",
    [
        ["downscale", "in", "-o", "out", "--device", "cpu"],
        ["upscale", "in", "-s", "2", "-o", "out", "--device", "cpu"],
        ["eval", "--data", "in", "--baseline", "bicubic", "--device", "cpu"],
        ["train", "--data", "in", "--val", "in", "-s", "2", "--config", "tiny.toml", "--patch", "32", "--dry-run"],
    ],
    ids=lambda command: command[0],
)
def test_what_libraries_warn_of_is_not_shown(
    main: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:  # fmt: skip
    (tmp_path / "w").mkdir()
    for scale in (2, 4):
        save_model(tmp_path / "w" / f"irn-x{scale}.safetensors", make_tiny_model(scale))
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path / "w"))
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("tiny.toml").write_text("blocks = 1\ngrowth = 8\n")
    damaged = b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\x07" * 40
    Image.fromarray(photo_like(48, 64)).save("in/a.jpg", exif=damaged)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert main(*command) == 0, capsys.readouterr().err
    assert not seen


def test_what_libraries_log_is_not_shown(tmp_path: Path) -> None:
    path, data = tmp_path / "a.tif", io.BytesIO()
    Image.fromarray(photo_like(8, 8)).save(data, "TIFF")
    three = struct.pack("<HHIHH", 277, 3, 1, 3, 0)  # SamplesPerPixel
    path.write_bytes(data.getvalue().replace(three, struct.pack("<HHIHH", 277, 3, 1, 300, 0)))
    assert run("info", str(path), status=1).stderr == ""
    assert "More samples per pixel" in run("--debug", "info", str(path), status=1).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_output_is_one_line_and_status_1() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "irn_cli", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "irn: No space left on device\n")


@pytest.mark.parametrize("group", [[], ["weights"]])
def test_the_lists_of_commands_are_not_cut_on_80_columns(group: list[str]) -> None:
    listed = CliRunner(env={"COLUMNS": "80"}).invoke(irn, [*group, "--help"]).stdout.partition("Commands:\n")[2]
    assert listed.count("\n") == len((irn.commands["weights"] if group else irn).commands)
    assert "..." not in listed


@pytest.mark.parametrize("words", [["upscale"], ["downscale", "-o"], ["eval", "--data"], ["train", "--init"]])
def test_shells_complete_names_of_files(words: list[str]) -> None:
    (found,) = ShellComplete(irn, {}, "irn", "_IRN_COMPLETE").get_completions(words, "pho")
    assert (found.type, found.value) == ("file", "pho")


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        (["upscale", "-m"], "irn-x", ["irn-x2", "irn-x4"]),
        (["eval", "--model"], "", ["irn-plus-x4", "irn-x2", "irn-x4"]),
        (["weights", "show"], "irn-x4", ["irn-x4"]),
        (["train", "--init"], "irn", ["irn-plus-x4", "irn-x2", "irn-x4"]),
        (["train", "--recipe"], "", recipe_names()),
        (["train", "-s"], "", ["2", "4", "8"]),
        (["upscale", "--device"], "c", ["cpu", "cuda"]),
    ],
)
def test_shells_complete_values_without_torch(words: list[str], incomplete: str, expected: list[str]) -> None:
    found = ShellComplete(irn, {}, "irn", "_IRN_COMPLETE").get_completions(words, incomplete)
    assert [item.value for item in found] == expected
    code = f"""
import sys
from click.shell_completion import ShellComplete
from irn_cli.cli import irn
assert ShellComplete(irn, {{}}, "irn", "_IRN_COMPLETE").get_completions({words}, {incomplete!r})
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_command_is_answered_with_the_known() -> None:
    for words, names in ((["foo"], ["downscale", "eval", "train"]), (["weights", "foo"], ["import", "list", "show"])):
        result = CliRunner().invoke(irn, words)
        assert result.exit_code == 2
        assert "No such command 'foo'; there are: " in result.stderr
        assert all(name in result.stderr for name in names)


def test_h_works_everywhere() -> None:
    for command in ([], ["weights"], ["weights", "list"], ["downscale"], ["upscale"]):
        result = CliRunner().invoke(irn, [*command, "-h"])
        assert result.exit_code == 0
        assert "Example:" in result.stdout


@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        ("downscale", None, "passive"),
        ("upscale", None, "passive"),
        ("upscale", "active", "active"),
        ("train", None, None),
    ],
)
def test_threads_wait_asleep_but_in_training(
    command: str, given: str | None, expected: str | None, tmp_path: Path
) -> None:
    code = """
import os, sys
class Torch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.exit(f"torch loads under {os.environ.get('OMP_WAIT_POLICY')}")
sys.meta_path.insert(0, Torch())
from irn_cli import cli
cli.main()
"""
    environment = os.environ | ({"OMP_WAIT_POLICY": given} if given else {})
    rest = ["--data", "."] if command == "train" else [PHOTOS / "coffee.png", "-o", tmp_path / "a.png"]
    arguments = [sys.executable, "-c", code, command, *rest]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == f"torch loads under {expected}\n"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., IRN]) -> Path:
    """A directory with one model, `tiny`, where names are looked up first."""
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path))
    notes = {"licence": "CC0", "scores_Set14": "30.47 dB / 0.86 on Y", "scores_Set5": "34.27 dB / 0.93 on Y"}
    save_model(tmp_path / "tiny.safetensors", tiny_model(2), notes=notes | dict.fromkeys("fcbead", "x"))
    return tmp_path


def test_weights_list_and_show(shelf: Path) -> None:
    listed = CliRunner().invoke(irn, ["weights", "list"]).stdout.splitlines()
    info = read_info(shelf / "tiny.safetensors")
    cells = [re.split(r" {2,}", line) for line in listed]
    assert cells[0] == ["tiny", "2x", "Set5 34.27 dB, Set14 30.47 dB", "revision 1", info.hash[:12], str(info.path)]
    assert len({line.index("revision") for line in listed}) == 1  # in columns
    shown = CliRunner().invoke(irn, ["weights", "show", "tiny"]).stdout
    assert "network:        2 blocks, growth 8, clamp 1\n" in shown
    assert "licence:        CC0\n" in shown
    assert [line[0] for line in shown.splitlines() if line.endswith(" x")] == list("abcdef")
    assert str(shelf / "tiny.safetensors") in shown
    first = ["name", "scale", "scores_Set5", "scores_Set14", "licence"]
    assert [line.partition(":")[0] for line in shown.splitlines()][:5] == first


def test_where_no_weights_are_it_is_told_where_they_could_be(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("locations", "weights"):
        monkeypatch.setattr(f"irn_cli.{module}.weights_directories", lambda: [shelf / "none", shelf / "neither"])
    listed = CliRunner().invoke(irn, ["weights", "list"])
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert listed.stderr == f"irn: no weights in {shelf}/none, {shelf}/neither\n"
    shown = CliRunner().invoke(irn, ["weights", "show", "tiny"])
    assert str(shown.exception) == f"no model named 'tiny'; there are: none (looked in {shelf}/none, {shelf}/neither)"


def test_weights_that_cannot_be_used_are_told(shelf: Path) -> None:
    (shelf / "other.safetensors").write_bytes(b"text")
    listed = CliRunner().invoke(irn, ["weights", "list"])
    assert (listed.exit_code, listed.stdout.partition(" ")[0]) == (0, "tiny")
    assert listed.stderr.startswith(f"irn: left out: {shelf}/other.safetensors is not a complete safetensors file")
    assert listed.stderr.count("\n") == 1


def test_weights_that_may_not_be_read(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a home directory, which may be another user's."""
    home = shelf / "home"
    home.mkdir(mode=0)
    (shelf / "tiny.safetensors").chmod(0)
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    listed = run("weights", "list", preexec_fn=without_privileges)
    assert listed.stderr == f"irn: left out: cannot read {shelf}/tiny.safetensors: Permission denied\n"
    assert "irn-x4" in listed.stdout
    shown = run("weights", "show", "tiny", status=1, preexec_fn=without_privileges)
    assert shown.stderr == f"irn: cannot read {shelf}/tiny.safetensors: Permission denied\n"
    shelf.chmod(0)
    listed = run("weights", "list", preexec_fn=without_privileges)
    shelf.chmod(0o755)
    assert listed.stderr == f"irn: left out: cannot read {shelf}: Permission denied\n"


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
    for name in ("text.pth", "text.safetensors"):
        (shelf / name).write_text("not a checkpoint")
    for name in ("text.pth", "text.safetensors", "absent.pth"):
        result = CliRunner().invoke(irn, ["weights", "import", str(shelf / name), "-o", str(shelf / "b.safetensors")])
        assert isinstance(result.exception, WeightsError)
    assert not (shelf / "b.safetensors").exists()


def test_a_pth_is_neither_shown_nor_written(shelf: Path, tiny_model: Callable[..., IRN]) -> None:
    torch.save(tiny_model(2).state_dict(), shelf / "official.pth")
    shown = CliRunner().invoke(irn, ["weights", "show", str(shelf / "official.pth")])
    assert isinstance(shown.exception, WeightsError)
    assert "irn weights import" in str(shown.exception)
    written = CliRunner().invoke(irn, ["weights", "import", str(shelf / "official.pth"), "-o", str(shelf / "new.pth")])
    assert isinstance(written.exception, UsageError)
    assert not (shelf / "new.pth").exists()
