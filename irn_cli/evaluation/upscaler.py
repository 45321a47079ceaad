"""A super-resolution network from its own weights, by spandrel (extra `irn-cli[spandrel]`).

Unlike irn's engine, which is exact at any size, this one cuts a picture that does not fit the memory into overlapping
tiles, as programs for such networks do: near the seams a network sees less of the picture than it could.
"""

import hashlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from irn_cli.device import ieee_float32, resolve_device
from irn_cli.errors import DeviceError, InputError, UsageError
from irn_cli.hardware import parse_memory, usable_memory
from irn_cli.tensors import lfs_pointer

_OVERLAP = 32  # small pixels that a tile sees beyond its own, to each side
_PROBE = 64  # side of the picture on which a network's need of memory is measured, small pixels
# Convolutions work on copies of their own, which torch does not report: three kinds of network (Compact, ESRGAN, RCAN)
# took 1.1 to 1.8 times what their tensors do.
_COPIES = 2

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SuperResolutionNetwork:
    """A network that makes a small picture `scale` times larger."""

    architecture: str
    scale: int
    parameters: int
    hash: str  # SHA-256 of the file
    run: Callable[[Tensor], Tensor]  # (1, 3, h, w) to (1, 3, s h, s w), RGB in [0, 1]
    device: torch.device
    tile: int | None  # side of a tile with its overlaps, small pixels; None where any picture is run whole

    def __call__(self, pixels: Pixels) -> Pixels:
        """Make a picture large: (h, w, 3) levels to (s h, s w, 3)."""
        height, width = pixels.shape[:2]
        large = np.empty((height * self.scale, width * self.scale, 3), np.uint8)
        step = max(height, width) if self.tile is None else self.tile - 2 * _OVERLAP
        with torch.inference_mode(), ieee_float32():
            for rows, top, bottom in _stretches(height, step):
                for columns, left, right in _stretches(width, step):
                    small = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right]))
                    x = small.to(self.device).movedim(2, 0)[None].float() / 255
                    y = self.run(x)[0, :, self._inside(rows, top), self._inside(columns, left)]
                    levels = (y * 255).round_().clamp_(0, 255).byte().movedim(0, 2)
                    large[self._scaled(rows), self._scaled(columns)] = levels.cpu().numpy()
        return large

    def _scaled(self, part: slice) -> slice:
        return slice(part.start * self.scale, part.stop * self.scale)

    def _inside(self, part: slice, start: int) -> slice:
        return self._scaled(slice(part.start - start, part.stop - start))


def _stretches(length: int, step: int) -> Iterator[tuple[slice, int, int]]:
    """Cut a length into parts; with each come the start and the end of what a network is shown for it."""
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield slice(start, stop), max(start - _OVERLAP, 0), min(stop + _OVERLAP, length)


def load_upscaler(path: Path, device: str = "auto", memory: str | int | None = None) -> SuperResolutionNetwork:
    """Load a network, whose architecture is known by its weights.

    Args:
        path: .pth, .pt, .ckpt or .safetensors. Nothing in it is executed.
        device: as `Rescaler`'s.
        memory: most bytes to use on the device, or a text such as `2GB`; None is half of what there is.

    Raises:
        UsageError: spandrel is not installed, or cannot be loaded; or there is no such file.
        InputError: the file cannot be read, is damaged, or is no network that enlarges RGB pictures.
        DeviceError: no such device, or too little memory for the smallest tile.
    """
    where = resolve_device(device)
    try:
        import spandrel
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"--upscaler needs spandrel and the torchvision that belongs to this torch; "
            f"pip install 'irn-cli[spandrel]' brings both ({error})"
        ) from error
    digest = _file_hash(path)
    try:
        found = spandrel.ModelLoader(where).load_from_file(path)
    except spandrel.UnsupportedModelError as error:
        raise InputError(f"{path} is not a network of any architecture that spandrel knows") from error
    except Exception as error:  # whatever an unpickler, safetensors or an architecture stumbles over
        reason = shorten(str(error) or type(error).__name__, 200)
        raise InputError(f"{path} is damaged, or not a network that spandrel knows ({reason})") from error
    name = found.architecture.name
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.scale == 1:
        raise InputError(f"{path}: expected a network that enlarges pictures, found {name} ({found.purpose})")
    if (found.input_channels, found.output_channels) != (3, 3):
        raise InputError(f"{path}: expected a network of RGB pictures, {name} takes {found.input_channels} channels")
    for tensor, values in found.model.state_dict().items():
        if not torch.isfinite(values).all():
            raise InputError(f"{path}: tensor {tensor} holds NaN or infinity")
    budget = (parse_memory(memory) if isinstance(memory, str) else memory) or _available(where) // 2
    try:
        tile = _tile(found.model, found, where, budget)
    except DeviceError as error:
        raise DeviceError(f"{path}: {error}") from error
    whole = found.tiling is spandrel.ModelTiling.INTERNAL
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    return SuperResolutionNetwork(name, found.scale, parameters, digest, found, where, None if whole else tile)


def _file_hash(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"no weights file {path}")
    try:
        if told := lfs_pointer(path):
            raise InputError(told)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _available(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else usable_memory()


def _tile(model: nn.Module, run: Callable[[Tensor], Tensor], device: torch.device, budget: int) -> int:
    """Side of the largest tile, overlaps included, that fits the memory."""
    fixed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    with torch.inference_mode(), _Peak() as peak:
        run(torch.zeros(1, 3, _PROBE, _PROBE, device=device))
    per_pixel = _COPIES * peak.most / _PROBE**2
    side = int(max(budget - fixed, 0) / per_pixel) ** 0.5
    least = 3 * _OVERLAP
    if side < least:
        need = fixed + per_pixel * least**2
        raise DeviceError(f"the smallest tile needs about {need / 1e6:,.0f} MB; {budget / 1e6:,.0f} MB are allowed")
    return int(side)


class _Peak(TorchDispatchMode):
    """Adds up the tensors that live at the same time: `most` is the largest sum, bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._now = 0
        self._owners: dict[int, int] = {}  # how many tensors share the storage at an address

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, nbytes = storage.data_ptr(), storage.nbytes()
        if not self._owners.get(address):
            self._now += nbytes
            self.most = max(self.most, self._now)
        self._owners[address] = self._owners.get(address, 0) + 1
        weakref.finalize(tensor, self._forget, address, nbytes)

    def _forget(self, address: int, nbytes: int) -> None:
        self._owners[address] -= 1
        if not self._owners[address]:
            self._now -= nbytes
