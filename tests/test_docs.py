"""The pages in `docs/` and the README: commands run, names exist, specifications are what the code does."""

import dataclasses
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open

import irn_cli
from irn_cli import Rescaler, load_model, read, write
from irn_cli.cli import CONTEXT, irn
from irn_cli.model import IRN
from irn_cli.picture import Picture
from irn_cli.record import FORMAT, Record, Restored, from_text
from irn_cli.weights import list_weights, save_model
from tests.helpers import ROOT, photo_like

DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("*/*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


# Links and names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    places = "irn_cli|tests|docs|benchmarks|examples|weights|batch|commands|evaluation|formats|train"
    for name in re.findall(rf"`((?:{places})/[\w/.-]*)`", text):
        assert any((place / name).exists() for place in (ROOT, ROOT / "irn_cli")), name


# Commands -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., IRN]) -> Path:
    """An empty directory with small pictures named like the shipped photos, in which the models are tiny ones."""
    for scale in (2, 4):
        model = tiny_model(scale)
        for name, parameter in model.named_parameters():
            if "conv5" in name:  # gentle couplings: the small picture stays near the bicubic one
                parameter.data *= 0.1
        save_model(tmp_path / "weights" / f"irn-x{scale}.safetensors", model)
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path / "weights"))
    for name in ("tune_allocator", "tune_convolutions"):  # settings of a process, and this one has other tests to run
        monkeypatch.setattr(f"irn_cli.device.{name}", lambda *_: None)
    work = tmp_path / "work"
    (work / "examples" / "photos").mkdir(parents=True)
    for number, name in enumerate(("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")):
        Image.fromarray(photo_like(48, 64, number)).save(work / "examples" / "photos" / name)
    monkeypatch.chdir(work)
    return work


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command of a page's console blocks, with the lines of output that follow it."""
    for block in blocks(page, "console"):
        for part in block.removeprefix("$ ").split("\n$ "):
            command, *output = part.splitlines()
            yield command, output


def test_the_tutorial_runs_as_it_stands(workplace: Path) -> None:
    ran = 0
    for command, expected in commands(DOCS / "tutorial.md"):
        program, *arguments = shlex.split(command)
        if program == "irn":
            result = CliRunner().invoke(irn, arguments, standalone_mode=False)
            assert not result.exception, (command, result.exception)
            assert not result.return_value, (command, result.stderr)
            output = [line.rstrip() for line in (result.stderr or result.stdout).splitlines()]
            # What stands in brackets, and "4 done in ...", depends on the picture and the machine.
            shown, told = ([re.split(r" \(| in ", line)[0] for line in lines] for lines in (expected, output))
            assert not expected or shown == told, command
        else:
            assert program == "python"
            subprocess.run([sys.executable, *arguments], check=True)
        ran += 1
    assert ran > 10
    assert Path("run/preview.png").is_file()
    assert np.array_equal(read("kept_up4.png").pixels, read("examples/photos/coffee.png").pixels)


def test_the_tutorials_python_runs_as_pasted(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code in blocks(DOCS / "tutorial.md", "python"):
        exec(compile(code, "tutorial.md", "exec"), {})
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "(48, 64, 3) (12, 16, 3) (48, 64, 3)"
    assert re.fullmatch(r"\(16, 12\) \d+\.\d\d dB", second)
    assert re.fullmatch(r"photos: \d+\.\d\d dB on Y, mean of 4", third)


def test_the_readmes_python_runs_as_pasted(workplace: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["large"], Picture)
    assert names["large"].size == (48, 64)


def table_1_commands() -> list[list[str]]:
    """The arguments of every `irn eval` on the page."""
    lines = "".join(blocks(DOCS / "table-1.md", "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("irn eval ")]


def test_the_commands_that_need_other_peoples_weights_have_the_options_they_show() -> None:
    assert len(table_1_commands()) > 5
    for arguments in table_1_commands():
        irn.commands["eval"].make_context("eval", arguments, **CONTEXT)


# What the programs of Table 1 call what they make of baby.png; where a name is not here, baby.png too.
WRITTEN = {
    "EDSR": ("babyx4_x4_SR.png", ""),
    "SAN": ("baby_SAN_x4.png", ""),
    "RDN": ("baby_RDN_x4.png", ""),
    "RCAN": ("baby_RCAN_x4.png", "baby_LRBI_x4.png"),
    "CAR": ("baby_recon.png", "baby_down.png"),
}


@pytest.mark.parametrize("arguments", [one for one in table_1_commands() if "--upscaler" not in one], ids=" ".join)
def test_other_peoples_pictures_are_found_where_the_page_says(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., IRN]
) -> None:
    work = tmp_path / "program" / "code"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setattr("irn_cli.device.tune_allocator", lambda: None)
    image = Image.fromarray(photo_like(64, 72))
    given = list(pairwise(arguments))
    for name in (value for option, value in given if option == "--data"):
        Path(name).mkdir()
        image.save(Path(name) / "baby.png")
    for method, _, folders in (value.partition("=") for option, value in given if option == "--results"):
        names, sizes = WRITTEN.get(method, ("baby.png", "baby.png")), ((72, 64), (18, 16))
        for folder, name, size in zip(folders.split(","), names, sizes, strict=False):
            Path(folder).mkdir(parents=True, exist_ok=True)
            image.resize(size).save(Path(folder) / name)
    for name in (value for option, value in given if option == "-m"):
        torch.save(tiny_model(4).state_dict(), name)
    result = CliRunner().invoke(irn, ["eval", *arguments, "-q"], standalone_mode=False)
    assert (result.exception, result.return_value, result.stderr) == (None, 0, "")


# What is generated ----------------------------------------------------------------------------------------------------


def test_the_page_of_commands_is_current() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert page == run_path(str(DOCS / "build.py"))["commands"](), "made by: python docs/build.py"
    assert max(map(len, page.splitlines())) <= 80


def test_the_reference_has_each_public_name_with_its_docstring(tmp_path: Path) -> None:
    run_path(str(DOCS / "build.py"))["reference"](tmp_path)
    page = (tmp_path / "irn_cli.html").read_text(encoding="utf-8")
    for name in irn_cli.__all__:
        public = getattr(irn_cli, name)
        members = [member for key, member in vars(public).items() if callable(member) and not key.startswith("_")]
        for documented in [public, *(members if isinstance(public, type) else [])]:
            assert documented.__doc__, documented
            assert f'id="{documented.__qualname__}"' in page


# The record -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "heading"), [(Record, "`small`"), (Restored, "`restored`")])
def test_each_field_of_a_record_is_specified(kind: type, heading: str) -> None:
    page = (DOCS / "record.md").read_text(encoding="utf-8")
    section = page.split(f"### Fields of {heading}\n")[1].split("\n#")[0]
    specified = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))
    names = {int: "integer", str: "string", float: "number"}
    assert specified == {field.name: names[field.type] for field in dataclasses.fields(kind)}
    assert f"format {FORMAT}\n" in page.splitlines(keepends=True)[0]


