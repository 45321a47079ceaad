"""Where weights are looked for."""

import os
from pathlib import Path

import pytest

from irn_cli.locations import user_directory, weights_directories, weights_names
from tests.helpers import ROOT


def test_named_directories_come_first_and_the_users_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRN_WEIGHTS", os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b")]))
    assert weights_directories() == [tmp_path / "a", tmp_path / "b", ROOT / "weights", user_directory()]


def test_the_users_directory_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert user_directory() == tmp_path / "data" / "irn" / "weights"
    weights_names()
    assert not (tmp_path / "data").exists()


def test_names_are_those_of_all_directories_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRN_WEIGHTS", str(tmp_path))
    for name in ("irn-x4.safetensors", "mine.safetensors", "mine.pth"):
        (tmp_path / name).write_text("not even weights")
    names = weights_names()
    assert names == sorted(set(names))
    assert {"irn-x2", "irn-x4", "mine"} <= set(names)
