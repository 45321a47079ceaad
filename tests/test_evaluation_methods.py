"""What can be measured besides models and interpolation: other programs' pictures, and codecs at equal size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from irn_cli import IRN, Rescaler, read
from irn_cli.errors import InputError, UsageError
from irn_cli.evaluation.codec import CodecName
from irn_cli.evaluation.dataset import DataSet, Original, find_data_set, load
from irn_cli.evaluation.evaluate import evaluate
from irn_cli.evaluation.methods import Baseline, Codec, Network, Remembered, Small, find_results, load_methods
from irn_cli.evaluation.scores import Failure, Score, flat, summarise
from irn_cli.picture import Picture
from irn_cli.resize import bicubic
from irn_cli.weights import save_model


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return bicubic(coarse, (height, width)).clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    """Two pictures of 63 x 50 and 64 x 48 pixels."""
    (tmp_path / "set").mkdir()
    Image.fromarray(pixels(50, 63)).save(tmp_path / "set" / "a.png")
    Image.fromarray(pixels(48, 64, 1)).save(tmp_path / "set" / "b.png")
    return find_data_set(tmp_path / "set")


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def bicubic_results(dataset: DataSet, directory: Path) -> None:
    """What another program would have left: bicubic both ways, as `irn` does it."""
    method = Baseline("bicubic", 4)
    for path in dataset.pictures:
        height, width = (side // 4 * 4 for side in read(path).size)
        picture = Picture(np.ascontiguousarray(read(path).pixels[:height, :width]))
        small = method.downscale(Original("", "", picture, picture.pixels, picture.size))
        assert small.picture
        save(directory / "lr" / f"{path.stem}x4.png", small.picture.pixels)
        save(directory / "sr" / f"{path.stem}_x4_SR.png", method.upscale(small).pixels)


def test_another_programs_pictures_score_as_ours_do(dataset: DataSet, tmp_path: Path) -> None:
    bicubic_results(dataset, tmp_path)
    given = find_results(f"Theirs={tmp_path}/sr,{tmp_path}/lr", 4)
    rows = [row for row in evaluate([Baseline("bicubic", 4), given], [dataset]) if isinstance(row, Score)]
    assert [row.method for row in rows] == ["bicubic", "Theirs"] * 2
    # Pillow's file of a small picture is not irn's.
    apart = dict.fromkeys(("method", "seconds", "bytes", "bits_per_pixel", "lr_bits_per_pixel"))
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert flat(ours) | apart == flat(theirs) | apart
        assert theirs.bytes == (tmp_path / "lr" / f"{Path(ours.name).stem}x4.png").stat().st_size
        assert theirs.seconds is None


def test_without_small_pictures_nothing_is_said_of_them(dataset: DataSet, tmp_path: Path) -> None:
    bicubic_results(dataset, tmp_path)
    (summary,) = summarise(
        row for row in evaluate([find_results(f"T={tmp_path}/sr", 4)], [dataset]) if isinstance(row, Score)
    )
    assert summary.pictures == 2
    assert {summary.lr_psnr_y, summary.lr_worst_patch, summary.bits_per_pixel, summary.seconds_per_picture} == {None}


def test_missing_doubled_and_wrongly_sized_pictures_are_named(dataset: DataSet, tmp_path: Path) -> None:
    bicubic_results(dataset, tmp_path)
    (tmp_path / "sr" / "a_x4_SR.png").unlink()
    save(tmp_path / "sr" / "b.png", pixels(48, 64))

    def errors() -> list[str]:
        rows = evaluate([find_results(f"T={tmp_path}/sr,{tmp_path}/lr", 4)], [dataset])
        return [row.error for row in rows if isinstance(row, Failure)]

    assert errors() == [
        f"no picture for a.png in {tmp_path}/sr",
        f"expected one picture for b.png in {tmp_path}/sr, found b.png, b_x4_SR.png",
    ]
    (tmp_path / "sr" / "b.png").unlink()
    save(tmp_path / "sr" / "a.png", pixels(49, 63))
    save(tmp_path / "lr" / "bx4.png", pixels(12, 15))
    assert errors() == [
        f"{tmp_path}/sr/a.png: expected 60 x 48 or 63 x 50 pixels, found 63 x 49",
        f"{tmp_path}/lr/bx4.png: expected 16 x 12 pixels, found 15 x 12",
    ]


def test_uncropped_results_are_cropped(dataset: DataSet, tmp_path: Path) -> None:
    for path in dataset.pictures:
        save(tmp_path / "same" / path.name, read(path).pixels)
    rows = [row for row in evaluate([find_results(f"T={tmp_path}/same", 4)], [dataset]) if isinstance(row, Score)]
    assert [row.psnr_rgb for row in rows] == [np.inf, np.inf]
    assert [(row.width, row.height) for row in rows] == [(60, 48), (64, 48)]


def test_how_results_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a,b" / "x.png", pixels(8, 8))
    assert find_results(f"N={tmp_path}/a,b", 4).restored.directory == tmp_path / "a,b"
    for text in ("N", "N=", "=dir"):
        with pytest.raises(UsageError, match=r"expected NAME=DIR or NAME=DIR,LRDIR"):
            find_results(text, 4)
    with pytest.raises(UsageError, match="no folder"):
        find_results(f"N={tmp_path}/a,b,{tmp_path}/absent", 4)


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif"])
def test_codecs_get_the_bytes_of_the_first_methods_small_picture(
    dataset: DataSet, tiny_model: Callable[..., IRN], codec: CodecName
) -> None:
    network = Network("tiny", Rescaler(tiny_model(4), "cpu", "fp32"))
    for first in (network, Baseline("bicubic", 4)):
        rows = [row for row in evaluate([first, Codec(codec, 4)], [dataset], workers=1) if isinstance(row, Score)]
        for reference, row in zip(rows[::2], rows[1::2], strict=True):
            assert (row.method, row.lr_psnr_y) == (codec, None)
            assert reference.bytes
            assert row.bytes
            assert 0.2 * reference.bytes < row.bytes <= reference.bytes


class Lost(Baseline):
    """Makes no small picture."""

    def downscale(self, original: Original) -> Small:
        raise InputError("no")


def test_a_codec_without_a_small_picture_beside_it_fails_and_does_not_wait(dataset: DataSet, tmp_path: Path) -> None:
    bicubic_results(dataset, tmp_path)
    for first in (Lost("bicubic", 4), find_results(f"T={tmp_path}/sr", 4)):
        rows = list(evaluate([first, Codec("jpeg", 4)], [dataset]))
        failures = [row.error for row in rows if isinstance(row, Failure) and row.method == "jpeg"]
        assert failures == [f"{first.name} gave no small picture to compare with"] * 2


def test_loading_puts_codecs_last_and_gives_them_a_reference(
    dataset: DataSet, tmp_path: Path, tiny_model: Callable[..., IRN]
) -> None:
    bicubic_results(dataset, tmp_path)
    save_model(tmp_path / "tiny.safetensors", tiny_model(4))
    results = [f"T={tmp_path}/sr"]
    methods = load_methods([str(tmp_path / "tiny.safetensors")], ["jpeg", "area"], results=results, device="cpu")
    assert [method.name for method in methods] == ["tiny", "area", "T", "jpeg"]
    assert [method.name for method in load_methods([], ["avif"], results=results)] == ["irn-x4", "T", "avif"]
    assert [method.name for method in load_methods([], results=results)] == ["T"]
    with pytest.raises(UsageError, match="area is given twice"):
        load_methods([], ["area"], results=[f"area={tmp_path}/sr"])


def test_refined_models_are_methods_of_their_own(
    dataset: DataSet, tmp_path: Path, tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "tiny.safetensors", tiny_model(4))
    plain, refined = load_methods([str(tmp_path / "tiny.safetensors")], refine=3, device="cpu")
    assert (plain.name, refined.name) == ("tiny", "tiny + 3")
    assert plain.facts == {name: value for name, value in refined.facts.items() if name != "refine"}
    assert refined.facts["refine"] == 3
    asked: list[int] = []
    downscale = Rescaler.downscale

    def watched(self: Rescaler, picture: Picture, *, refine: int) -> Picture:
        asked.append(refine)
        return downscale(self, picture)

    monkeypatch.setattr(Rescaler, "downscale", watched)
    assert not [row for row in evaluate([plain, refined], [dataset]) if isinstance(row, Failure)]
    assert sorted(asked) == [0, 0, 3, 3]


def test_what_is_remembered_is_made_once(dataset: DataSet) -> None:
    made: list[str] = []

    class Counted(Baseline):
        draws = True

        def downscale(self, original: Original) -> Small:
            made.append(f"small {original.name}")
            return super().downscale(original)

        def upscale(self, small: Small, *, seed: int = 0, temperature: float = 0, sample: int = 0) -> Picture:
            made.append(f"restored {seed} {sample}")
            return super().upscale(small, seed=seed, temperature=temperature, sample=sample)

    room = 48 * 60 * 3 + 12 * 15 * 3  # a.png, restored and small
    method = Remembered(Counted("bicubic", 4), room)
    rows = list(evaluate([method], [dataset], samples=2, seed=1, workers=1))
    assert [flat(row) | {"seconds": 0} for row in rows if isinstance(row, Score)] == [
        flat(row) | {"seconds": 0}
        for row in evaluate([Counted("bicubic", 4)], [dataset], samples=2, seed=1)
        if isinstance(row, Score)
    ]
    made.clear()
    a, b = (load(dataset, path, 4, 4) for path in dataset.pictures)
    first = method.upscale(method.downscale(a), seed=1, temperature=1.0, sample=0)
    assert made == []
    for seed, sample in ((1, 1), (2, 0)):
        method.upscale(method.downscale(a), seed=seed, temperature=1.0, sample=sample)
    method.upscale(method.downscale(b), seed=1, temperature=1.0, sample=0)
    assert made == ["restored 1 1", "restored 2 0", "small b.png", "restored 1 0"]
    assert np.array_equal(first.pixels, Baseline("bicubic", 4).upscale(Baseline("bicubic", 4).downscale(a)).pixels)
