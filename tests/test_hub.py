"""Weights from a hub, with a stand-in for the Hugging Face Hub on this machine."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from irn_cli.cli import irn
from irn_cli.errors import InputError, OutputError, UsageError, WeightsError
from irn_cli.hub import fetch
from irn_cli.model import IRN
from irn_cli.weights import find_by_hash, load_model, save_model, weights_hash
from tests.hub import Hub, serve

constants = pytest.importorskip("huggingface_hub.constants", reason="not installed: pip install 'irn-cli[hub]'")


@pytest.fixture
def files(tmp_path: Path, tiny_model: Callable[..., IRN]) -> dict[str, bytes]:
    save_model(tmp_path / "mine-x2.safetensors", tiny_model(2))
    return {"mine-x2.safetensors": (tmp_path / "mine-x2.safetensors").read_bytes(), "model.pkl": b"never fetched"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Iterator[Hub]:
    """With one repository, `me/photos`; what is fetched and pulled stays in the test's directory."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_, **__: str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.push("me/photos", files)
        yield hub


def pull(*arguments: str) -> object:
    return CliRunner().invoke(irn, ["weights", "pull", *arguments], standalone_mode=False)


def test_a_model_is_loaded_by_its_repository(hub: Hub, tiny_model: Callable[..., IRN]) -> None:
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    model = load_model("hf:me/photos")
    assert logger.level == level != logging.CRITICAL, "silent only meanwhile"
    assert model.name == "mine-x2"
    assert weights_hash(model.state_dict()) == weights_hash(
        {name: tensor.half() for name, tensor in tiny_model(2).state_dict().items()}
    )
    assert not [path for path in hub.asked if path.endswith(".pkl")]
    before = len(hub.asked)
    load_model("hf:me/photos")
    assert not [path for path in hub.asked[before:] if "/resolve/" in path]  # out of the cache


def test_a_revision_stays_what_it_is(hub: Hub, files: dict[str, bytes], tiny_model: Callable[..., IRN]) -> None:
    first = hub.push("me/photos", files)
    other = tiny_model(4)
    save_model("other.safetensors", other)
    hub.push("me/photos", {"mine-x4.safetensors": Path("other.safetensors").read_bytes()})
    assert load_model("hf:me/photos").config.scale == 4
    assert load_model(f"hf:me/photos@{first}").config.scale == 2
    hub.names["me/photos", "v1"] = first
    assert fetch("hf:me/photos@v1").name == "mine-x2.safetensors"


def test_one_of_several_files_is_named(hub: Hub) -> None:
    hub.push("me/two", {"a.safetensors": b"a", "b.safetensors": b"b"})
    with pytest.raises(WeightsError, match="has several files: expected one of hf:me/two/a, hf:me/two/b"):
        fetch("hf:me/two")
    assert fetch("hf:me/two/b").read_bytes() == fetch("hf:me/two/b.safetensors").read_bytes() == b"b"
    with pytest.raises(WeightsError, match=r"hf:me/two/c: there is no c\.safetensors in it"):
        fetch("hf:me/two/c")


def test_without_a_connection_the_cache_serves(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch("hf:me/photos")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert fetch("hf:me/photos") == path
    with pytest.raises(InputError, match=r"hf:me/other: no connection to http://127.0.0.1:9, and it has not been "):
        fetch("hf:me/other")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.status = 503
    assert fetch("hf:me/photos") == path
    with pytest.raises(InputError, match=r"hf:me/other: http://127.0.0.1:\d+ answers 503"):
        fetch("hf:me/other")


@pytest.mark.parametrize(
    ("reference", "error", "told"),
    [
        ("hf:me", UsageError, "expected hf:OWNER/NAME"),
        ("hf:me/photos@", UsageError, "expected hf:OWNER/NAME"),
        ("hf:../../etc/passwd", UsageError, "hf:"),
        ("hf:me/--photos", UsageError, "Repo id"),
        ("hf:me/nothing", WeightsError, "no such repository"),
        ("hf:me/photos@v9", WeightsError, "me/photos has no revision v9"),
        ("hf:me/empty", WeightsError, "no file that ends in .safetensors"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(hub: Hub, reference: str, error: type[Exception], told: str) -> None:
    hub.push("me/empty", {"README.md": b""})
    result = pull(reference)
    assert isinstance(result.exception, error)
    assert told in str(result.exception)
    assert "\n" not in str(result.exception)
    assert result.output == ""
    assert not Path("data").exists()


def test_what_is_pulled_is_found_by_name_and_hash(hub: Hub) -> None:
    result = pull("hf:me/photos")
    target = Path("data/weights/mine-x2.safetensors").absolute()
    model = load_model("mine-x2")
    digest = weights_hash(model.state_dict())
    assert result.output == f"{target}: 2x, revision 1, {digest[:12]}\n"
    assert find_by_hash(digest) == target
    assert isinstance(pull("hf:me/photos").exception, OutputError)
    assert not pull("hf:me/photos", "--force").exception
    assert not pull("hf:me/photos", "-o", "here.safetensors").exception
    assert Path("here.safetensors").read_bytes() == target.read_bytes()


def test_damaged_or_foreign_weights_are_not_kept(hub: Hub, files: dict[str, bytes]) -> None:
    damaged = bytearray(files["mine-x2.safetensors"])
    damaged[-1] ^= 1
    hub.push("me/damaged", {"x.safetensors": bytes(damaged)})
    hub.push("me/foreign", {"x.safetensors": b"nothing of ours"})
    for name, told in (("damaged", "is damaged: its header promises"), ("foreign", "safetensors file: ")):
        result = pull(f"hf:me/{name}")
        assert isinstance(result.exception, WeightsError)
        assert told in str(result.exception)
    assert not Path("data").exists()


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"hf:me/photos needs huggingface_hub: pip install 'irn-cli\[hub\]'"):
        load_model("hf:me/photos")
