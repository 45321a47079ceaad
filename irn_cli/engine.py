"""The network on pictures of any size, exact and in bounded memory; `model.py` says what is computed, this says how.

One float32 map holds the whole picture, channels last: at every stage as many numbers as the picture has. The Haar
transform rewrites it in place, since two rows of 2x2 blocks occupy exactly the memory of one row of their bands. A
coupling block is two passes over the map, a tile at a time::

    downscale   x1 += F(x2), then x2 = x2 exp(s(x1)) + G(x1)
    upscale     x2 = (x2 - G(x1)) exp(-s(x1)), then x1 -= F(x2)

A pass never writes the channels it reads, so tiles need no order and threads no lock. The five convolutions of a dense
block reach 5 pixels: that much of its neighbours is read with a tile, and zeros only where the picture ends. Down a
tile, the rows roll: each convolution gets a few more rows of its input at a time, and keeps the last two for the next.
"""

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from irn_cli.device import Precision, ieee_float32, multiplied_as
from irn_cli.errors import DeviceError
from irn_cli.model import IRN, SLOPE, DenseBlock, InvBlock
from irn_cli.threads import TorchPool

REACH = 5  # pixels that a dense block sees to each side: five 3x3 convolutions
ALIGNMENT = 16  # columns: at some odd widths (389) oneDNN's convolutions take twice the time
_CPU_COLUMNS = 240  # and 48 rows at a time: as measured (benchmarks/README.md)
_CPU_POSITIONS = _CPU_COLUMNS * (48 + 3)  # two rows are kept, and one may come from padding; half as many more at most
_ONE_TILE = 1 << 12  # positions of a map so small that threads would mostly wait for Python's lock
_CUDA_POSITIONS = 1 << 22  # fed at a time, up to half as many more: cuDNN counts a tensor's elements in 31 bits
_FEWEST_ROWS = 16  # fed at a time; after the first 2 * REACH of them, every convolution of a dense block has work
_FEWEST_COLUMNS = 64  # a narrower tile would be mostly its neighbours' pixels

_HAAR_NUMBERS = 1 << 18  # of the map in a step of the Haar transform: a megabyte
_CUDA_HAAR_NUMBERS = 1 << 24  # a GPU would spend its time on calls

