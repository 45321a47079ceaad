"""Files of tensors: a header that is checked, and one clear line for whatever else a file may be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from irn_cli.errors import InputError, OutputError, WeightsError
from irn_cli.tensors import TensorFormat, read_state_dict

FORMAT = TensorFormat("test-1", "a test", ("name",), InputError)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "step": np.array(7)}
    FORMAT.write(tmp_path / "a", arrays, {"name": "n", "more": "é"})
    header, back = FORMAT.read(tmp_path / "a")
    assert header == FORMAT.read_header(tmp_path / "a") == {"format": "test-1", "name": "n", "more": "é"}
    assert set(back) == set(arrays)
    for name, array in back.items():
        assert array.dtype == arrays[name].dtype
        assert np.array_equal(array, arrays[name])
        assert array.flags.writeable  # torch asks for it
    with pytest.raises(OutputError, match="exists already"):
        FORMAT.write(tmp_path / "a", {}, {"name": "n"})


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(InputError, match="no such file"):
        FORMAT.read(path)
    with pytest.raises(InputError, match="cannot read"):
        FORMAT.read(tmp_path)
    for content in (b"", b"text", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not a complete safetensors file"):
            FORMAT.read_header(path)
    array = {"a": np.zeros(3)}
    for header, words in [
        (None, "is not a test: expected format 'test-1', found None"),
        ({"format": "test-2"}, "found 'test-2'"),
        ({"format": "test-1"}, "has a damaged header: no 'name' in it"),
    ]:
        save_file(array, path, header)
        with pytest.raises(InputError, match=words):
            FORMAT.read(path)


def test_others_weights_are_read_or_refused(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0)}
    torch.save(tensors, tmp_path / "a.pth")
    save_file({"a": np.arange(3, dtype=np.float32)}, tmp_path / "a.safetensors")
    for suffix in ("pth", "safetensors"):
        assert torch.equal(read_state_dict(tmp_path / f"a.{suffix}")["a"], tensors["a"])
        with pytest.raises(WeightsError, match="no such file"):
            read_state_dict(tmp_path / f"absent.{suffix}")
        (tmp_path / f"folder.{suffix}").mkdir()
        with pytest.raises(WeightsError, match=r"cannot read .*: Is a directory"):
            read_state_dict(tmp_path / f"folder.{suffix}")
        (tmp_path / f"b.{suffix}").write_bytes(b"text")
        with pytest.raises(WeightsError, match="is not a file of plain tensors"):
            read_state_dict(tmp_path / f"b.{suffix}")
    torch.save([1, 2], tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="expected a mapping"):
        read_state_dict(tmp_path / "c.pth")


def test_weights_among_what_a_trainer_keeps_are_found(tmp_path: Path) -> None:
    plain, averaged = {"a": torch.zeros(2)}, {"a": torch.ones(2)}
    for saved, expected in [
        ({"state_dict": plain, "epoch": 3}, plain),
        ({"params": plain, "params_ema": averaged}, averaged),
        ({"params": plain}, plain),
    ]:
        torch.save(saved, tmp_path / "a.pth")
        assert torch.equal(read_state_dict(tmp_path / "a.pth")["a"], expected["a"])
    torch.save({"epoch": 3, "optimizer": {"a": 1}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="expected a mapping of names to tensors"):
        read_state_dict(tmp_path / "a.pth")


def test_a_pointer_of_git_lfs_is_told_as_such(tmp_path: Path) -> None:
    for suffix in ("pth", "safetensors"):
        path = tmp_path / f"a.{suffix}"
        path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 17000000\n")
        with pytest.raises(WeightsError, match="only a pointer to a file in Git LFS: `git lfs pull`"):
            read_state_dict(path)
        with pytest.raises(InputError, match="only a pointer to a file in Git LFS: `git lfs pull`"):
            FORMAT.read_header(path)
