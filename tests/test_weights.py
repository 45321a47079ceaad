"""Weights files: written, found, verified; and what is refused."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from irn_cli.config import IRNConfig
from irn_cli.errors import OutputError, UsageError, WeightsError
from irn_cli.model import IRN
from irn_cli.weights import (
    find_by_hash,
    find_weights,
    import_official,
    list_weights,
    load_model,
    read_info,
    save_model,
    weights_hash,
)
from tests.helpers import SHARED, needs_shared


@pytest.fixture
def saved(tmp_path: Path, tiny_model: Callable[..., IRN]) -> Path:
    path = tmp_path / "mine.safetensors"
    save_model(path, tiny_model(4), notes={"recipe": "none", "licence": "CC0"}, dtype=torch.float32)
    return path


def read_header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_a_saved_model_rebuilds_itself(saved: Path, tiny_model: Callable[..., IRN]) -> None:
    model, original = load_model(saved), tiny_model(4)
    assert (model.name, model.revision, model.config) == ("mine", "1", IRNConfig(blocks=(2, 1), growth=8))
    assert not model.training
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    info = read_info(saved)
    assert info.hash == weights_hash(original.state_dict())
    assert info.notes == {"recipe": "none", "licence": "CC0"}


def test_temperatures_are_in_the_header_and_were_1_before_it_had_them(
    saved: Path, tiny_model: Callable[..., IRN]
) -> None:
    model = tiny_model(4)
    model.temperatures = (0.0, 1.0)
    save_model(saved, model, overwrite=True)
    assert load_model(saved).temperatures == (0.0, 1.0)
    assert read_info(saved).notes == {}
    header, state = read_header(saved), load_file(saved)
    del header["temperatures"]
    save_file(state, saved, metadata=header)
    assert load_model(saved).temperatures == (1.0, 1.0)


def test_half_precision_files_are_rounded_once_and_keep_their_hash(
    tmp_path: Path, tiny_model: Callable[..., IRN]
) -> None:
    path, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_model(path, tiny_model(2))
    save_model(again, load_model(path))
    assert path.stat().st_size < 0.6 * sum(4 * p.numel() for p in tiny_model(2).parameters()) + 4096
    assert read_info(path).hash == read_info(again).hash == weights_hash(load_model(path).state_dict())


def test_loading_leaves_the_global_random_state_alone(saved: Path) -> None:
    before = torch.random.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_shipped_weights() -> None:
    scales = {info.name: info.config.scale for info in list_weights()}
    assert scales.items() >= {"irn-x2": 2, "irn-x4": 4}.items()
    for name in scales:
        model = load_model(name)
        assert find_by_hash(weights_hash(model.state_dict())) == find_weights(name)


def test_look_up_order(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no model named 'mine'; there are: .*irn-x2, irn-x4"):
        find_weights("mine")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("IRN_WEIGHTS", os.pathsep.join([str(other), str(tmp_path)]))
    assert find_weights("mine") == saved
    (other / "broken.safetensors").write_bytes(b"not weights")  # must not hide the others
    assert {"mine", "irn-x4"} <= {info.name for info in list_weights()}
    (other / "irn-x4.safetensors").write_bytes(saved.read_bytes())
    assert find_weights("irn-x4").parent == other
    with pytest.raises(UsageError, match="no weights file"):
        find_weights(tmp_path / "absent.safetensors")


def test_truncated_and_foreign_files(saved: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    for content in (b"", b"\x89PNG", saved.read_bytes()[:-1000]):
        bad.write_bytes(content)
        with pytest.raises(WeightsError, match="not a complete safetensors file"):
            load_model(bad)
    save_file({"a": torch.zeros(1)}, bad)
    with pytest.raises(WeightsError, match="not a weights file of irn"):
        load_model(bad)


def test_a_changed_byte_is_noticed(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-100] ^= 1
    saved.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("missing", "operations.1.G.conv5.weight"),
        ("extra", "operations.9.F.conv1.bias"),
        ("reshaped", "operations.1.G.conv5.weight"),
        ("nan", "operations.1.G.conv5.weight"),
    ],
)
def test_wrong_tensors_are_named(change: str, name: str, saved: Path) -> None:
    header, state = read_header(saved), load_file(saved)
    match change:
        case "missing":
            del state[name]
        case "extra":
            state[name] = torch.zeros(3)
        case "reshaped":
            state[name] = state[name][:, :4].contiguous()
        case "nan":
            state[name][0, 0, 0, 0] = float("nan")
    save_file(state, saved, metadata=header)
    with pytest.raises(WeightsError, match=name) as caught:
        load_model(saved)
    if change == "reshaped":
        assert "expected (9, 35, 3, 3), found (9, 4, 3, 3)" in str(caught.value)


@pytest.mark.parametrize("field", ["config", "hash", "revision", "temperatures"])
def test_a_damaged_header_is_refused(field: str, saved: Path) -> None:
    header, state = read_header(saved), load_file(saved)
    if field == "config":
        header[field] = '{"blocks": [0]}'
    elif field == "temperatures":
        header[field] = "[0.5]"
    else:
        del header[field]
    save_file(state, saved, metadata=header)
    with pytest.raises(WeightsError, match="damaged header"):
        read_info(saved)


@pytest.mark.parametrize("config", [{"blocks": [1], "growth": 60_000}, {"blocks": [10**9], "growth": 4}])
def test_a_header_cannot_ask_for_more_memory_than_its_file_has(saved: Path, config: dict[str, object]) -> None:
    header, state = read_header(saved), load_file(saved)
    save_file(state, saved, metadata=header | {"config": json.dumps({**config, "clamp": 1.0})})
    with pytest.raises(WeightsError, match=r"expected [\d,]{13,} numbers, as its shape says, found"):
        load_model(saved)


def test_nor_can_a_tensor_of_a_checkpoint(tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    state = tiny_model(2).state_dict()
    name = "operations.1.G.conv1.weight"
    torch.save({**state, name: state[name][:1].expand(60_000, -1, -1, -1)}, tmp_path / "a.pth")  # holds 27 numbers
    with pytest.raises(WeightsError, match=r"expected [\d,]{13,} numbers, as its shape says, found"):
        load_model(tmp_path / "a.pth")


def test_notes_cannot_forge_the_formats_own_fields(tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    with pytest.raises(ValueError, match="hash"):
        save_model(tmp_path / "a.safetensors", tiny_model(2), notes={"hash": "0"})


def test_saving_does_not_overwrite(saved: Path, tiny_model: Callable[..., IRN]) -> None:
    before = saved.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_model(saved, tiny_model(2))
    assert saved.read_bytes() == before


@pytest.mark.parametrize("prefix", ["", "module."])
def test_import_of_a_checkpoint_in_the_authors_layout(
    prefix: str, tmp_path: Path, tiny_model: Callable[..., IRN]
) -> None:
    original = tiny_model(4)
    state = {prefix + name: tensor for name, tensor in original.state_dict().items()}
    state[f"{prefix}operations.0.haar_weights"] = torch.ones(12, 1, 2, 2)
    torch.save(state, tmp_path / "official.pth")
    import_official(tmp_path / "official.pth", tmp_path / "imported.safetensors")
    imported, direct = load_model(tmp_path / "imported.safetensors"), load_model(tmp_path / "official.pth")
    assert imported.config == direct.config == original.config
    for name, tensor in original.state_dict().items():
        assert torch.equal(imported.state_dict()[name], tensor)
        assert torch.equal(direct.state_dict()[name], tensor)


@needs_shared
def test_import_of_a_real_official_checkpoint(tmp_path: Path) -> None:
    import_official(SHARED / "golden" / "x4_two_plus_two_official.pth", tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors").config == IRNConfig(blocks=(2, 2))


class _Bomb:
    """What a malicious checkpoint does: run a command when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"operations.1.F.conv1.weight": _Bomb(trace)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Bomb(trace)))
    (tmp_path / "damaged.pth").write_bytes(b"\x80\x02}}K\x01s.")  # {{}: 1}, a TypeError
    for name in ("zip.pth", "plain.pth", "damaged.pth"):
        with pytest.raises(WeightsError, match="not a file of plain tensors"):
            load_model(tmp_path / name)
    assert not trace.exists()


def test_checkpoints_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content, message in [
        ([1, 2], "a mapping of names to tensors"),
        ({"layer.weight": torch.zeros(2)}, "expected tensors operations"),
        ({"operations.1.G.conv1.weight": torch.zeros(8, 3, 3, 3)}, "found nothing"),
        ({f"operations.{n}.G.conv1.weight": torch.zeros(8, 3, 3, 3) for n in (1, 10**12)}, "expected tensors op"),
        ({}, "not an IRN checkpoint"),
    ]:
        torch.save(content, path)
        with pytest.raises(WeightsError, match=message):
            load_model(path)
    path.write_text("not a checkpoint")
    with pytest.raises(WeightsError, match="is not loaded"):
        load_model(path)
