"""The engine gives what the network's own methods give, whatever the size, the tiles, the threads and the memory."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from irn_cli import engine
from irn_cli.engine import Convolution, Engine, Tile, plan_memory
from irn_cli.errors import DeviceError
from irn_cli.metrics import crop_border, luma, psnr
from irn_cli.model import IRN, quantise
from irn_cli.weights import load_model
from tests.helpers import SHARED, needs_shared

CPU = torch.device("cpu")
PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def photo(height: int, width: int, name: str = "coffee.png") -> Tensor:
    """A photograph, (H, W, 3) float32 in [0, 1]; where it is too small, it goes on mirrored."""
    with Image.open(PHOTOS / name) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, columns = height - pixels.shape[0], width - pixels.shape[1]
    pixels = np.pad(pixels, ((0, max(rows, 0)), (0, max(columns, 0)), (0, 0)), "symmetric")[:height, :width]
    return torch.from_numpy(pixels.astype(np.float32) / 255)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's own threads wait for each other in a loop: where the machine is busy, that takes minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain_downscale(model: IRN, x: Tensor) -> Tensor:
    """What the network's own method gives, in the engine's layout: (h, w, 3 s^2)."""
    with one_thread(), torch.inference_mode():
        return torch.cat(model.downscale(x.permute(2, 0, 1)[None]), 1)[0].permute(1, 2, 0).contiguous()


def plain_upscale(model: IRN, u: Tensor) -> Tensor:
    with one_thread(), torch.inference_mode():
        y, z = u.permute(2, 0, 1)[None].split([3, u.shape[2] - 3], 1)
        return model.upscale(y, z)[0].permute(1, 2, 0)


def received(u: Tensor, temperature: float) -> Tensor:
    """What there is to make a picture large again from: y in 8 bits, and a z drawn at random."""
    z = temperature * torch.randn(u[..., 3:].shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([quantise(u[..., :3]), z], 2)


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-5, rounding: float = 0) -> None:
    """Where a picture leaves [0, 1], as a drawn z makes one that is a pixel wide (to 33), rounding grows with it.

    It may be twice the plain network's, which trained weights make more or less of.
    """
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    error = (found - expected).abs()
    row, column = divmod(int(error.amax(2).argmax()), error.shape[1])
    assert error.max() <= max(tolerance * max(1, expected.abs().max()), 2 * rounding), (
        f"off by {error.max():.1e} at row {row}, column {column}; mean {error.mean():.1e}"
    )


def check(runner: Engine, model: IRN, height: int, width: int) -> None:
    x = photo(height, width)
    u = plain_downscale(model, x)
    tiny = model.name.startswith("tiny")
    # An untrained network's z is small, and at temperature 1 its pictures would leave [0, 1] by far.
    drawn = received(u, temperature=0.05 if tiny else 1)
    if tiny:
        assert_same(runner.downscale(x), u)
        expected = plain_upscale(model, drawn)  # before the engine, which works in its input's memory
        assert_same(runner.upscale(drawn), expected)
        return
    exact = deepcopy(model).double()
    alike = deepcopy(model).to(memory_format=torch.channels_last)  # rounds as the engine does
    for run, plain, given in ((runner.downscale, plain_downscale, x), (runner.upscale, plain_upscale, drawn)):
        expected = plain(exact, given.double()).float()
        rounding = float((plain(alike, given) - expected).abs().max())
        assert_same(run(given), expected, rounding=rounding)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_odd_tiny_and_thin_sizes(tiny_model: Callable[..., IRN], scale: int) -> None:
    model = tiny_model(scale)
    runner = Engine(model, CPU, "fp32")
    for height in (1, 2, 5, 11, 37):
        for width in (1, 3, 10, 66):
            check(runner, model, height * scale, width * scale)


@pytest.mark.parametrize("name", ["irn-x2", "irn-x4"])
@pytest.mark.parametrize(("height", "width"), [(1, 131), (131, 1), (47, 53), (12, 201)])
def test_shipped_weights_at_many_sizes(name: str, height: int, width: int) -> None:
    model = load_model(name)
    check(Engine(model, CPU, "fp32"), model, height * model.config.scale, width * model.config.scale)


@pytest.mark.parametrize(("height", "width"), [(1060, 52), (52, 1204)])
def test_no_seams_in_pictures_larger_than_many_tiles(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("irn-x4")
    runner = Engine(model, CPU, "fp32")
    monkeypatch.setattr(runner, "_columns", 64)
    monkeypatch.setattr(runner, "_most", 64 * 19)
    check(runner, model, height, width)


@pytest.mark.parametrize("tile", [(1, 1), (1, 64), (64, 1), (2, 3), (4, 5), (6, 11), (16, 16), (33, 7)])
@pytest.mark.parametrize("at_once", [11, 12, 16, 100])
def test_every_tile_shape(
    tiny_model: Callable[..., IRN], tile: tuple[int, int], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiles(self: Engine, height: int, width: int, threads: int) -> list[Tile]:
        return Tile(0, height, 0, width).grid(-(-height // tile[0]), -(-width // tile[1]))

    monkeypatch.setattr(Engine, "_tiles", tiles)
    monkeypatch.setattr(engine, "_FEWEST_ROWS", at_once)
    model = tiny_model(2)
    runner = Engine(model, CPU, "fp32")
    monkeypatch.setattr(runner, "_most", 1)
    check(runner, model, 42, 38)


def test_number_of_threads_changes_nothing(tiny_model: Callable[..., IRN]) -> None:
    model = tiny_model(4)
    runner = Engine(model, CPU, "fp32")
    x = photo(400, 264)
    expected = plain_downscale(model, x)
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        assert_same(runner.downscale(x.clone()), expected)
        assert torch.get_num_threads() == threads
        seen: list[int] = []
        later = threading.Thread(target=lambda seen=seen: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [threads], "threads started afterwards must get what the caller had set"


def test_input_is_consumed_and_result_takes_its_memory(tiny_model: Callable[..., IRN]) -> None:
    runner = Engine(tiny_model(4), CPU, "fp32")
    x = photo(64, 64)
    address = x.data_ptr()
    u = runner.downscale(x)
    assert u.data_ptr() == address
    assert runner.upscale(u).data_ptr() == address


def test_round_trip_in_float32(tiny_model: Callable[..., IRN]) -> None:
    runner = Engine(tiny_model(4), CPU, "fp32")
    x = photo(120, 196)
    assert_same(runner.upscale(runner.downscale(x.clone())), x)


def test_model_stays_as_it_is(tiny_model: Callable[..., IRN]) -> None:
    model = tiny_model(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Engine(model, CPU, "bf16").downscale(photo(32, 32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_wrong_tensors_are_refused(tiny_model: Callable[..., IRN]) -> None:
    runner = Engine(tiny_model(4), CPU, "fp32")
    for x in (torch.zeros(8, 10, 3), torch.zeros(8, 8, 4), torch.zeros(3, 8, 8), torch.zeros(0, 8, 3)):
        with pytest.raises(ValueError, match="expected"):
            runner.downscale(x)
    for x in (torch.zeros(8, 8, 3, dtype=torch.float64), torch.zeros(8, 3, 8).transpose(1, 2)):
        with pytest.raises(ValueError, match="expected a float32 tensor on the CPU or"):
            runner.downscale(x)
    with pytest.raises(ValueError, match=r"expected \(h, w, 48\)"):
        runner.upscale(torch.zeros(8, 8, 12))


def test_progress_rises_from_the_calling_thread_to_one(tiny_model: Callable[..., IRN]) -> None:
    calls: list[float] = []

    def progress(part: float) -> None:
        assert threading.current_thread() is threading.main_thread()
        calls.append(part)

    runner = Engine(tiny_model(4), CPU, "fp32")
    u = runner.downscale(photo(256, 256), progress)
    assert calls == sorted(calls)
    assert calls[0] > 0
    assert calls[-1] == pytest.approx(1)
    calls.clear()
    runner.upscale(u, progress)
    assert calls == sorted(calls)
    assert calls[-1] == pytest.approx(1)


def test_interrupt_stops_within_two_seconds() -> None:
    """An interrupt reaches the calling thread; here it comes from the progress callback, as at any other moment."""
    moment = 0.0

    def interrupt(_part: float) -> None:
        nonlocal moment
        moment = time.monotonic()
        raise KeyboardInterrupt

    runner = Engine(load_model("irn-x4"), CPU, "fp32")
    with pytest.raises(KeyboardInterrupt):
        runner.downscale(photo(1024, 1024), interrupt)
    assert time.monotonic() - moment < 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("irn-engine")]


def test_memory_limit_makes_tiles_small_and_then_is_an_error(tiny_model: Callable[..., IRN]) -> None:
    model = tiny_model(4, growth=32)
    x = photo(128, 1600)
    expected = plain_downscale(model, x)
    with pytest.raises(DeviceError, match=r"needs at least (\d+) MB, but only 1 MB are allowed") as caught:
        Engine(model, CPU, "fp32", memory=10**6).downscale(x)
    least = int(re.findall(r"at least (\d+)", str(caught.value))[0])
    runner = Engine(model, CPU, "fp32", memory=(least + 1) * 10**6)
    assert_same(runner.downscale(x), expected)
    assert len(runner._tiles(32, 400, 1)) > 2 * len(Engine(model, CPU, "fp32")._tiles(32, 400, 1))


def test_a_gpus_memory_is_shared_out_between_map_and_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (900, 2000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 200)
    gpu = torch.device("cuda")  # with 1000 bytes that are free, or torch's own cache: a tenth is left alone
    assert plan_memory(gpu, None, 450, each=10, least=2) == (True, 45)
    assert plan_memory(gpu, None, 451, each=10, least=2) == (False, 90), "a map of more than half stays on the CPU"
    assert plan_memory(gpu, 600, 300, each=10, least=2) == (True, 30)
    assert plan_memory(gpu, 5000, 400, each=10, least=2) == (True, 50), "more than there is cannot be allowed"
    with pytest.raises(DeviceError, match="needs at least"):
        plan_memory(gpu, 600, 301, each=10, least=61)


def test_a_limit_that_is_just_enough_for_whole_tiles_is_kept(
    tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, a tile takes up to half as many rows more rather than leave some for themselves."""
    model = tiny_model(2)
    torch.set_num_threads(1)
    x = photo(140, 460)
    most, convolve = 0, Convolution.__call__

    def watched(self: Convolution, rows: Tensor, padding: int) -> Tensor:
        nonlocal most
        most = max(most, rows.shape[2] * rows.shape[3])
        return convolve(self, rows, padding)

    monkeypatch.setattr(Convolution, "__call__", watched)
    Engine(model, CPU, "fp32").downscale(x.clone())
    assert most > 1.2 * engine._CPU_POSITIONS
    most = 0
    each = max(half.bytes_per_position for half in Engine(model, CPU, "fp32")._halves)
    Engine(model, CPU, "fp32", memory=x.nbytes + each * (engine._CPU_POSITIONS + 100)).downscale(x)
    assert 0 < most <= engine._CPU_POSITIONS


