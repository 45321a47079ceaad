"""The kept latent's file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from irn_cli.errors import InputError, OutputError
from irn_cli.latent import Latent, latent_path, read_latent, write_latent


@pytest.fixture
def latent() -> Latent:
    draw = np.random.default_rng(0).standard_normal
    return Latent(draw((4, 6, 45)).astype(np.float16), draw((4, 6, 3)).astype(np.float16), "a" * 64, "b" * 64)


def test_what_is_written_is_read(latent: Latent, tmp_path: Path) -> None:
    path = latent_path(tmp_path / "photo_down4.png")
    assert path.name == "photo_down4.latent.safetensors"
    write_latent(path, latent)
    back = read_latent(path)
    assert np.array_equal(back.z, latent.z)
    assert np.array_equal(back.rounding, latent.rounding)
    assert (back.pixels, back.original) == (latent.pixels, latent.original)
    with pytest.raises(OutputError, match="exists already"):
        write_latent(path, latent)
    write_latent(path, dataclasses.replace(latent, pixels="c" * 64), overwrite=True)
    assert read_latent(path).pixels == "c" * 64


def test_other_files_are_refused(latent: Latent, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="no such file"):
        read_latent(path)
    write_latent(path, latent)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        read_latent(path)
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        read_latent(path)
    save_file({"z": latent.z}, path)
    with pytest.raises(InputError, match="is not a latent"):
        read_latent(path)
    save_file({"z": latent.z}, path, {"format": "irn-latent-1", "pixels": ""})
    with pytest.raises(InputError, match="has a damaged header: no 'original' in it"):
        read_latent(path)
    header = {"format": "irn-latent-1", "pixels": "", "original": ""}
    save_file({"z": latent.z}, path, header)
    with pytest.raises(InputError, match="expected 'rounding' of three dimensions"):
        read_latent(path)
    save_file({"z": latent.z.astype(np.float64), "rounding": latent.rounding}, path, header)
    with pytest.raises(InputError, match="in float16 or float32"):
        read_latent(path)
