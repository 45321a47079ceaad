"""Super-resolution networks by spandrel: its real loader, on small seeded networks of architectures it knows."""

import hashlib
import importlib
import io
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file
from torch import nn

from irn_cli.errors import DeviceError, InputError, UsageError
from irn_cli.evaluation import upscaler as module
from irn_cli.evaluation.dataset import find_data_set
from irn_cli.evaluation.evaluate import evaluate
from irn_cli.evaluation.methods import load_methods
from irn_cli.evaluation.scores import Score
from irn_cli.evaluation.upscaler import load_upscaler
from tests.helpers import need_torchvision, photo_like


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    need_torchvision()
    pytest.importorskip("spandrel")


def compact(scale: int = 4, **options: Any) -> nn.Module:
    """A network of Real-ESRGAN's compact kind, which adds to the enlarged picture what three convolutions find."""
    kind = importlib.import_module("spandrel.architectures.Compact").Compact
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return kind(num_feat=8, num_conv=1, upscale=scale, **options).eval()  # type: ignore[no-any-return]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(compact().state_dict(), tmp_path / "compact.pth")
    return tmp_path / "compact.pth"


def test_a_network_is_run_as_it_is(weights: Path, tmp_path: Path) -> None:
    pixels = photo_like(20, 31)
    upscaler = load_upscaler(weights, "cpu")
    with torch.inference_mode():
        expected = compact()(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    expected = (expected * 255).round().clamp(0, 255).byte()[0].permute(1, 2, 0).numpy()
    assert np.array_equal(upscaler(pixels), expected)
    assert expected.shape == (80, 124, 3)
    assert (upscaler.scale, upscaler.architecture) == (4, "RealESRGAN Compact")
    assert upscaler.parameters == sum(parameter.numel() for parameter in compact().parameters())
    assert upscaler.hash == hashlib.sha256(weights.read_bytes()).hexdigest()
    save_file(compact().state_dict(), tmp_path / "compact.safetensors")
    assert np.array_equal(load_upscaler(tmp_path / "compact.safetensors", "cpu")(pixels), expected)


def test_tiles_within_the_memory_give_the_same_picture(weights: Path) -> None:
    pixels = photo_like(150, 230)
    whole, tiled = load_upscaler(weights, "cpu"), load_upscaler(weights, "cpu", "10MB")
    shown: list[tuple[int, ...]] = []
    run = tiled.run
    object.__setattr__(tiled, "run", lambda x: shown.append(tuple(x.shape[2:])) or run(x))
    difference = tiled(pixels).astype(int) - whole(pixels)  # three convolutions reach less far than tiles overlap
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-4
    assert tiled.tile
    assert len(shown) > 4
    assert max(max(shape) for shape in shown) <= tiled.tile < whole.tile  # type: ignore[operator]


def test_less_memory_than_the_smallest_tile_needs_is_told(weights: Path) -> None:
    with pytest.raises(DeviceError, match=r"compact\.pth: the smallest tile needs about \d+ MB; 1 MB are allowed"):
        load_upscaler(weights, "cpu", "1MB")


def test_the_most_memory_in_use_is_counted() -> None:
    class Chain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x + 1
            for _ in range(5):
                y = y * 2  # the last one is let go
            return (y.view(-1) + torch.cat([y, y]).view(2, -1)).sum(0)

    x = torch.zeros(1000)
    with module._Peak() as peak:
        Chain()(x)
    assert peak.most == 5 * 4000  # y, two joined, and the sum of them


def test_small_pictures_are_bicubic_and_the_row_is_measured(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    Image.fromarray(photo_like(64, 72)).save(tmp_path / "set" / "a.png")
    Image.fromarray(photo_like(64, 72)[..., 0]).save(tmp_path / "set" / "grey.png")
    methods = load_methods([], ["bicubic"], upscalers=[weights], device="cpu")
    assert [(method.name, method.facts["kind"]) for method in methods] == [
        ("compact", "upscaler"),
        ("bicubic", "baseline"),
    ]
    assert methods[0].facts["architecture"] == "RealESRGAN Compact"
    rows = [row for row in evaluate(methods, [find_data_set(tmp_path / "set")]) if isinstance(row, Score)]
    assert len(rows) == 4
    for row, plain in zip(rows[::2], rows[1::2], strict=True):
        assert (row.lr_psnr_y, row.bytes) == (np.inf, plain.bytes)
        assert 5 < row.psnr_y < 60
        assert row.psnr_y != plain.psnr_y
        assert row.seconds


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    return stream.getvalue()


def saved(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def with_nan() -> dict[str, torch.Tensor]:
    state = compact().state_dict()
    state["body.0.bias"] = state["body.0.bias"] * torch.nan
    return state


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
DAMAGED = r" is damaged, or not a network that spandrel knows \(.+\)$"
UNKNOWN = " is not a network of any architecture that spandrel knows$"
POINTER = " is only a pointer to a file in Git LFS: `git lfs pull` fetches the file$"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", DAMAGED),
        (lambda: b"nothing", DAMAGED),
        (lambda: b"<!DOCTYPE html><html>Quota exceeded</html>", DAMAGED),
        (lambda: LFS, POINTER),
        (lambda: pickle.dumps("a text"), DAMAGED),
        (lambda: pickle.dumps(print), DAMAGED),
        (zipped, DAMAGED),
        (lambda: saved("a text"), DAMAGED),
        (lambda: saved(nn.Conv2d(3, 3, 1)), DAMAGED),
        (lambda: saved(compact().state_dict())[:5000], DAMAGED),
        (lambda: saved({**compact().state_dict(), "body.0.weight": torch.zeros(8, 3, 1, 1)}), DAMAGED),
        (lambda: saved({"a": torch.zeros(3)}), UNKNOWN),
        (
            lambda: saved(compact(1).state_dict()),
            r": expected .* enlarges pictures, found RealESRGAN Compact \(Restoration\)$",
        ),
        (
            lambda: saved(compact(num_in_ch=1, num_out_ch=1).state_dict()),
            ": expected a network of RGB pictures, RealESRGAN Compact takes 1 channels$",
        ),
        (lambda: saved(with_nan()), r": tensor body\.0\.bias holds NaN or infinity$"),
    ],
)
def test_what_is_no_upscaler_is_one_line(tmp_path: Path, make: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "up.pth"
    path.write_bytes(make())
    assert_one_line(path, message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", DAMAGED),
        (lambda: b"nothing", DAMAGED),
        (lambda: LFS, POINTER),
        (zipped, DAMAGED),
        (lambda: save(compact().state_dict())[:-100], DAMAGED),
        (lambda: save({"a": torch.zeros(3)}), UNKNOWN),
    ],
)
def test_nor_is_such_a_safetensors_file(tmp_path: Path, make: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "up.safetensors"
    path.write_bytes(make())
    assert_one_line(path, message)


def assert_one_line(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}{message}") as caught:
        load_upscaler(path, "cpu")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_what_is_no_file_is_wrong_usage(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "up.pth")
    with pytest.raises(UsageError, match=r"^no weights file .*up\.pth$"):
        load_upscaler(tmp_path / "up.pth", "cpu")


def test_another_scale_is_named(weights: Path, tmp_path: Path) -> None:
    two = tmp_path / "two.pth"
    torch.save(compact(2).state_dict(), two)
    with pytest.raises(UsageError, match=rf"expected methods of one scale: {weights} is 4x, {two} is 2x"):
        load_methods([], upscalers=[weights, two], device="cpu")
    with pytest.raises(UsageError, match=rf"expected methods of one scale, 4x: {two} is 2x"):
        load_methods([], scale=4, upscalers=[two], device="cpu")
    assert [method.scale for method in load_methods([], ["area"], upscalers=[two], device="cpu")] == [2, 2]


def test_without_spandrel_the_extra_is_named(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UsageError, match=r"--upscaler needs spandrel .* pip install 'irn-cli\[spandrel\]'"):
        load_upscaler(weights, "cpu")