def test_the_tiles_cover_the_map_however_little_a_tile_may_hold(tiny_model: Callable[..., IRN]) -> None:
    runner = Engine(tiny_model(2), CPU, "fp32")
    for positions in (1, 100, 500, 1710, 12_000):  # less than planned for, where the device gave out
        runner._positions = positions
        tiles = runner._tiles(40, 300, 1)
        assert sum((tile.bottom - tile.top) * (tile.right - tile.left) for tile in tiles) == 40 * 300


def test_out_of_memory_on_the_device_retries_with_less(
    tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is played by the CPU: its convolutions fail above a number of positions."""
    model = tiny_model(2)
    x = photo(190, 130)
    expected = plain_downscale(model, x)
    refused: list[int] = []
    convolve = Convolution.__call__

    def meagre(self: Convolution, rows: Tensor, padding: int) -> Tensor:
        if self.weight.shape[1] > 3 and rows.shape[2] > most:
            refused.append(rows.shape[2])
            raise torch.OutOfMemoryError("played")
        return convolve(self, rows, padding)

    monkeypatch.setattr(Convolution, "__call__", meagre)
    most = 40
    assert_same(Engine(model, CPU, "fp32").downscale(x), expected)
    assert refused
    most = 5
    with pytest.raises(DeviceError, match="not enough device memory even for the smallest tile"):
        Engine(model, CPU, "fp32").downscale(photo(190, 130))


# Where G and H read x1 as one bfloat16: 0.42 and 0.72.
@pytest.mark.parametrize(("name", "allowed"), [("irn-x2", 0.32), ("irn-x4", 0.62)])
def test_bfloat16_is_near_float32(name: str, allowed: float) -> None:
    model = load_model(name)
    x = photo(96, 288)
    exact = Engine(model, CPU, "fp32").downscale(x.clone())[..., :3]
    found = Engine(model, CPU, "bf16").downscale(x)[..., :3]
    assert not torch.equal(found, exact), "these convolutions were not in bfloat16"
    levels = (found - exact).abs().flatten() * 255
    assert levels.quantile(0.999) < allowed


@pytest.mark.parametrize("width", [32, 33])
@pytest.mark.parametrize("outputs", [3, 32])
def test_a_convolution_in_bfloat16_is_the_same_where_the_processor_has_no_products_of_it(
    outputs: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    weight, bias, rows = torch.randn(outputs, 48, 3, 3), torch.randn(outputs), torch.randn(1, 48, 20, width)
    found = []
    for native in (True, False):
        monkeypatch.setattr("irn_cli.device.multiplies_bfloat16", lambda native=native: native)
        found.append(Convolution(weight.bfloat16(), bias.bfloat16())(rows, 1))
        assert found[-1].dtype == torch.bfloat16
    exact = torch.nn.functional.conv2d(
        rows.bfloat16().double(), weight.bfloat16().double(), bias.bfloat16().double(), padding=1
    )
    for one in found:
        assert (one - exact).norm() < 0.003 * exact.norm()  # half a step of bfloat16 is 0.002 to 0.004 of a number


@needs_shared
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "allowed"), [("irn-x4", 0.02), ("irn-x2", 0.05)])
def test_bfloat16_costs_next_to_nothing_on_set14(name: str, allowed: float) -> None:
    model = load_model(name)
    scale = model.config.scale
    one, two, worst = 0, 0, 0.0
    scores: dict[str, list[float]] = {"fp32": [], "bf16": []}
    samples = 0
    for path in sorted((SHARED / "benchmarks" / "Set14").iterdir()):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        pixels = pixels[: pixels.shape[0] // scale * scale, : pixels.shape[1] // scale * scale]
        small = {}
        for precision, found in scores.items():
            runner = Engine(model, CPU, precision)
            u = runner.downscale(torch.from_numpy(pixels.astype(np.float32) / 255))
            small[precision] = quantise(u[..., :3]) * 255
            back = (quantise(runner.upscale(received(u, temperature=1))) * 255).numpy()
            found.append(psnr(crop_border(luma(pixels), scale), crop_border(luma(back), scale)))
        levels = (small["bf16"] - small["fp32"]).abs()
        samples += levels.numel()
        one += int((levels > 0.5).sum())
        two += int((levels > 1.5).sum())
        worst = max(worst, float(levels.max()))
    gap = np.array(scores["fp32"]) - np.array(scores["bf16"])
    told = f"{1 - one / samples:.2%} identical, {two} of {samples} beyond one level, worst {worst:.0f}; PSNR {gap}"
    assert worst < 2.5, told
    assert two <= 1e-4 * samples, told
    assert abs(gap.mean()) <= allowed, told
    print(told)
