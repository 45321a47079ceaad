"""A reader of small pictures by another hand: from the pages in `docs/`, with nothing of irn in it."""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import Tensor

from irn_cli import Rescaler, load_model, read, save_model, write
from irn_cli.model import IRN
from irn_cli.picture import Picture
from tests.helpers import photo_like

# The reader -----------------------------------------------------------------------------------------------------------


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        yield kind, data[place + 8 : place + 8 + length]
        place += length + 12


def hash_of_pixels(pixels: np.ndarray) -> str:
    height, width, _ = pixels.shape
    return hashlib.sha256(f"({height}, {width}, 3)".encode() + pixels.tobytes()).hexdigest()


@dataclass
class Weights:
    """What a weights file holds."""

    hash: str
    blocks: list[int]
    clamp: float
    tensors: Mapping[str, Tensor]

    @classmethod
    def load(cls, path: Path) -> "Weights":
        with safe_open(path, framework="np") as file:
            config = json.loads(file.metadata()["config"])
        tensors = {name: tensor.astype("<f4") for name, tensor in sorted(load_file(path).items())}
        digest = hashlib.sha256()
        for name, tensor in tensors.items():
            digest.update(f"{name}[{', '.join(map(str, tensor.shape))}]".encode() + tensor.tobytes())
        loaded = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        return cls(digest.hexdigest(), config["blocks"], config["clamp"], loaded)

    def apply(self, name: str, x: Tensor) -> Tensor:
        """A sub-network."""
        for k in range(1, 6):
            weight, bias = (self.tensors[f"{name}.conv{k}.{what}"] for what in ("weight", "bias"))
            y = functional.conv2d(x, weight, bias, padding=1)
            x = y if k == 5 else torch.cat([x, torch.where(y < 0, 0.2 * y, y)], 1)
        return x

    def backwards(self, u: Tensor) -> Tensor:
        operations = [kind for count in self.blocks for kind in ["haar", *["block"] * count]]
        for n, kind in reversed(list(enumerate(operations))):
            u = self.undo_block(n, u) if kind == "block" else undo_haar(u)
        return u

    def undo_block(self, n: int, u: Tensor) -> Tensor:
        y1, y2 = u[:, :3], u[:, 3:]
        s = self.clamp * torch.tanh(self.apply(f"operations.{n}.H", y1) / 2)
        x2 = (y2 - self.apply(f"operations.{n}.G", y1)) * torch.exp(-s)
        return torch.cat([y1 - self.apply(f"operations.{n}.F", x2), x2], 1)


def undo_haar(u: Tensor) -> Tensor:
    p, q, r, t = u.chunk(4, 1)
    batch, channels, height, width = p.shape
    x = torch.empty(batch, channels, 2 * height, 2 * width)
    x[..., 0::2, 0::2], x[..., 0::2, 1::2] = p + q + r + t, p - q + r - t
    x[..., 1::2, 0::2], x[..., 1::2, 1::2] = p + q - r - t, p - q - r + t
    return x


def keys(t: float) -> float:
    t = abs(t)
    return 1.5 * t**3 - 2.5 * t**2 + 1 if t <= 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def enlarge_rows(pixels: np.ndarray, scale: int) -> np.ndarray:
    rows = []
    padded = np.pad(pixels, ((2, 2), (0, 0), (0, 0)), "symmetric")
    for i in range(len(pixels) * scale):
        at = (i + 0.5) / scale - 0.5
        near = range(int(np.floor(at)) - 1, int(np.floor(at)) + 3)
        rows.append(sum(keys(at - k) * padded[k + 2] for k in near))
    return np.stack(rows)


