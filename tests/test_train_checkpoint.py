"""Checkpoints: what is saved comes back, and what is no checkpoint is refused in one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load, save
from safetensors.torch import load_file

from irn_cli.config import IRNConfig
from irn_cli.errors import InputError
from irn_cli.files import atomic_write
from irn_cli.tensors import TensorFormat
from irn_cli.train.checkpoint import NAME, Checkpoint, Counters, load_checkpoint, save_checkpoint
from irn_cli.train.recipe import load_recipe

CHECKPOINT = Checkpoint(
    tensors={"weights/0": torch.arange(6.0).reshape(2, 3).T, "guard/skipped": torch.tensor(3.0)},
    counters=Counters(step=7, elapsed=12.5, progress=0.25, setbacks=1),
    recipe=replace(load_recipe("irn"), lr=1e-3),
    config=IRNConfig(blocks=(2, 1), growth=8, clamp=0.5),
    stamp="of the pictures",
    notes={"data": "four photos", "licence": "CC0"},
)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, CHECKPOINT)
    found = load_checkpoint(tmp_path)
    for name in ("counters", "recipe", "config", "stamp", "notes"):
        assert getattr(found, name) == getattr(CHECKPOINT, name)
    assert found.tensors.keys() == CHECKPOINT.tensors.keys()
    for name, tensor in CHECKPOINT.tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_anyone_can_read_the_tensors(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, CHECKPOINT)
    assert torch.equal(load_file(tmp_path / NAME)["weights/0"], CHECKPOINT.tensors["weights/0"])


def test_a_later_one_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, CHECKPOINT)
    save_checkpoint(tmp_path, replace(CHECKPOINT, counters=replace(CHECKPOINT.counters, step=8)))
    assert load_checkpoint(tmp_path).counters.step == 8
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def changed(path: Path, **fields: str | None) -> None:
    """Rewrite a checkpoint with other fields in its header; None takes one away."""
    form = TensorFormat("irn-checkpoint-1", "a checkpoint", (), InputError)
    header, arrays = form.read_header(path), load(path.read_bytes())
    header = {name: value for name, value in (header | fields).items() if value is not None}
    with atomic_write(path, overwrite=True) as stream:
        stream.write(save(arrays, metadata=header))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "irn-checkpoint-9"}, "is not a checkpoint of irn"),
        ({"stamp": None}, "no 'stamp' in it"),
        ({"counters": "{"}, "is damaged"),
        ({"counters": json.dumps({"step": 1})}, "is damaged"),
        ({"config": json.dumps({"blocks": [0], "growth": 8})}, "is damaged"),
        ({"recipe": json.dumps({"stage": "irn", "later": 1})}, "is damaged: .*later"),
    ],
)
def test_a_damaged_header_is_told(tmp_path: Path, fields: dict[str, str | None], message: str) -> None:
    save_checkpoint(tmp_path, CHECKPOINT)
    changed(tmp_path / NAME, **fields)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_without_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"nothing to resume: there is no .*{NAME}"):
        load_checkpoint(tmp_path)