Progress = Callable[[float], None]
PartT = TypeVar("PartT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Tile:
    """A rectangle of the map: rows `top` to `bottom`, columns `left` to `right`, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def grid(self, rows: int, columns: int) -> list["Tile"]:
        """Cut into `rows` x `columns` tiles of nearly equal sizes."""
        tops = [self.top + (self.bottom - self.top) * i // rows for i in range(rows + 1)]
        lefts = [self.left + (self.right - self.left) * i // columns for i in range(columns + 1)]
        return [Tile(top, bottom, left, right) for top, bottom in pairwise(tops) for left, right in pairwise(lefts)]

    def columns_read(self, width: int) -> tuple[int, int]:
        """The columns, of a map's `width`, that a dense block reads for it: REACH more, and a multiple of ALIGNMENT."""
        left, right = max(self.left - REACH, 0), min(self.right + REACH, width)
        right = min(right + -(right - left) % ALIGNMENT, width)
        return max(left - -(right - left) % ALIGNMENT, 0), right


class Engine:
    """Runs a network over pictures of any size; the results are those of the network's own, whole-picture methods.

    float32 agrees with `IRN` to rounding, whatever the tiles and the number of threads. bfloat16 is the convolutions'
    only; the couplings and the map are float32 always. On the CPU the tiles are shared by as many threads as torch may
    use in the calling thread (`torch.get_num_threads`).

    Args:
        model: the network; its weights are copied.
        device: where the convolutions run.
        precision: `fp32` or `bf16`, of the convolutions.
        memory: the most bytes that the map and the tiles may take together on the device; None is what there is.
    """

    def __init__(self, model: IRN, device: torch.device, precision: Precision, memory: int | None = None) -> None:
        self.scale = model.config.scale
        self._device = device
        self._memory = memory
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        blocks = [step for step in model.operations if isinstance(step, InvBlock)]
        self._halves = [
            half for block in blocks for half in (_AddF(block, device, dtype), _ScaleAddG(block, device, dtype))
        ]
        # What a tile may hold at once: columns, and positions of the map.
        self._columns, self._most = (_CPU_COLUMNS, _CPU_POSITIONS) if device.type == "cpu" else (_CUDA_POSITIONS,) * 2
        self._positions = self._most
        self._roomy = True  # whether there is memory for half as many more

    def downscale(self, x: Tensor, progress: Progress | None = None) -> Tensor:
        """Make a picture small.

        Args:
            x: (H, W, 3) float32, contiguous, RGB, nominally in [0, 1]; H and W multiples of the scale s; on the CPU or,
                as from `new_map`, on the engine's device. It is consumed: its memory becomes the result's.
            progress: called from this thread now and then with the part done, 0 to 1.

        Returns:
            (H/s, W/s, 3 s^2) float32; the first three channels are y, the rest is z, as `IRN.downscale`'s.

        Raises:
            ValueError: `x` is of another shape or kind.
            DeviceError: the memory allowed, or the device's, is not enough even for the smallest tile.
        """
        scale = self.scale
        if x.dim() != 3 or x.shape[2] != 3 or x.shape[0] % scale or x.shape[1] % scale:
            raise ValueError(f"expected (H, W, 3) with H and W multiples of {scale}, not {tuple(x.shape)}")
        return self._run(x, upscaling=False, progress=progress)

    def upscale(self, u: Tensor, progress: Progress | None = None) -> Tensor:
        """Make it large again: the inverse of `downscale`.

        Args:
            u: (h, w, 3 s^2) float32, contiguous: y and z, as `downscale` returns them. It is consumed.
            progress: called from this thread now and then with the part done, 0 to 1.

        Returns:
            (s h, s w, 3) float32, RGB, near [0, 1] but not clamped.

        Raises:
            ValueError: `u` is of another shape or kind.
            DeviceError: the memory allowed, or the device's, is not enough even for the smallest tile.
        """
        channels = 3 * self.scale**2
        if u.dim() != 3 or u.shape[2] != channels:
            raise ValueError(f"expected (h, w, {channels}), not {tuple(u.shape)}")
        return self._run(u, upscaling=True, progress=progress)

    def new_map(self, height: int, width: int, channels: int) -> Tensor:
        """Memory for a picture's float32 map (height, width, channels): on the device where it fits, else on the CPU.

        Raises:
            DeviceError: the memory allowed, or the device's, is not enough even for the smallest tile.
        """
        fits = self._plan(4 * height * width * channels)
        return torch.empty(height, width, channels, device=self._device if fits else "cpu")

    def _run(self, given: Tensor, upscaling: bool, progress: Progress | None) -> Tensor:
        here = given.device.type in ("cpu", self._device.type)
        if given.dtype != torch.float32 or not here or not given.is_contiguous() or not given.numel():
            raise ValueError("expected a float32 tensor on the CPU or the engine's device, contiguous and not empty")
        given = given.detach()
        threads = self._threads()
        done, total = 0, sum(half.cost * (given.numel() // half.channels) for half in self._halves)
        u = given.to(self._device) if self._plan(given.nbytes) else given
        with Workers(threads) as workers, ieee_float32():
            for half in reversed(self._halves) if upscaling else self._halves:
                if u.shape[2] != half.channels:
                    u = haar(u, upscaling, workers)
                work = partial(self._apply, half, u, upscaling, workers.stopped)
                for tile in workers.run(work, self._tiles(u.shape[0], u.shape[1], threads)):
                    done += half.cost * (tile.bottom - tile.top) * (tile.right - tile.left)
                    if progress:
                        progress(done / total)
            if upscaling:
                u = haar(u, upscaling, workers)
        return u if u.data_ptr() == given.data_ptr() else given.view(u.shape).copy_(u)

    def _threads(self) -> int:
        """How many threads share the tiles: on the CPU as many as torch may use here, with a GPU none."""
        return torch.get_num_threads() if self._device.type == "cpu" else 0

    def _plan(self, nbytes: int) -> bool:
        """Decide, from the memory there is, whether a map fits the device and how many positions a tile may hold."""
        each = max(half.bytes_per_position for half in self._halves)
        least = (_FEWEST_ROWS + 3) * (_FEWEST_COLUMNS + 2 * REACH + ALIGNMENT)
        on_device, positions = plan_memory(self._device, self._memory, nbytes, each, least)
        self._positions = min(self._most, positions)
        self._roomy = positions >= 1.5 * self._most
        return on_device

    def _tiles(self, height: int, width: int, threads: int) -> list[Tile]:
        """Cut the map into strips narrow enough for what a tile may hold, and bands that busy all threads alike."""
        widest = min(self._columns, self._positions // (_FEWEST_ROWS + 3) - ALIGNMENT) - 2 * REACH
        columns = math.ceil(width / max(widest, _FEWEST_COLUMNS))
        if threads <= 1 or height * width <= _ONE_TILE:
            return Tile(0, height, 0, width).grid(1, columns)
        tiles = threads * min(4, math.ceil(height * width / threads / 2**16))  # the fewer, the less is computed twice
        alike = threads // math.gcd(threads, columns)
        rows = math.ceil(tiles / columns / alike) * alike
        return Tile(0, height, 0, width).grid(min(rows, math.ceil(height / _FEWEST_ROWS)), columns)

    @torch.inference_mode()
    def _apply(self, half: "_Half", u: Tensor, upscaling: bool, stopped: threading.Event, tile: Tile) -> Tile:
        """Run half a coupling block over a tile; where the device's memory gives out, go on with fewer rows at once."""
        height, width, _ = u.shape
        bottom = min(tile.bottom + REACH, height)
        left, right = tile.columns_read(width)
        row = tile.top
        while row < tile.bottom:
            top = max(row - REACH, 0)
            source = u[top:bottom, left:right, half.reads]
            at_once = most = max(self._positions // (right - left) - 3, _FEWEST_ROWS)
            if self._roomy and self._positions == self._most:  # equal parts: a rest would take as many calls
                at_once = math.ceil((bottom - top) / max(round((bottom - top) / most), 1))
            begin = 0 if top == 0 else row
            try:
                for outputs in half.dense.roll(source, at_once, at_top=top == 0, at_bottom=bottom == height):
                    if stopped.is_set():
                        return tile
                    end = begin + len(outputs[0])
                    rows = slice(max(row, begin), min(end, tile.bottom))
                    if rows.start < rows.stop:
                        target = u[rows, tile.left : tile.right, half.writes]
                        cut = slice(rows.start - begin, rows.stop - begin), slice(tile.left - left, tile.right - left)
                        moved = target.to(self._device)
                        half.couple(moved, [output[cut] for output in outputs], upscaling)
                        if moved is not target:
                            target.copy_(moved)
                        row = rows.stop
                    begin = end
            except torch.OutOfMemoryError as error:
                if most == _FEWEST_ROWS:
                    raise DeviceError("not enough device memory even for the smallest tile") from error
                self._positions //= 2
                torch.cuda.empty_cache()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # so that progress is true and an interrupt soon over
        return tile


def plan_memory(device: torch.device, memory: int | None, nbytes: int, each: int, least: int) -> tuple[bool, int]:
    """Share out a device's memory between maps and tiles.

    Args:
        device: where the tiles are computed.
        memory: the most bytes allowed; None is what there is.
        nbytes: of the maps.
        each: bytes that a position of a tile takes.
        least: positions of the smallest tile.

    Returns:
        Whether the maps fit the device together with the tiles, and the most positions that a tile may hold.

    Raises:
        DeviceError: there is not enough memory even for the smallest tile.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = int(0.9 * (torch.cuda.mem_get_info(device)[0] + cached))
        memory = free if memory is None else min(memory, free)
    if memory is None:
        return True, sys.maxsize
    on_device = device.type == "cpu" or nbytes <= memory / 2
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    left = (memory - nbytes if on_device else memory) // threads
    if left < least * each:
        needed = memory + (least * each - left) * threads
        raise DeviceError(
            f"this picture needs at least {needed / 1e6:.0f} MB, but only {memory / 1e6:.0f} MB are allowed"
        )
    return on_device, left // each


class _Half:
    """Half a coupling block: the dense blocks that read some of the channels, and what becomes of the others."""

    reads: slice
    writes: slice

    def __init__(
        self, blocks: Sequence[DenseBlock], device: torch.device, dtype: torch.dtype, last: torch.dtype
    ) -> None:
        self.dense = _Dense(blocks, device, dtype, last)
        weights = [weight for block in blocks for weight in block.parameters()]  # from conv1's to conv5's bias
        self.channels = weights[0].shape[1] + len(weights[-1])  # of the map: what is read, and what is written
        self.cost = sum(weight.numel() for weight in weights)  # multiplications per position
        widest = max(weight.shape[1] for weight in weights if weight.dim() == 4)
        # Two windows, their convolutions' results, and as much again for the convolution's own; the couplings' float32.
        self.bytes_per_position = 4 * widest * multiplied_as(dtype, device).itemsize + 16 * self.channels

    def couple(self, target: Tensor, outputs: list[Tensor], upscaling: bool) -> None:
        raise NotImplementedError


class _AddF(_Half):
    """x1 += F(x2), or its inverse."""

    reads, writes = slice(3, None), slice(0, 3)

    def __init__(self, block: InvBlock, device: torch.device, dtype: torch.dtype) -> None:
        # F's result is added to the picture, where bfloat16 steps half a level of 8 bits.
        super().__init__([block.F], device, dtype, last=torch.float32)

    def couple(self, target: Tensor, outputs: list[Tensor], upscaling: bool) -> None:
        (F,) = outputs
        target.sub_(F) if upscaling else target.add_(F)


class _ScaleAddG(_Half):
    """x2 = x2 exp(s(x1)) + G(x1), or its inverse."""

    reads, writes = slice(0, 3), slice(3, None)

    def __init__(self, block: InvBlock, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__([block.G, block.H], device, dtype, last=dtype)
        self._clamp = block.clamp

    def couple(self, target: Tensor, outputs: list[Tensor], upscaling: bool) -> None:
        G, H = outputs
        scale = H.div_(2).tanh_().mul_(-self._clamp if upscaling else self._clamp).exp_()
        target.sub_(G).mul_(scale) if upscaling else target.mul_(scale).add_(G)


def read_twice(channels: int, dtype: torch.dtype, last: torch.dtype) -> int:
    """How many channels of its input a dense block reads as the sum of two bfloat16: all, or none.

    G and H read x1, a picture, of whose 8-bit levels one bfloat16 would step whole ones. F reads x2 so where its result
    is wanted in float32.

    Args:
        channels: of the input.
        dtype: of the block's arithmetic.
        last: of its last convolution's.
    """
    return channels if dtype == torch.bfloat16 and (channels == 3 or last != dtype) else 0


class _Dense:
    """A dense block, or two that read the same input, run down a tile a few rows at a time.

    The input of the k-th convolution is a window that rolls: the two rows that it kept, then those that have just come.
    The result goes into the next window, next to the same rows of this one::

        window 1   x                      -> conv1 -> f1
        window 2   x, f1                  -> conv2 -> f2
        ...
        window 5   x, f1, f2, f3, f4      -> conv5 -> result

    In float32 on the CPU, copying the widest window costs too much: there, window 5 is f4 and what conv5 makes of
    window 4.

    Where the picture begins or ends, so does every window, and zeros stand for what is beyond. Elsewhere the tile's
    input begins and ends REACH rows early and late, and each convolution gives one row less at that end.
    """

    def __init__(
        self, blocks: Sequence[DenseBlock], device: torch.device, dtype: torch.dtype, last: torch.dtype
    ) -> None:
        firsts, *rest = zip(*(block.children() for block in blocks), strict=True)
        self._twice = read_twice(firsts[0].weight.shape[1], dtype, last)
        make = partial(Convolution.of, twice=self._twice, device=device)
        self._first = make(firsts, dtype=dtype)  # they read the same
        self._blocks = []  # for each, of each window what convolves it
        for *convs, conv5 in zip(*rest, strict=True):
            layers = [[make([conv], dtype=dtype)] for conv in convs]
            final, growth = make([conv5], dtype=last), convs[-1].out_channels
            if device.type == "cpu" and dtype == torch.float32 and conv5.out_channels < growth:
                so_far, final = final.split(growth)
                layers[-1].append(so_far)
            self._blocks.append([*layers, [final]])

    def roll(self, source: Tensor, at_once: int, at_top: bool, at_bottom: bool) -> Iterator[list[Tensor]]:
        """Compute the blocks' results from the top down.

        Args:
            source: (n, W, C) the input, of any strides; n rows are the tile's and up to REACH more above and below.
            at_once: the rows to read at a time, more than 2 * REACH.
            at_top: whether the picture begins with the first row.
            at_bottom: whether the picture ends with the last row.

        Yields:
            For each block the next rows of its result, (rows, W, C') float32. As `source` knows nothing beyond its
            columns, the outermost REACH of them are right only where the picture ends there.
        """
        x = source[None].permute(0, 3, 1, 2)  # (1, C, n, W), channels last in memory, as all that follows
        first = _Window(self._first)
        windows = [[_Window(*convs) for convs in layers] for layers in self._blocks]
        for start in range(0, len(source), at_once):
            last = start + at_once >= len(source)
            step = _Step(at_top and start == 0, at_bottom and last, last)
            f1, beside_f1 = first.roll(self._parts(x[:, :, start : start + at_once]), step)
            functional.leaky_relu_(f1, SLOPE)
            results = []
            for block_windows, f in zip(windows, f1.chunk(len(windows), 1), strict=True):
                beside = beside_f1
                for window in block_windows:
                    f, beside = window.roll([beside, f], step)
                    if window is not block_windows[-1]:
                        functional.leaky_relu_(f, SLOPE)
                results.append(f[0].permute(1, 2, 0).float())
            yield results

    def _parts(self, x: Tensor) -> list[Tensor]:
        """Rows of the map as the convolutions read them."""
        weight = self._first.weight
        high = x.to(weight.device, weight.dtype, memory_format=torch.channels_last)
        return [high, (x.to(weight.device) - high).to(weight.dtype)] if self._twice else [high]


class _Step(NamedTuple):
    """Rows that a dense block reads at a time."""

    top: bool  # whether the picture begins with them
    bottom: bool  # whether it ends with them
    last: bool  # whether the tile does


class _Window:
    """The rows that a 3x3 convolution sees at a time: the two that it kept, then those that have just come.

    Args:
        convolve: the convolution; a second one of the same rows gives what the next window holds in their place.
    """

    def __init__(self, *convolve: "Convolution") -> None:
        self._convolve = convolve
        self._kept: Tensor | None = None

    def roll(self, parts: list[Tensor], step: _Step) -> tuple[Tensor, Tensor]:
        """Take in new rows, (1, C1, rows, W), (1, C2, rows, W) ..., and convolve.

        Returns:
            The result, and what the next window holds beside it: the same rows of this one, or the second result.
        """
        if self._kept is None:
            rows = torch.cat(parts, 1)  # (1, C, rows, W)
        else:
            _, channels, kept, width = self._kept.shape
            rows = self._kept.new_empty(1, kept + parts[0].shape[2], width, channels).permute(0, 3, 1, 2)
            rows[:, :, :kept] = self._kept
            torch.cat(parts, 1, out=rows[:, :, kept:])
        if not step.last:
            self._kept = rows[:, :, -2:].clone()
        above_below = step.top or step.bottom
        known = slice(int(not step.top), rows.shape[2] - int(not step.bottom))
        results = [convolve(rows, int(above_below)) for convolve in self._convolve]
        if above_below:
            results = [result[:, :, known] for result in results]
        f, *instead = results
        return f, instead[0] if instead else rows[:, :, known]


class Convolution:
    """A 3x3 convolution; padded with zeros on both sides, and above and below if asked for.

    A processor multiplies 16 numbers at once, and F's last convolution gives 3. There the outputs of four neighbours
    come from one convolution of stride 4: as its 12 channels they lie in memory in the same order as before.

    Args:
        weight: (C', C, 3, 3).
        bias: (C',).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        kind = multiplied_as(weight.dtype, weight.device)
        self._weight, self._bias = self.weight.to(kind), bias.to(kind)
        self._fours = None
        if weight.device.type == "cpu" and 4 * len(weight) <= 16:
            fours = self._weight.new_zeros(4, *weight.shape[:3], 6)
            for pixel in range(4):
                fours[pixel, ..., pixel : pixel + 3] = weight
            self._fours = fours.flatten(0, 1).contiguous(memory_format=torch.channels_last), self._bias.repeat(4)

    @classmethod
    def of(cls, convs: Sequence[nn.Module], twice: int, device: torch.device, dtype: torch.dtype) -> Self:
        """Join those of the same input, whose first `twice` channels come as two parts, to be added."""
        weight, bias = (torch.cat([getattr(conv, name).detach() for conv in convs]) for name in ("weight", "bias"))
        return cls(torch.cat([weight[:, :twice], weight], 1).to(device, dtype), bias.to(device, dtype))

    def split(self, count: int) -> tuple[Self, Self]:
        """In two: one that reads all channels but the last `count`, and one that reads those and adds its result."""
        outputs = len(self.weight)
        passed = torch.zeros_like(self.weight[:, :outputs])
        passed[:, :, 1, 1] = torch.eye(outputs)
        rest = torch.cat([passed, self.weight[:, -count:]], 1)
        return type(self)(self.weight[:, :-count], torch.zeros_like(self._bias)), type(self)(rest, self._bias)

    def __call__(self, rows: Tensor, padding: int) -> Tensor:
        rows = rows.to(self.weight.dtype).to(self._weight.dtype)
        if not self._fours or rows.shape[3] % 4:
            return functional.conv2d(rows, self._weight, self._bias, padding=(padding, 1)).to(self.weight.dtype)
        f = functional.conv2d(rows, *self._fours, stride=(1, 4), padding=(padding, 1))  # (1, 4 C', rows, W / 4)
        f = f.to(self.weight.dtype)
        return f.permute(0, 2, 3, 1).reshape(1, f.shape[2], rows.shape[3], -1).permute(0, 3, 1, 2)


def haar(u: Tensor, upscaling: bool, workers: "Workers") -> Tensor:
    """Transform the map in place, a few rows of 2x2 blocks at a time; `model.Haar` says what is computed."""
    height, width, channels = u.shape
    if upscaling:
        blocks, bands = u.view(height, 2, width, 2, channels // 4), u.view(height, width, 4, channels // 4)
    else:
        blocks, bands = u.view(height // 2, 2, width // 2, 2, channels), u.view(height // 2, width // 2, 4, channels)
    numbers = _HAAR_NUMBERS if u.device.type == "cpu" else _CUDA_HAAR_NUMBERS
    at_once = max(numbers // bands[0].numel(), 1)
    work = partial(_haar_rows, blocks, bands, upscaling)
    for _ in workers.run(work, [slice(start, start + at_once) for start in range(0, len(bands), at_once)]):
        pass
    return blocks.view(2 * height, 2 * width, -1) if upscaling else bands.view(height // 2, width // 2, -1)


@torch.inference_mode()
def _haar_rows(blocks: Tensor, bands: Tensor, upscaling: bool, rows: slice) -> None:
    """Rewrite some rows of `blocks` (h, 2, w, 2, C) as rows of `bands` (h, w, 4, C) in the same memory, or back."""
    if upscaling:
        ll, hl, lh, hh = bands[rows].unbind(2)
        above, below, left, right = ll + lh, ll - lh, hl + hh, hl - hh
        upper = torch.stack([above + left, above - left], 2)
        lower = torch.stack([below + right, below - right], 2)
        blocks[rows] = torch.stack([upper, lower], 1)
    else:
        (a, b), (c, d) = (row.unbind(2) for row in blocks[rows].unbind(1))
        left, right, down, across = a + c, b + d, a - c, b - d
        bands[rows] = torch.stack([left + right, left - right, down + across, down - across], 2).div_(4)


class Workers:
    """Threads that share the tiles of a pass; torch gives each one thread, and keeps the caller's as they are.

    A lone tile is the caller's, with all the threads that torch has there, and so are all tiles on a GPU: other threads
    could not use the cuDNN plans that torch keeps for each thread.
    """

    def __init__(self, count: int) -> None:
        self.stopped = threading.Event()
        self._pool = TorchPool(count, "irn-engine") if count else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def run(self, work: Callable[[PartT], ResultT], parts: Sequence[PartT]) -> Iterator[ResultT]:
        """Do the work on every part, and yield the results in the parts' order; the first error ends it all."""
        if self._pool is None or len(parts) == 1:  # handing a lone one over would take longer than many a small tile
            yield from map(work, parts)
        else:
            yield from self._pool.map(work, parts)