def restore(path: Path, weights: Weights) -> tuple[dict[str, Any], np.ndarray, np.ndarray | None]:
    """The record of a PNG, and the restored picture with its transparency; the latent is all zeros."""
    chunks = list(png_chunks(path.read_bytes()))
    (text,) = (data for kind, data in chunks if kind == b"tEXt" and data.startswith(b'irn\0{"irn":'))
    record = json.loads(text.removeprefix(b"irn\0").decode("ascii"))
    assert (record["irn"] <= 2, record["kind"], record["weights"]) == (True, "small", weights.hash)
    scale, width, height = (record[name] for name in ("scale", "width", "height"))
    pixels = np.array(Image.open(path).convert("RGB"))
    assert pixels.shape == (-(-height // scale), -(-width // scale), 3)
    assert hash_of_pixels(pixels) == record["pixels"]
    if record.get("method") == "bicubic":
        turned = enlarge_rows(pixels / 255, scale).transpose(1, 0, 2)
        x = enlarge_rows(turned, scale).transpose(1, 0, 2)
    else:
        rows, columns = record.get("border_rows", 0), record.get("border_columns", 0)
        mode = {"zero": "constant", "mirror": "symmetric", "edge": "edge"}[record.get("border", "zero")]
        bordered = np.pad(pixels, ((rows, rows), (columns, columns), (0, 0)), mode)  # type: ignore[call-overload]
        y = torch.from_numpy(bordered).permute(2, 0, 1)[None] / 255
        z = torch.zeros(1, 3 * scale**2 - 3, *y.shape[2:])
        with torch.inference_mode():
            x = weights.backwards(torch.cat([y, z], 1))[0].permute(1, 2, 0).numpy()
        x = x[rows * scale :, columns * scale :]
    x = x[:height, :width]
    if record["mode"] == "L":
        x = x.mean(2, keepdims=True).repeat(3, 2)
    restored = np.clip(np.round(x * 255), 0, 255)
    alpha = None
    for kind, data in chunks:
        if kind == b"irNa":
            steps = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, width)
            alpha = np.cumsum(steps, axis=0, dtype=np.uint8)
    return record, restored, alpha


def read_mark(pixels: np.ndarray) -> dict[str, int | str]:
    """The mark of an opaque picture."""
    height, width, _ = pixels.shape
    n = height * width
    bits = [int(pixels.reshape(n, 3)[(2 * k + 1) * n // 128, 1] & 1) for k in range(64)]

    def number(start: int, count: int) -> int:
        return int("".join(map(str, bits[start : start + count])), 2)

    assert number(32, 32) == zlib.crc32(struct.pack(">III", number(0, 32), height, width))
    scale = 2 ** number(4, 2)
    return {
        "version": number(0, 3),
        "grey": number(3, 1),
        "scale": scale,
        "height": scale * height - number(6, 3),
        "width": scale * width - number(9, 3),
        "weights": f"{number(12, 20):05x}",
    }


# Held against irn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "size", "mode", "border", "method"),
    [
        (4, (70, 94), "RGB", "auto", "network"),
        (2, (67, 91), "RGB", "zero", "network"),
        (4, (70, 94), "L", "zero", "network"),
        (4, (30, 41), "RGB", "mirror", "network"),
        (2, (70, 9), "RGB", "edge", "network"),
        (4, (13, 30), "RGB", "auto", "bicubic"),
    ],
)
def test_it_restores_what_irn_makes_small(
    tmp_path: Path,
    tiny_model: Callable[..., IRN],
    scale: int,
    size: tuple[int, int],
    mode: str,
    border: Any,
    method: str,
) -> None:
    save_model(tmp_path / "weights.safetensors", tiny_model(scale))
    pixels = photo_like(*size)
    if mode == "L":
        pixels = pixels[..., :1].repeat(3, 2)
    alpha = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    scaler = Rescaler(load_model(tmp_path / "weights.safetensors"), "cpu", "fp32")
    write(tmp_path / "small.png", scaler.downscale(Picture(pixels, alpha, mode=mode), border=border))
    record, restored, transparency = restore(tmp_path / "small.png", Weights.load(tmp_path / "weights.safetensors"))
    assert (record.get("method", "network"), record["mode"]) == (method, mode)
    assert (record.get("border_columns", 0) > 0) == (border in ("mirror", "edge"))
    ours = scaler.upscale(read(tmp_path / "small.png"), temperature=0.0)
    difference = np.abs(restored - ours.pixels)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01  # where rounding was a toss-up
    assert transparency is not None
    assert np.array_equal(transparency, alpha)


def test_it_reads_the_mark(tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    from irn_cli import mark

    scaler = Rescaler(tiny_model(4), "cpu", "fp32")
    small = Picture(photo_like(512, 513), record=scaler.record(photo_like(512, 513), (2047, 2050), "RGB"))
    write(tmp_path / "small.png", mark.put(small))
    found = read_mark(np.array(Image.open(tmp_path / "small.png")))
    expected = {"version": 1, "grey": 0, "scale": 4, "height": 2047, "width": 2050, "weights": scaler.hash[:5]}
    assert found == expected


def test_it_reads_a_kept_original(tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    original = photo_like(70, 94)
    small = Rescaler(tiny_model(4), "cpu", "fp32").downscale(Picture(original), keep_latent=True)
    write(tmp_path / "photo_down4.png", small)
    path = tmp_path / "photo_down4.latent.safetensors"
    with safe_open(path, framework="np") as file:
        header = file.metadata()
    assert header["format"] == "irn-latent-2"
    assert header["pixels"] == hash_of_pixels(np.array(Image.open(tmp_path / "photo_down4.png")))
    assert header["original"] == hash_of_pixels(original)
    (tmp_path / "original.webp").write_bytes(load_file(path)["picture"].tobytes())
    assert np.array_equal(np.array(Image.open(tmp_path / "original.webp")), original)
