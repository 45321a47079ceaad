"""Guards of the house: who may import whom, what importing may do, and that nothing goes undocumented."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from importlinter.cli import lint_imports

import irn_cli
from irn_cli.cli import irn
from irn_cli.image import MAX_PIXELS

PACKAGE = Path(irn_cli.__file__).parent
ROOT = PACKAGE.parent


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def test_modules_import_only_from_the_layers_below() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


TOGETHER = {  # what is tested where it is used
    "commands_options": "cli", "commands_batch": "cli_pictures", "commands_downscale": "cli_pictures",
    "commands_upscale": "cli_pictures", "commands_info": "info", "commands_eval": "cli_eval",
    "commands_compare": "evaluation_likeness", "commands_weights": "weights", "commands_export": "export",
    "commands_train": "train_command",
    "batch_jobs": "batch_plan", "batch_outputs": "batch_plan", "batch_line": "batch", "batch_storage": "batch",
    "batch_work": "batch", "batch_shares": "batch_progress",
    "batch_cluster": "cluster", "evaluation_cluster": "cluster", "evaluation_scores": "evaluation_evaluate",
    "evaluation_published": "evaluation_report",
    "ray_driver": "ray", "batch_estimate": "cli_pictures", "train_board": "train_monitor",
    "train_curve": "train_monitor", "train_records": "train_monitor",
}  # fmt: skip


@pytest.mark.parametrize("path", [path for path in modules() if path.stem != "__main__"], ids=lambda path: path.stem)
def test_every_module_has_a_test_module_and_stands_in_the_map(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    name = "_".join(parts)
    assert (ROOT / "tests" / f"test_{TOGETHER.get(name, name)}.py").exists(), f"no tests/test_{name}.py"
    shown = parts[0] if len(parts) == 1 else f"{parts[0]}/"
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"`{shown}`" in page.partition("## The map")[2].partition("\n## ")[0], f"{shown} is not in the map"


def fresh_python(code: str) -> str:
    """Run code in a new interpreter and give what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_help_and_import_load_no_torch() -> None:
    code = """
import sys, irn_cli, irn_cli.cli
try:
    irn_cli.cli.irn(["--help"])
except SystemExit:
    pass
print(*[name for name in ("torch", "numpy", "PIL", "rich.console") if name in sys.modules], file=sys.stderr)
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    assert "Commands:" in fresh_python(code)


def test_reading_a_picture_loads_no_torch() -> None:
    code = """
import sys, irn_cli
irn_cli.read("examples/photos/chelsea.png")
irn_cli.latent_path, irn_cli.read_latent
assert "torch" not in sys.modules, "torch"
"""
    assert fresh_python(code) == ""


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("--version", 0),
        ("downscale", 2),
        ("downscale --nothing", 2),
        ("weights list", 0),
        ("weights show irn-x4", 0),
        ("downscale nothing.jpg", 1),
        ("downscale README.md -m nothing", 2),
        ("downscale README.md -s 4 -m irn-x2", 2),
        ("downscale README.md -s 3", 2),
        ("downscale README.md --device nothing", 2),
        ("downscale README.md --memory nothing", 2),
        ("downscale README.md --shard 2/1", 2),
        ("downscale README.md -o nothing.jpg", 2),
        ("downscale examples/photos -o README.md/x", 1),
        ("upscale nothing.png", 1),
        ("upscale README.md -m nothing", 2),
        ("upscale examples/photos", 1),
        ("info examples/photos", 0),
        ("weights import nothing.pth", 1),
        ("export up.onnx --direction up -m nothing", 2),
        ("eval --compare nothing.json nothing.json", 1),
        ("eval --data nothing", 2),
        ("eval --data examples/photos -m nothing", 2),
        ("eval --data examples/photos --report README.md", 1),
        ("eval --compare README.md README.md", 1),
        ("compare examples/photos/coffee.png examples/photos/coffee.png", 0),
        ("train --data nothing", 2),
        ("train --data examples/photos --init nothing", 2),
        ("train --data examples/photos --config nothing", 1),
        ("train --data examples/photos --time-limit nothing", 2),
        ("train --resume nothing", 2),
    ],
)
def test_what_can_be_said_without_torch_does_not_wait_for_it(line: str, status: int) -> None:
    code = f"""
import sys, irn_cli.cli
from irn_cli import hardware
hardware.may_have_gpu = lambda: False  # only torch can tell
sys.argv = ["irn", *{line.split()}]
try:
    irn_cli.cli.main()
except SystemExit as ended:
    assert ended.code == {status}, ended.code
print([name for name in sys.modules if name.split(".")[0] == "torch"])
"""
    assert fresh_python(code).splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "module", ["evaluation/dataset", "evaluation/evaluate", "files", "image", "latent", "picture", "rescale", "weights"]
)
def test_what_python_callers_meet_does_not_speak_of_options(module: str) -> None:
    texts = [node.value for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]  # fmt: skip
    assert [text for text in texts if re.search(r"(^|[ (])--[a-z]", text)] == []


def test_importing_everything_changes_no_setting() -> None:
    names = [
        "irn_cli." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in modules() if p.stem != "__main__"
    ]
    code = f"""
import importlib, os, torch
threads, state, files = torch.get_num_threads(), torch.random.get_rng_state(), os.listdir()
tf32 = torch.backends.cudnn.allow_tf32
for name in {names}:
    importlib.import_module(name)
assert threads == torch.get_num_threads() and tf32 == torch.backends.cudnn.allow_tf32
assert torch.equal(state, torch.random.get_rng_state()) and files == os.listdir()
"""
    assert fresh_python(code) == ""


def test_public_names_resolve_and_the_version_stands_once() -> None:
    for name in irn_cli.__all__:
        assert getattr(irn_cli, name).__name__ == name
    assert dir(irn_cli) == sorted([*irn_cli.__all__, "__version__"])
    assert irn_cli.__version__ == version("irn-cli")
    with pytest.raises(AttributeError, match="nonsense"):
        irn_cli.nonsense  # noqa: B018


def test_the_pixel_limit_is_the_same_for_commands_and_for_python() -> None:
    for name in ("downscale", "upscale", "info"):  # whose help must not wait for `image` to be imported
        (option,) = (parameter for parameter in irn.commands[name].params if parameter.name == "max_pixels")
        assert option.default == MAX_PIXELS


def commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")


@pytest.mark.parametrize(("name", "command"), list(commands(irn, "irn")))
def test_every_command_is_documented(name: str, command: click.Command) -> None:
    assert command.help, name
    assert "\b\nExample:\n  irn " in inspect.cleandoc(command.help), f"{name}: the help has no example"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}: no help"
    assert f"`{name}" in (ROOT / "README.md").read_text(encoding="utf-8"), f"{name} is missing in the README"
