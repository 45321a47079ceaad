"""The file that is kept beside a small picture."""

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from irn_cli.errors import InputError, OutputError
from irn_cli.image import read
from irn_cli.latent import KeptOriginal, Latent, latent_path, read_latent, write_latent
from irn_cli.record import hash_pixels
from tests.helpers import photo_like


@pytest.fixture
def kept() -> KeptOriginal:
    return KeptOriginal(photo_like(40, 50), "a" * 64)


@pytest.fixture
def latent() -> Latent:
    draw = np.random.default_rng(0).standard_normal
    return Latent(draw((4, 6, 45)).astype(np.float16), draw((4, 6, 3)).astype(np.float16), "a" * 64, "b" * 64)


def test_what_is_written_is_read(kept: KeptOriginal, tmp_path: Path) -> None:
    path = latent_path(tmp_path / "photo_down4.png")
    assert path.name == "photo_down4.latent.safetensors"
    write_latent(path, kept)
    back = read_latent(path)
    assert isinstance(back, KeptOriginal)
    assert np.array_equal(back.original, kept.original)
    assert back.pixels == kept.pixels
    assert repr(back) == f"KeptOriginal(pixels='{kept.pixels}')"
    with pytest.raises(OutputError, match="exists already"):
        write_latent(path, kept)
    write_latent(path, dataclasses.replace(kept, pixels="c" * 64), overwrite=True)
    assert read_latent(path).pixels == "c" * 64


def test_it_is_as_large_as_a_lossless_webp(kept: KeptOriginal, tmp_path: Path) -> None:
    path = tmp_path / "a.latent.safetensors"
    write_latent(path, kept)
    webp = tmp_path / "a.webp"
    webp.write_bytes(load_file(path)["picture"].tobytes())
    assert np.array_equal(read(webp).pixels, kept.original)
    assert 0 <= path.stat().st_size - webp.stat().st_size < 500


@pytest.mark.parametrize("shape", [(1, 16_384), (16_384, 1), (1, 16_383)])
def test_sides_longer_than_a_webps_are_kept_too(shape: tuple[int, int], tmp_path: Path) -> None:
    original = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    write_latent(tmp_path / "a", KeptOriginal(original, ""))
    back = read_latent(tmp_path / "a")
    assert isinstance(back, KeptOriginal)
    assert np.array_equal(back.original, original)


def test_files_of_earlier_versions_are_read(latent: Latent, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = {"format": "irn-latent-1", "pixels": latent.pixels, "original": latent.original}
    save_file({"z": latent.z, "rounding": latent.rounding}, path, header)
    for _ in range(2):
        back = read_latent(path)
        assert isinstance(back, Latent)
        assert np.array_equal(back.z, latent.z)
        assert np.array_equal(back.rounding, latent.rounding)
        assert (back.pixels, back.original) == (latent.pixels, latent.original)
        path.unlink()
        write_latent(path, back)


def test_an_original_of_more_pixels_than_there_can_be_is_not_decoded(kept: KeptOriginal, tmp_path: Path) -> None:
    write_latent(tmp_path / "a", kept)
    read_latent(tmp_path / "a", max_pixels=2000)
    with pytest.raises(InputError, match="belongs to another picture: 50x40 is over 1999 pixels"):
        read_latent(tmp_path / "a", max_pixels=1999)


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
    save_file({"z": latent.z}, path, {"format": "irn-latent-3", "pixels": "", "original": ""})
    with pytest.raises(InputError, match="expected format 'irn-latent-2', found 'irn-latent-3'"):
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


def test_damaged_originals_are_refused(kept: KeptOriginal, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = {"format": "irn-latent-2", "pixels": "", "original": hash_pixels(kept.original)}
    write_latent(path, kept)
    coded = load_file(path)["picture"]
    for wrong in (coded.astype(np.float32), coded[None]):
        save_file({"picture": wrong}, path, header)
        with pytest.raises(InputError, match="expected 'picture', the bytes of a WebP or PNG"):
            read_latent(path)
    save_file({"other": coded}, path, header)
    with pytest.raises(InputError, match="expected 'picture'"):
        read_latent(path)
    save_file({"picture": coded[: len(coded) // 2]}, path, header)
    with pytest.raises(InputError, match="cannot be decoded"):
        read_latent(path)
    save_file({"picture": np.frombuffer(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13), np.uint8)}, path, header)
    with pytest.raises(InputError, match="cannot be decoded"):
        read_latent(path)
    save_file({"picture": coded}, path, header | {"original": "b" * 64})
    with pytest.raises(InputError, match="the original in it has changed"):
        read_latent(path)
