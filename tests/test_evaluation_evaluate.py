"""The protocol: against the papers' bicubic rows, against the public pieces put together by hand, and its edges."""

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import irn_cli
from irn_cli.artifact import find_artifact
from irn_cli.colour import colour_difference
from irn_cli.errors import DeviceError, UsageError
from irn_cli.evaluation import dataset as module
from irn_cli.evaluation.dataset import DataSet, Original, find_data_set
from irn_cli.evaluation.evaluate import evaluate
from irn_cli.evaluation.methods import Baseline, Network, Small
from irn_cli.evaluation.scores import Failure, Score, flat, summarise
from irn_cli.metrics import METRICS, Metric, crop_border, luma, psnr, ssim
from irn_cli.picture import Picture
from irn_cli.resize import bicubic
from tests.helpers import SHARED, needs_shared

PUBLISHED = {  # bicubic, LR rounded to 8 bits; measured outside this project
    (4, "Set5"): (28.431, 0.8113),
    (4, "Set14"): (25.997, 0.7031),
    (4, "BSD100"): (25.963, 0.6682),
    (2, "Set5"): (33.682, 0.9305),
    (2, "Set14"): (30.236, 0.8692),
    (2, "BSD100"): (29.565, 0.8436),
}


@needs_shared
@pytest.mark.parametrize(
    ("scale", "name"), [pytest.param(*key, marks=[] if key[1] == "Set5" else [pytest.mark.slow]) for key in PUBLISHED]
)
def test_bicubic_is_the_published_row(scale: int, name: str) -> None:
    rows = list(evaluate([Baseline("bicubic", scale)], [find_data_set(SHARED / "benchmarks" / name)]))
    scores = [row for row in rows if isinstance(row, Score)]
    assert len(scores) == len(rows) == {"Set5": 5, "Set14": 14, "BSD100": 100}[name]
    (summary,) = summarise(scores)
    expected = PUBLISHED[scale, name]
    assert summary.psnr_y == pytest.approx(expected[0], abs=0.005)
    assert summary.ssim_y == pytest.approx(expected[1], abs=0.0005)
    assert (summary.lr_psnr_y, summary.lr_ssim_y, summary.lr_worst_patch) == (math.inf, pytest.approx(1), 0)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something with edges and colours: (height, width, 3) uint8."""
    coarse = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return bicubic(coarse, (height, width)).clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()


def folder(path: Path, **pictures: np.ndarray) -> DataSet:
    path.mkdir(parents=True, exist_ok=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(path / f"{name}.png")
    return find_data_set(path)


@pytest.fixture
def network(tiny_model: Callable[..., irn_cli.IRN]) -> Network:
    return Network("tiny", irn_cli.Rescaler(tiny_model(4), device="cpu", precision="fp32"))


def test_a_row_is_what_the_public_pieces_give(network: Network, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "odd", a=picture(66, 75))
    (row,) = evaluate([network], [dataset], seed=5, temperature=0.7, samples=2)
    assert isinstance(row, Score)

    original = irn_cli.read(tmp_path / "odd" / "a.png").pixels[:64, :72]
    scaler = network.rescaler
    small = scaler.downscale(Picture(np.ascontiguousarray(original)))
    irn_cli.write(tmp_path / "small.png", small)
    guide = bicubic(torch.from_numpy(original.copy()).permute(2, 0, 1).double(), (16, 18))
    guide = guide.round().clamp(0, 255).permute(1, 2, 0).numpy()
    assert (row.method, row.scale, row.dataset, row.name, row.width, row.height) == ("tiny", 4, "odd", "a.png", 72, 64)
    assert row.lr_psnr_y == pytest.approx(psnr(luma(guide), luma(small.pixels)))
    assert row.lr_ssim_y == pytest.approx(ssim(luma(guide), luma(small.pixels)))
    assert row.lr_worst_patch == pytest.approx(find_artifact(small.pixels, guide.astype(np.float32)).deviation)
    assert (row.lr_delta_e, row.lr_delta_e_95) == colour_difference(guide.astype(np.uint8), small.pixels)
    assert row.bytes == (tmp_path / "small.png").stat().st_size
    assert row.lr_bits_per_pixel == pytest.approx(8 * row.bytes / (16 * 18))
    assert row.bits_per_pixel == pytest.approx(8 * row.bytes / (64 * 72))

    draws = []
    for sample in range(2):
        restored = scaler.upscale(irn_cli.read(tmp_path / "small.png"), seed=5, temperature=0.7, sample=sample).pixels
        a, b = crop_border(original, 4), crop_border(restored, 4)
        draws.append((psnr(luma(a), luma(b)), ssim(luma(a), luma(b)), psnr(a, b)))
    assert draws[0] != draws[1]
    assert row.psnr_y_samples == pytest.approx((draws[0][0], draws[1][0]))
    assert (row.psnr_y, row.ssim_y, row.psnr_rgb) == pytest.approx(tuple(np.mean(draws, 0)))
    assert row.seconds > 0


def test_the_time_is_that_of_one_draw(tmp_path: Path) -> None:
    class Slow(Baseline):
        draws = True  # type: ignore[misc]

        def upscale(self, small: Small, *, seed: int = 0, temperature: float = 0, sample: int = 0) -> Picture:
            begin = time.perf_counter()
            time.sleep(0.2)
            restored = super().upscale(small)
            taken.append(time.perf_counter() - begin)
            return restored

    taken: list[float] = []
    (row,) = evaluate([Slow("bicubic", 4)], [folder(tmp_path / "d", a=picture(48, 48))], samples=4)
    assert isinstance(row, Score)
    assert row.seconds
    assert 0.2 <= row.seconds < sum(taken)


def test_few_pictures_are_read_before_their_rows_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def load(*arguments: Any) -> Original:
        read.append(arguments)
        return module.load(*arguments)

    monkeypatch.setattr("irn_cli.evaluation.evaluate.load", load)
    pictures = {f"p{number:02}": picture(44, 44) for number in range(20)}
    rows = evaluate([Baseline("area", 4)], [folder(tmp_path / "d", **pictures)], workers=2)
    next(rows)
    time.sleep(0.3)
    assert len(read) <= 7  # two ahead, four whose rows are still to come, and this one
    rows.close()


def test_the_border_is_the_scale_unless_given(tmp_path: Path) -> None:
    pixels = picture(64, 64)
    pixels[:4] = 255 - pixels[:4]  # hard to restore, and only near the border
    dataset = folder(tmp_path / "d", a=pixels)

    def scored(crop: int | None) -> float:
        (row,) = evaluate([Baseline("bicubic", 4)], [dataset], crop=crop)
        assert isinstance(row, Score)
        return row.psnr_y

    assert scored(None) == scored(4)
    assert scored(0) < scored(4) < scored(8)


def test_a_rescaler_and_a_folder_will_do(network: Network, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d", a=picture(64, 64))
    Image.fromarray(picture(8, 8)).save(tmp_path / "d" / "b.png")  # too small
    rows = list(evaluate([network.rescaler], [str(tmp_path / "d")]))
    assert [type(row) for row in rows] == [Score, Failure]
    (summary,) = summarise(rows)
    (expected,) = summarise(evaluate([network], [dataset]))
    assert summary.method == network.rescaler.model.name
    assert (summary.psnr_y, summary.pictures) == (expected.psnr_y, 1)
    with pytest.raises(UsageError, match="no folder"):
        list(evaluate([network], [tmp_path / "nothing"]))


def test_grey_pictures_are_measured_on_their_own_levels(network: Network, tmp_path: Path) -> None:
    grey = picture(64, 64)[..., 0]
    dataset = folder(tmp_path / "d", grey=grey, same=np.repeat(grey[..., None], 3, 2))
    a, b = (row for row in evaluate([Baseline("bicubic", 2)], [dataset]) if isinstance(row, Score))
    assert (a.name, b.name) == ("grey.png", "same.png")
    assert a.psnr_y == pytest.approx(a.psnr_rgb) == pytest.approx(b.psnr_rgb)
    assert b.psnr_y - a.psnr_y == pytest.approx(20 * math.log10(255 / 219))  # the studio range is narrower
    row = next(evaluate([network], [dataset]))
    assert isinstance(row, Score)
    assert row.psnr_y == pytest.approx(row.psnr_rgb)  # restored in grey


def test_bridge_of_set14_is_grey_in_any_format(tmp_path: Path) -> None:
    colours = np.repeat(picture(64, 64)[..., :1], 3, 2)
    rows = list(evaluate([Baseline("area", 2)], [folder(tmp_path / "Set14", bridge=colours, man=colours)]))
    bridge, man = (row for row in rows if isinstance(row, Score))
    assert bridge.psnr_y == pytest.approx(bridge.psnr_rgb)
    assert man.psnr_y > man.psnr_rgb + 1


def test_transparency_is_left_out(tmp_path: Path) -> None:
    pixels = picture(48, 48)
    alpha = np.full((48, 48, 1), 255, np.uint8)
    alpha[:, :20] = 0
    dataset = folder(tmp_path / "d", a=np.concatenate([pixels, alpha], 2), b=pixels)
    a, b = (row for row in evaluate([Baseline("lanczos", 2)], [dataset]) if isinstance(row, Score))
    assert dataclasses.replace(a, name="", seconds=0) == dataclasses.replace(b, name="", seconds=0)


def test_bad_pictures_are_told_and_the_rest_is_measured(network: Network, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d", b=picture(48, 48), tiny=picture(43, 80), z=picture(50, 50))
    (tmp_path / "d" / "a.png").write_bytes(b"no picture")
    (tmp_path / "d" / "c.png").write_bytes((tmp_path / "d" / "b.png").read_bytes()[:400])
    dataset = find_data_set(tmp_path / "d")
    rows = list(evaluate([network, Baseline("bicubic", 4)], [dataset]))
    failures = {row.name: row.error for row in rows if isinstance(row, Failure)}
    assert sorted(failures) == ["a.png", "c.png", "tiny.png"]  # once each, however many methods
    assert "too small to be measured: expected at least 44 pixels a side, found 80 x 43" in failures["tiny.png"]
    scores = [(row.name, row.method) for row in rows if isinstance(row, Score)]
    assert scores == [("b.png", "tiny"), ("b.png", "bicubic"), ("z.png", "tiny"), ("z.png", "bicubic")]
    assert [summary.pictures for summary in summarise(row for row in rows if isinstance(row, Score))] == [2, 2]


class Failing(Baseline):
    """Runs out of memory on every picture."""

    def upscale(self, small: Small, *, seed: int = 0, temperature: float = 0, sample: int = 0) -> Picture:
        raise DeviceError("no memory")


def test_a_method_that_fails_stops_no_other(tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d", a=picture(48, 48))
    rows = list(evaluate([Failing("area", 2), Baseline("bicubic", 2)], [dataset]))
    assert rows[0] == Failure("d", "a.png", "area", "no memory")
    assert isinstance(rows[1], Score)


def test_temperature_zero_has_one_outcome(network: Network, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d", a=picture(64, 64))

    def scored(**options: float) -> tuple[float, ...]:
        (row,) = evaluate([network], [dataset], samples=2, **options)  # type: ignore[arg-type]
        assert isinstance(row, Score)
        return row.psnr_y_samples

    mean = scored(temperature=0)
    assert mean[0] == mean[1] == scored(temperature=0, seed=9)[0]
    drawn = scored()
    assert len({*drawn, *scored(seed=9), mean[0]}) == 5


def score(dataset: str, draws: tuple[float, ...], **values: float) -> Score:
    quality = {"psnr_y": float(np.mean(draws)), "ssim_y": values.pop("ssim_y", 1.0), "psnr_rgb": 1.0}
    place = {"method": "m", "scale": 4, "dataset": dataset, "name": "a.png", "width": 8, "height": 8}
    names = {field.name for field in dataclasses.fields(Score)} - {"quality", *place}
    filled = dict.fromkeys(names, 1.0) | {"psnr_y_samples": draws} | values
    return Score(quality=quality, **place, **filled)  # type: ignore[arg-type]


def test_summaries_are_means_and_the_spread_is_the_sets() -> None:
    rows = [
        score("a", (30.0, 31.0), lr_worst_patch=3.0, lr_delta_e_95=4.0, ssim_y=0.8),
        score("b", (50.0,)),
        score("a", (33.0, 32.0), lr_worst_patch=7.0, lr_delta_e_95=6.0, ssim_y=0.9),
    ]
    a, b = summarise(rows)
    assert (a.dataset, a.pictures, a.psnr_y, a.lr_worst_patch) == ("a", 2, 31.5, 7.0)
    assert a.ssim_y == pytest.approx(0.85)
    assert a.lr_delta_e_95 == 5.0
    assert a.psnr_y_std_over_samples == 0  # both draws of the set have the mean 31.5
    assert (b.pictures, b.psnr_y_std_over_samples) == (1, None)
    (c,) = summarise([score("c", (30.0, 31.0)), score("c", (31.0, 32.0))])
    assert c.psnr_y_std_over_samples == pytest.approx(math.sqrt(0.5))
    (d,) = summarise([score("d", (math.inf, math.inf))])
    assert (d.psnr_y, d.psnr_y_std_over_samples, d.infinite) == (math.inf, 0, {"psnr_y": 1})


def test_one_picture_that_comes_back_whole_does_not_make_a_mean_infinite() -> None:
    draws = [(math.inf, math.inf), (30.0, 31.0), (32.0, 33.0), (34.0, math.inf)]
    (summary,) = summarise([score("a", each, lr_psnr_y=40.0) for each in draws[:3]] + [score("a", draws[3])])
    assert (summary.pictures, summary.psnr_y, summary.infinite) == (4, 31.5, {"psnr_y": 2})
    assert summary.psnr_y_std_over_samples == pytest.approx(math.sqrt(0.5))  # of the means 31 and 32


def test_finding_pictures(tmp_path: Path) -> None:
    folder(tmp_path / "d", b=picture(8, 8))
    folder(tmp_path / "d" / "deep" / "er", a=picture(8, 8))
    folder(tmp_path / "d" / ".hidden", x=picture(8, 8))
    (tmp_path / "d" / "notes.txt").write_text("no picture")
    (tmp_path / "d" / "folder.png").mkdir()
    dataset = find_data_set(tmp_path / "d")
    names = [path.relative_to(tmp_path / "d").as_posix() for path in dataset.pictures]
    assert (dataset.name, names) == ("d", ["b.png", "deep/er/a.png"])
    (_, deep) = evaluate([Baseline("area", 2)], [dataset])
    assert isinstance(deep, Failure)
    assert deep.name == "deep/er/a.png"
    with pytest.raises(UsageError, match="no folder"):
        find_data_set(tmp_path / "absent")
    with pytest.raises(UsageError, match="no pictures in"):
        find_data_set(tmp_path / "d" / "folder.png")


class Waiting(Baseline):
    """Finishes a picture only once the next one is being read: without overlap it would wait for ever."""

    busy = True

    def downscale(self, original: Original) -> Small:
        assert reads.acquire(timeout=30), "the next picture is not read while the method works"
        return super().downscale(original)


reads = threading.Semaphore(0)


def test_reading_runs_ahead_of_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = folder(tmp_path / "d", a=picture(48, 48), b=picture(48, 48), c=picture(48, 48))
    real = module.read

    def counted(path: Path) -> Picture:
        if path.stem != "a":
            reads.release()
        return real(path)

    monkeypatch.setattr(module, "read", counted)
    rows = evaluate([Waiting("area", 2)], [dataset])
    reads.release()  # for the last picture, which has none after it
    assert len(list(rows)) == 3


def test_leaving_early_leaves_no_thread_and_no_global_state(network: Network, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d", **{f"p{k}": picture(48, 48, k) for k in range(4)})
    state = torch.random.get_rng_state()
    rows = evaluate([network], [dataset])
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("irn-evaluate")]
    assert torch.equal(state, torch.random.get_rng_state())


class Meeting(Baseline):
    """Finishes a picture only once two are worked on at the same time."""

    def downscale(self, original: Original) -> Small:
        meeting.wait(timeout=30)
        return super().downscale(original)


meeting = threading.Barrier(2)


def test_methods_that_leave_cores_idle_work_on_several_pictures(tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d", a=picture(48, 48), b=picture(48, 48, 1))
    rows = list(evaluate([Meeting("area", 2)], [dataset], workers=2))
    assert [getattr(row, "name", "") for row in rows] == ["a.png", "b.png"]


def test_figures_do_not_depend_on_the_threads(network: Network, tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d", **{f"p{k}": picture(61 + k, 90, k) for k in range(5)})
    (tmp_path / "d" / "p2a.png").write_bytes(b"no picture")
    methods = [network, Baseline("bicubic", 4), Baseline("area", 4)]
    several = [list(evaluate(methods, [find_data_set(tmp_path / "d")], workers=workers)) for workers in (1, 4)]
    one, four = ([flat(row) | {"seconds": 0} if isinstance(row, Score) else row for row in rows] for rows in several)
    assert len(one) == 3 * len(dataset.pictures) + 1
    assert one == four  # to the last digit


def test_the_caller_keeps_its_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    list(evaluate([Baseline("area", 2)], [folder(tmp_path / "d", a=picture(48, 48))]))
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), seen) == (before, [before])


class Broken(Baseline):
    """Has a bug."""

    def downscale(self, original: Original) -> Small:
        raise ZeroDivisionError


def test_a_bug_in_a_method_ends_the_evaluation(tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d", a=picture(48, 48))
    with pytest.raises(ZeroDivisionError):
        list(evaluate([Broken("area", 2)], [dataset]))


def test_further_metrics_are_measured_on_the_same_crop(tmp_path: Path) -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...], bool]] = []
    further = Metric("size", "size", 0, True, lambda a, b, grey: float(seen.append((a.shape, b.shape, grey)) or a.size))
    dataset = folder(tmp_path / "d", a=picture(48, 52), b=picture(48, 48)[..., 0])
    rows = evaluate([Baseline("area", 4)], [dataset], metrics=[further])
    scores = [row for row in rows if isinstance(row, Score)]
    assert [score.quality["size"] for score in scores] == [40 * 44 * 3, 40 * 40 * 3]
    assert sorted(seen) == [((40, 40, 3), (40, 40, 3), True), ((40, 44, 3), (40, 44, 3), False)]
    assert list(scores[0].quality) == [metric.key for metric in METRICS] + ["size"]
    assert summarise(scores)[0].quality["size"] == 40 * 42 * 3