@pytest.mark.parametrize("suffix", [".webp", ".tif"])
def test_a_program_that_knows_only_the_specification_reads_xmp(workplace: Path, suffix: str) -> None:
    write(f"small{suffix}", Rescaler(load_model("irn-x4"), "cpu", "fp32").downscale(Picture(photo_like(48, 64))))
    data = Path(f"small{suffix}").read_bytes()
    pattern = rb'<rdf:Description rdf:about="" xmlns:irn="urn:irn-cli:record"><irn:record>(.*?)</irn:record>'
    (text,) = re.findall(pattern, data)
    assert from_text(text.decode()) == read(f"small{suffix}").record


# Weights --------------------------------------------------------------------------------------------------------------


def test_each_field_of_the_shipped_headers_is_described() -> None:
    page = (DOCS / "model-card.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`(\w+)`", page))
    for info in list_weights():
        with safe_open(info.path, framework="np") as file:
            names = {re.sub(r"^scores_.*", "scores_NAME", name) for name in file.metadata()}
        assert names <= described, names - described
    config = {field.name for field in dataclasses.fields(load_model("irn-x2").config)}
    assert config <= described


# Architecture ---------------------------------------------------------------------------------------------------------


def resolved(name: str) -> object:
    """What a dotted name means, relative to the package."""
    found: object = irn_cli
    for part in name.split("."):
        path = getattr(found, "__path__", None)
        if path is not None and find_spec(f"{found.__name__}.{part}"):  # type: ignore[attr-defined]
            found = import_module(f"{found.__name__}.{part}")  # type: ignore[attr-defined]
        else:
            found = getattr(found, part)
    return found


def test_the_models_card_opens_with_what_a_hub_searches_by() -> None:
    _, front, card = (ROOT / "weights" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(front)
    assert (fields["license"], fields["library_name"], fields["pipeline_tag"]) == (
        "apache-2.0",
        "irn-cli",
        "image-to-image",
    )
    assert {info.notes["licence"].lower() for info in list_weights()} == {fields["license"]}
    assert card.startswith("\n# ")
    described = (DOCS / "model-card.md").read_text(encoding="utf-8")
    assert not [name for name in fields if f"`{name}`" not in described]


def test_each_name_in_the_architecture_exists() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    diagrams = blocks(DOCS / "architecture.md", "mermaid")
    assert len(diagrams) == 3
    assert len(page.splitlines()) <= 150
    code = re.findall(r"`([\w.]+)`", page)
    text = " ".join([*code, *re.findall(r'"([^"]*)"', "\n".join(diagrams))])
    files = (".jsonl", ".md", ".png", ".svg")
    dotted = {name for name in re.findall(r"(?:\w+\.)+\w+", text) if not name.endswith(files)}
    assert len(dotted) > 40
    for name in sorted(dotted):
        resolved(name)
    modules = {path.stem for path in (ROOT / "irn_cli").rglob("*.py")}
    known = modules | {part for name in dotted for part in name.split(".")} | {"irn_cli", "downscale", "upscale"}
    assert {name for name in code if "." not in name} <= known
