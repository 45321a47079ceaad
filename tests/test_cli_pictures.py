"""`irn downscale` and `irn upscale` on files as people have them: what is written, what is told, how it ends."""

import dataclasses
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, PngImagePlugin

from irn_cli.batch.estimate import estimate
from irn_cli.batch.jobs import Job, Outcome
from irn_cli.batch.jobs import Result as Known
from irn_cli.batch.line import Events, Progressed
from irn_cli.cli import irn
from irn_cli.colour import ColourDifference
from irn_cli.errors import Code, IrnError, one_line
from irn_cli.formats.chunks import text
from irn_cli.image import peek, read, write
from irn_cli.metrics import Psnr
from irn_cli.model import IRN
from irn_cli.picture import Picture
from irn_cli.record import Record, Restored
from irn_cli.rescale import Fidelity, Rescaler
from irn_cli.weights import save_model
from tests.helpers import photo_like, without_privileges

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., IRN]) -> None:
    """An empty directory, in which the default models are tiny ones, and tiny pictures stand for ordinary ones."""
    monkeypatch.setattr("irn_cli.rescale.LEAST", 1)
    weights = tmp_path / "weights"
    for scale in (2, 4):
        model = tiny_model(scale)
        for name, parameter in model.named_parameters():
            if "conv5" in name:  # gentle couplings: the small picture stays near the bicubic one
                parameter.data *= 0.1
        save_model(weights / f"irn-x{scale}.safetensors", model)
    monkeypatch.setenv("IRN_WEIGHTS", str(weights))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def run() -> Run:
    """`run("downscale a.png -q")` or `run(["downscale", "a b.png"])`, and how it ended."""

    def call(command: str | list[str], **options: object) -> Result:
        arguments = command.split() if isinstance(command, str) else command
        result = CliRunner().invoke(irn, arguments, standalone_mode=False, **options)
        if result.exception and not isinstance(result.exception, SystemExit):
            # What `main` makes of it: one line and a status.
            error = result.exception
            status = getattr(error, "exit_status", getattr(error, "exit_code", None))
            if status is None:
                raise error
            message = error.format_message() if hasattr(error, "format_message") else one_line(str(error))
            assert isinstance(error, IrnError) or status == 2
            return Result(result.runner, result.stdout_bytes, f"{result.stderr}irn: {message}\n".encode(),
                          result.output_bytes, None, status, None)  # fmt: skip
        return Result(result.runner, result.stdout_bytes, result.stderr_bytes, result.output_bytes, None,
                      result.return_value or 0, None)  # fmt: skip

    return call


def test_a_border_by_name_is_what_the_record_says(run: Run) -> None:
    photo("a.png")
    for border in ("zero", "mirror", "edge"):
        assert run(f"downscale a.png -q --force --border {border}").exit_code == 0
        record = read("a_down4.png").record
        assert isinstance(record, Record)
        assert (record.border, record.border_rows > 0) == (border, border != "zero")
        assert run("upscale a_down4.png -q --force").exit_code == 0
        assert read("a_up4.png").size == (20, 28)


def photo(path: str, height: int = 20, width: int = 28, seed: int = 0) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo_like(height, width, seed)).save(target)
    return target


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def ended(result: Result, status: int, *, told: str = "", printed: str = "") -> Result:
    assert result.exit_code == status, result.stderr
    assert told in result.stderr, result.stderr
    assert result.stdout == printed
    assert "Traceback" not in result.stderr
    return result


# One picture ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4])
def test_down_and_up(run: Run, scale: int) -> None:
    photo("photo.jpg", 21, 30)
    ended(run(f"downscale photo.jpg -s {scale}"), 0, told=f"photo.jpg -> photo_down{scale}.png (30x21 -> ")
    ended(run(f"upscale photo_down{scale}.png"), 0, told=f"photo_down{scale}.png -> photo_up{scale}.png")
    assert files() == ["photo.jpg", f"photo_down{scale}.png", f"photo_up{scale}.png"]
    assert read(f"photo_up{scale}.png").size == (21, 30)
    assert isinstance(read(f"photo_up{scale}.png").record, Restored)


@pytest.mark.parametrize("name", ["out.png", "out.webp", "out.tif", "new/place/out.png"])
def test_output_names_say_the_format(run: Run, name: str) -> None:
    photo("a.png")
    ended(run(f"downscale a.png -o {name}"), 0)
    assert isinstance(read(name).record, Record)
    ended(run(f"upscale {name} -o big.png"), 0)
    assert read("big.png").warnings == ()


def test_formats_restore_to_the_same_bytes(run: Run) -> None:
    photo("in/a.png")
    with Image.open("in/a.png") as image:
        image.save("in/a.png", dpi=(72, 72))
    restored = set()
    for name, suffix in (("png", ".png"), ("webp", ".webp"), ("tiff", ".tif")):
        ended(run(["downscale", "in", "-o", f"small/{name}", "--format", name, "--name", "{stem}{suffix}"]), 0)
        ended(run(f"upscale small/{name} -o large/{name} --original-names"), 0)
        assert Path(f"small/{name}/a{suffix}").exists()
        restored.add(Path(f"large/{name}/a.png").read_bytes())
    assert len(restored) == 1


def test_originals_get_their_names_back(run: Run) -> None:
    photo("in/x/IMG_1.jpg")
    ended(run("downscale in -o small"), 0)
    ended(run("upscale small -o out --original-names --quality 60"), 0, told="out/x/IMG_1.jpg")
    ended(run("upscale small -o best --original-names"), 0)
    assert read("best/x/IMG_1.jpg").size == (20, 28)
    assert Path("out/x/IMG_1.jpg").stat().st_size < Path("best/x/IMG_1.jpg").stat().st_size
    ended(run("upscale small --original-names"), 2, told="needs a directory of its own")
    ended(run(["upscale", "small", "-o", "out", "--original-names", "--name", "x"]), 2, told="exclude each other")
    ended(run("downscale in -o stripped --strip"), 0)
    ended(run("upscale stripped -o other --original-names"), 0, told="its original's name is not known")
    assert Path("other/x/IMG_1_up4.png").exists()


def test_a_format_for_standard_output(run: Run) -> None:
    data = photo("a.png").read_bytes()
    small = run("downscale - -q --format webp", input=data)
    assert small.stdout_bytes[8:12] == b"WEBP"
    large = run("upscale - -q --format jpg --quality 50", input=small.stdout_bytes)
    assert large.stdout_bytes.startswith(b"\xff\xd8")


def test_lossy_names_are_refused_before_anything_runs(run: Run) -> None:
    photo("a.png")
    ended(
        run("downscale a.png -o b.jpg"),
        2,
        told="what is hidden in a small picture would be lost as JPEG; expected png, webp",
    )
    ended(
        run("downscale a.png -o b"),
        2,
        told="b: what to write? Expected a name that ends in .png, .webp, .tif or .jxl, or b/ for",
    )
    assert files() == ["a.png"]
    ended(run("downscale a.png"), 0)
    ended(run("upscale a_down4.png -o b.bmp"), 2, told="b.bmp: cannot write .bmp; expected .png, .webp")
    ended(run("upscale a_down4.png -o b.jpg"), 0)


def test_standard_input_and_output(run: Run) -> None:
    data = photo("a.png").read_bytes()
    small = run("downscale - -q", input=data)
    assert (small.exit_code, small.stderr) == (0, "")
    large = run("upscale -", input=small.stdout_bytes)
    assert large.exit_code == 0
    Path("b.png").write_bytes(large.stdout_bytes)
    assert read("b.png").size == (20, 28)
    ended(run("downscale - -o c.png", input=data), 0)
    Path("d.png").write_bytes(run("downscale a.png -o -").stdout_bytes)
    piped, named = (read(name) for name in ("c.png", "d.png"))
    assert np.array_equal(piped.pixels, named.pixels)
    assert isinstance(named.record, Record)
    assert piped.record == dataclasses.replace(named.record, name="")  # which a pipe does not have
    ended(run("downscale - --json", input=data), 2, told="cannot take both")
    ended(run("downscale -", input=b""), 1, told="standard input is empty")
    ended(run("upscale c.png -o - --samples 2"), 2, told="standard output takes one picture")


def test_samples_seeds_and_spread(run: Run) -> None:
    photo("a.png")
    run("downscale a.png")
    ended(run("upscale a_down4.png --samples 3 --spread"), 0)
    names = ["a_up4_1.png", "a_up4_2.png", "a_up4_3.png", "a_up4_spread.png"]
    assert [name for name in files() if "up4" in name] == names
    samples = [read(name).pixels.astype(float) for name in names[:3]]
    expected = 20 * sum(np.abs(sample - samples[0]).mean(2) for sample in samples[1:]) / 2
    assert np.abs(read(names[3]).pixels[..., 0] - (255 - np.clip(expected, 0, 255))).max() <= 0.51
    assert read(names[3]).mode == "L"
    ended(run("upscale a_down4.png -o one.png --seed 0"), 0)
    assert np.array_equal(read("one.png").pixels, read(names[0]).pixels)
    ended(run("upscale a_down4.png -o other.png --seed 1"), 0)
    assert not np.array_equal(read("other.png").pixels, read(names[0]).pixels)
    ended(run("upscale a_down4.png --spread"), 2, told="needs --samples 2 or more")


def test_a_name_too_long_for_a_latent_beside_it_is_no_fault(run: Run) -> None:
    photo("a.png", 40, 60)
    name = f"{'b' * 248}.png"  # 252 bytes: with .latent.safetensors, over 255
    ended(run(f"downscale a.png -o {name}"), 0)
    ended(run(f"upscale {name} -o back.png"), 0)
    assert read("back.png").size == (40, 60)
    assert json.loads(run(f"info {name} --json").stdout)["latent"] is None


def test_a_kept_original_is_found_beside_its_picture(run: Run) -> None:
    photo("a.png", 40, 60)
    result = run("downscale a.png --keep-latent --json")
    latent = Path("a_down4.latent.safetensors")
    (outcome,) = map(json.loads, result.stdout.splitlines())
    assert outcome["outputs"] == [str(latent), "a_down4.png"]
    assert outcome["latent_bytes"] == latent.stat().st_size
    assert outcome["output_bytes"] == latent.stat().st_size + Path("a_down4.png").stat().st_size
    ended(run("upscale a_down4.png"), 0)
    assert np.array_equal(read("a_up4.png").pixels, read("a.png").pixels)
    ended(run("upscale a_down4.png -o seed.png --seed 0"), 0)
    ended(run("upscale a_down4.png -o temperature.png --temperature 1"), 0)
    latent.rename("moved.safetensors")
    ended(run("upscale a_down4.png -o drawn.png"), 0)
    assert np.array_equal(read("seed.png").pixels, read("drawn.png").pixels)
    assert np.array_equal(read("temperature.png").pixels, read("drawn.png").pixels)
    assert not np.array_equal(read("drawn.png").pixels, read("a.png").pixels)
    ended(run("upscale a_down4.png -o kept.png --latent moved.safetensors"), 0)
    assert np.array_equal(read("kept.png").pixels, read("a.png").pixels)
    photo("b.png", seed=1)
    run("downscale b.png")
    ended(run("upscale b_down4.png --latent moved.safetensors"), 1, told="the kept original belongs to another picture")
    for drawing in ("--samples 2", "--seed 0", "--temperature 1"):
        ended(run(f"upscale b_down4.png --latent moved.safetensors {drawing}"), 2, told="--latent excludes")
    ended(run("upscale a_down4.png b_down4.png --latent moved.safetensors"), 2, told="belongs to one picture")


def test_a_kept_original_in_a_lossy_format_is_told(run: Run) -> None:
    photo("in/a.jpg", 40, 60)
    ended(run("downscale in/a.jpg -o small/ --keep-latent"), 0)
    lossy = "kept bit for bit, but JPEG always loses something: --format png, webp or tiff does not"
    ended(run("upscale small -o large --original-names"), 0, told=lossy)
    result = ended(run("upscale small -o large --original-names --format webp"), 0)
    assert "loses" not in result.stderr
    assert np.array_equal(read("large/a.webp").pixels, read("in/a.jpg").pixels)
    assert run("upscale small/a_down4.png -o -").exit_code == 0
    drawn = ended(run("upscale small -o drawn --original-names --seed 0"), 0)
    assert "loses" not in drawn.stderr


def test_a_latent_is_never_put_beside_a_picture_of_another_run(run: Run) -> None:
    """In bfloat16, or by other weights, the small picture is another, and would no longer be enlarged at all."""
    photo("a.png", 40, 60)
    run("downscale a.png")
    small, latent = Path("a_down4.png"), Path("a_down4.latent.safetensors")
    again = "downscale a.png --keep-latent --skip-existing"
    ended(run(again), 1, told=f"{small} exists already, without {latent} that belongs to it (--force makes both)")
    assert not latent.exists()
    small.rename("b.png")
    latent.write_bytes(b"of another run")
    ended(run(again), 1, told=f"{latent} exists already, without {small} that belongs to it")
    assert not small.exists()
    ended(run("downscale a.png --keep-latent --force"), 0)
    ended(run(again), 0, told=f"skipped: {small} exists already")
    ended(run("upscale a_down4.png"), 0)
    assert np.array_equal(read("a_up4.png").pixels, read("a.png").pixels)


def test_verification(run: Run) -> None:
    photo("a.png", 40, 60)
    told = ended(run("downscale a.png --verify"), 0, told="restores at ").stderr
    luma = float(told.split("restores at ")[1].split(" dB Y")[0])
    run("downscale a.png --force")
    ended(run(f"downscale a.png --force --min-psnr {luma - 0.1}"), 0)
    Path("a_down4.png").unlink()
    ended(run(f"downscale a.png --min-psnr {luma + 0.1}"), 1, told=f"it restores at {luma:.2f} dB, below")
    assert files() == ["a.png"]


def test_a_stripped_small_picture_is_restored_by_its_mark(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irn_cli.mark.LEAST", 1 << 14)
    Path("in").mkdir()
    photo("in/a.png", 255, 258)
    ended(run("downscale in -s 2 -o out"), 0)
    ended(run("upscale out/a_down2.png -o a.png"), 0)
    small = read("out/a_down2.png")
    Image.fromarray(small.pixels).save("a_down2.png")
    ended(run("downscale a_down2.png -o b.png"), 0, told="a_down2.png: skipped: irn made it: its record was stripped")
    told = "a_down2.png: warning: its record was stripped: restored as the mark in its pixels says\n"
    ended(run("upscale a_down2.png"), 0, told=told)
    assert np.array_equal(read("a_up2.png").pixels, read("a.png").pixels)
    ended(run("upscale a_down2.png -s 4 --force"), 1, told="irn made it 2 times smaller, not 4")
    Path("a_down2.png").rename("c.png")  # now the mark alone tells the factor
    ended(run("upscale c.png --name {stem}x{scale}{suffix}"), 0, told="c.png -> cx2.png (129x128 -> 258x255")
    row = json.loads(run("upscale c.png -m irn-x2 --json").stdout)
    assert (row["status"], row["outputs"]) == ("done", ["c_up2.png"])
    assert json.loads(run("upscale c.png --skip-existing --dry-run --json").stdout)["existing"] == 1
    for name in ("gallery/c.png", "gallery/a_down4.png"):  # in a folder too, whatever its name says
        write(name, Picture(small.pixels))
    photo("gallery/foreign.png", 129, 128)
    ended(run("upscale gallery -o restored"), 0, told="2 done, 1 skipped")
    assert [name for name in files() if "restored" in name] == ["restored/a_down4_up2.png", "restored/c_up2.png"]
    assert np.array_equal(read("restored/c_up2.png").pixels, read("a.png").pixels)
    ended(run("upscale c.png --max-pixels 9"), 1, told="too large: 129x128")
    ended(run("upscale - -o out", input=Path("out/a_down2.png").read_bytes()), 0, told="- -> out/-_up.png")
    ended(run("upscale - -o out -s 2", input=Path("c.png").read_bytes()), 0, told="- -> out/-_up2.png")
    ended(run("downscale in -s 2 -o plain --no-mark"), 0)
    plain = read("plain/a_down2.png")
    assert 10 < np.count_nonzero(plain.pixels != small.pixels) <= 64
    Image.fromarray(plain.pixels).save("b_down2.png")
    ended(run("upscale b_down2.png"), 1, told="no usable record of irn")


@pytest.mark.parametrize("command", ["downscale in", "upscale in -s 2"])
def test_a_dry_run_writes_nothing_and_foretells(run: Run, command: str) -> None:
    for number in range(6):
        photo(f"in/{number}.png", 40, 50, seed=number)
    ended(run(f"{command} -o out"), 0)
    made = sum(path.stat().st_size for path in Path("out").iterdir())
    for path in sorted(Path("out").iterdir())[2:]:
        path.unlink()
    Path("in/bad.png").write_text("no picture")
    before = files()
    told = json.loads(run(f"{command} -o out --skip-existing --dry-run --json").stdout)
    pixels = 2000 * (4 if "upscale" in command else 1)
    assert {name: told[name] for name in ("pictures", "pixels", "existing", "skipped", "failed")} == {
        "pictures": 5, "pixels": 4 * pixels, "existing": 2, "skipped": 0, "failed": 0,
    }  # fmt: skip
    assert 0 < told["seconds"] < 60
    assert told["output_bytes"] == pytest.approx(made * 4 / 6, rel=0.1)
    result = run(f"{command} -o out --dry-run")
    assert result.exit_code == 1
    assert "0_down4.png exists already (--force replaces it" in result.stderr.replace("up2", "down4")
    assert result.stdout.splitlines()[:2] == [
        f"to do: 5 pictures, {4 * pixels / 1e6:.1f} megapixels at full size",
        "results exist already: 2; skipped for other reasons: 0",
    ]
    assert "on this machine\ndisk: about " in result.stdout
    assert files() == before


def test_a_dry_run_does_not_wait_for_thousands_of_restorations(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irn_cli.batch.estimate._MOST", 0.5)
    photo("in/a.png", 200, 240)
    ended(run("downscale in/a.png -o a.png"), 0)
    ended(run("upscale a.png"), 0)
    one, before = Path("a_up4.png").stat().st_size, files()
    told = json.loads(run("upscale a.png --samples 2000 --dry-run --json").stdout)
    assert (told["pictures"], told["pixels"]) == (1, 2000 * 200 * 240)
    assert told["seconds"] > 10
    assert 0.4 < told["output_bytes"] / (2000 * one) < 1.5  # the second may be half done
    assert files() == before
    ended(run("upscale a.png --samples 10000"), 2, told="10000 is not in the range 1<=x<=9999")


@pytest.mark.parametrize("written", [True, False])
def test_what_a_batch_takes_is_judged_by_more_than_its_smallest_picture(
    written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def run(jobs: Sequence[Job]) -> Events:
        """The smallest takes no time, each other 4 s; what restores too poorly is not written."""
        nonlocal now
        for job in jobs:
            yield Progressed(job.source, 0)
            small = job.pixels < 100_000
            for _ in range(1 if small else 4):
                now += 0.01 if small else 1
                yield Progressed(job.source, 0.5)
            size = (100_000 if small else 500_000) if written else None
            done = Known(output_size=(1, 1), output_bytes=size)
            yield Outcome(job.source, "done" if written else "skipped", Code.DONE, result=done)

    jobs = [Job(Path(f"{number}"), (Path("a"),), 10_000_000 if number else 10_000) for number in range(41)]
    estimated = estimate(jobs, run)
    assert now < 115
    assert estimated
    assert estimated.seconds == pytest.approx(160, rel=0.02)
    assert estimated.output_bytes == pytest.approx(20_000_000 * written, rel=0.3)


def test_a_dry_run_of_nothing(run: Run) -> None:
    photo("a.png")
    ended(run("downscale a.png"), 0)
    told = "to do: 0 pictures, 0.0 megapixels at full size\nresults exist already: 1; skipped for other reasons: 0\n"
    ended(run("downscale a.png --skip-existing --dry-run"), 0, printed=told)
    assert run("downscale a.png --force --dry-run").stdout.startswith("to do: 1 picture, 0.0 megapixels at full size\n")
    assert json.loads(run("downscale - --dry-run --json -o b.png", input=b"").stdout)["seconds"] is None
    assert files() == ["a.png", "a_down4.png"]


@pytest.fixture
def of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures in `in`, of which one comes back with 41 dB from 4x, one from 2x and one from neither."""
    monkeypatch.setattr("irn_cli.rescale.LEAST", 64)  # tiny as they are, they are interpolated
    wave = np.repeat(128 + 100 * np.sin(np.indices((40, 48))[1] / 9)[..., None], 3, 2).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Path("in/sub").mkdir(parents=True)
    for name, pixels in {"wave": wave, "photo": photo_like(40, 48), "sub/noise": noise}.items():
        Image.fromarray(pixels).save(f"in/{name}.webp", lossless=True)


@pytest.mark.usefixtures("of_each_kind")
@pytest.mark.parametrize("otherwise", ["fail", "skip", "copy", "keep"])
def test_the_largest_factor_that_restores_well_enough(run: Run, otherwise: str) -> None:
    command = f"downscale in -o out --min-psnr 41 --scales 2,4 --otherwise {otherwise}"
    status = int(otherwise == "fail")
    result = ended(run(command), status)
    kept = {"copy": ["out/sub/noise.webp"], "keep": ["out/sub/noise_down2.png"]}.get(otherwise, [])
    made = ["out/photo_down2.png", *kept, "out/wave_down4.png"]
    assert [name for name in files() if name.startswith("out")] == made
    short = r"1\d.\d\d dB at 4x, 1\d.\d\d dB at 2x; --min-psnr asks for 41 dB"
    told = {
        "fail": rf"failed: {short}: not written",
        "skip": rf"skipped: {short}: not written",
        "copy": rf"warning: {short}: copied as it is",
        "keep": r"warning: it restores at 1\d.\d\d dB, below 41 dB: kept anyway",
    }
    assert re.search(rf"sub/noise.webp: {told[otherwise]}\n", result.stderr)
    if otherwise == "copy":
        assert Path("out/sub/noise.webp").read_bytes() == Path("in/sub/noise.webp").read_bytes()
    again = ended(run(f"{command} --skip-existing"), status).stderr
    assert f"{len(made)} skipped: their outputs exist\n" in again
    ended(run("upscale out -o large"), 0)


@pytest.mark.usefixtures("of_each_kind")
def test_another_factors_result_is_replaced(run: Run) -> None:
    """Else two small pictures of one original would stand side by side, and be restored both."""
    command = "downscale in -o out --scales 2,4 --otherwise copy --min-psnr"
    ended(run(f"{command} 41"), 0)
    of_others = ["out/mine_down2.png", "out/photo_down8.png"]
    for name in of_others:
        Path(name).write_bytes(b"another's")
    before = ["out/photo_down2.png", "out/sub/noise.webp", "out/wave_down4.png"]
    made = ["out/photo_down4.png", "out/sub/noise_down4.png", "out/wave_down4.png"]
    assert [name for name in files() if name.startswith("out")] == sorted([*of_others, *before])
    run(f"{command} 1")
    assert [name for name in files() if name.startswith("out")] == sorted([*of_others, *before])
    result = ended(run(f"{command} 1 --force"), 0)
    assert "photo.webp: warning: removed out/photo_down2.png, which out/photo_down4.png replaces\n" in result.stderr
    assert [name for name in files() if name.startswith("out")] == sorted([*of_others, *made])
    for name in ("photo", "sub/noise"):
        later = Path(f"out/{name}_down4.png").stat().st_mtime + 10
        os.utime(f"in/{name}.webp", (later, later))
    rows = [json.loads(row) for row in run(f"{command} 41 --update --json").stdout.splitlines()]
    assert [row["code"] for row in rows] == ["done", "done", "exists"]
    assert "removed out/sub/noise_down4.png, which out/sub/noise.webp replaces" in rows[1]["warnings"]
    assert [name for name in files() if name.startswith("out")] == sorted([*of_others, *before])


@pytest.mark.usefixtures("of_each_kind")
def test_where_all_factors_have_one_name_it_is_kept(run: Run) -> None:
    command = "downscale in/photo.webp -o out/a.png --min-psnr 1 --scales 2,4"
    for _ in range(2):
        ended(run(f"{command} --force"), 0)
        assert Path("out/a.png").is_file()


@pytest.mark.usefixtures("of_each_kind")
def test_what_is_to_be_copied_without_several_factors(run: Run) -> None:
    rows = run("downscale in -o out --min-psnr 41 --otherwise copy --json").stdout.splitlines()
    assert [Path(json.loads(row)["outputs"][0]).name for row in rows] == ["photo.webp", "noise.webp", "wave_down4.png"]
    assert json.loads(rows[1])["output_bytes"] == Path("in/sub/noise.webp").stat().st_size


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--scales 4,2", "give that, too"),
        ("--otherwise copy", "give that, too"),
        ("--min-psnr 30 --scales 4,3", "'3' is not one of"),
        ("--min-psnr 30 --scales 8,4", "no weights for 8x are shipped"),
        ("--min-psnr 30 --scales 4,2 -s 4", "leave out --scale and --model"),
        ("--min-psnr 30 --scales 4,2 --keep-latent -o out", "--keep-latent restores every bit"),
        ("--min-psnr 30 --otherwise copy", "another directory"),
        ("--min-psnr 30 --otherwise copy -o b.png", "another directory"),
        ("--min-psnr 30 --otherwise copy -o out/ --strip", "it excludes --strip"),
    ],
)
def test_factors_that_do_not_fit(run: Run, options: str, told: str) -> None:
    photo("a.png")
    ended(run(f"downscale a.png {options}"), 2, told=told)
    assert files() == ["a.png"]


def test_refining(run: Run) -> None:
    photo("photo.png", 70, 66)
    found = json.loads(run("downscale photo.png --refine 2 --verify --json").stdout)
    assert found["psnr_rgb"] >= found["unrefined_psnr_rgb"] > 0
    assert found["psnr_y"] > 0 < found["unrefined_psnr_y"]
    without = json.loads(run("downscale photo.png -o b.png --verify --json").stdout)
    assert without["psnr_rgb"] == found["unrefined_psnr_rgb"]
    assert "unrefined_psnr_y" not in without
    ended(run("downscale photo.png --refine 2 -o c.png"), 0, told="dB RGB; before refinement")
    assert np.array_equal(read("c.png").pixels, read("photo_down4.png").pixels)
    ended(run("upscale c.png"), 0)


def test_refine_without_its_number(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    downscale = Rescaler.downscale

    def watched(self: Rescaler, picture: Picture, *, refine: int, **options: Any) -> Picture:
        asked.append(refine)
        return downscale(self, picture, **options)

    monkeypatch.setattr(Rescaler, "downscale", watched)
    photo("a.png")
    for arguments in ("--refine a.png", "a.png --refine", "--refine -q a.png", "--refine 5 a.png", "--refine=0 a.png"):
        ended(run(f"downscale --force {arguments}"), 0)
    assert asked == [10, 10, 10, 5, 0]
    ended(run("downscale -- --refine"), 1, told="no such file or directory: --refine\n")
    ended(run("downscale --refine=many a.png"), 2, told="--refine")
    ended(run("downscale --refine 1001 a.png"), 2, told="1001 is not in the range 0<=x<=1000")
    ended(run("downscale --refine -3 a.png"), 2, told="-3")


def test_artifacts(run: Run, tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    save_model(tmp_path / "bad.safetensors", tiny_model(4, seed=5))
    photo("a.png", 60, 80)
    command = f"downscale a.png --force -m {tmp_path / 'bad.safetensors'}"
    ended(run(command), 0, told="warning: coloured blotch in the small picture at x")
    Path("a_down4.png").unlink()
    ended(run(f"{command} --on-artifact fail"), 1, told="failed: coloured blotch")
    told = ended(run(f"{command} --min-psnr 99"), 1, told="below 99 dB: not written").stderr
    assert "blotch" not in told  # there is no such small picture
    assert files() == ["a.png"]
    ended(run(f"{command} --on-artifact bicubic"), 0, told="bicubic picture blended in there")


def test_strip(run: Run) -> None:
    exif = Image.Exif()
    exif[0x013B] = "Ada"
    info = PngImagePlugin.PngInfo()
    info.add_text("Copyright", "Ada")
    Image.fromarray(photo_like(9, 9)).save("a.png", exif=exif, dpi=(90, 90), pnginfo=info)
    ended(run("downscale a.png -o a.webp"), 0, told="left out, for a WebP cannot hold it: Copyright")
    run("downscale a.png")
    assert b"Ada" in read("a_down4.png").exif
    run("upscale a_down4.png")
    assert b"Ada" in read("a_up4.png").exif
    run("upscale a_down4.png --strip -o s.png")
    run("downscale a.png --strip --force")
    for name in ("s.png", "a_down4.png"):
        picture = read(name)
        assert (picture.exif, picture.dpi, picture.chunks) == (None, None, ())
        assert picture.record


# What upscale is given ------------------------------------------------------------------------------------------------


def test_foreign_pictures_need_a_scale_and_are_warned_of(run: Run) -> None:
    photo("a.png", 5, 7)
    ended(run("upscale a.png"), 1, told="failed: no usable record of irn: foreign, or stripped; --scale and --size")
    result = ended(run("upscale a.png -s 2"), 0, told="warning: no record of irn: foreign, or stripped; if irn made it")
    assert result.stderr.count("warning") == 1
    assert read("a_up2.png").size == (10, 14)


def test_without_its_record_a_picture_is_restored_as_well_as_ever(run: Run) -> None:
    photo("a.png", 66, 71)  # below 64 pixels its border would have to be known too
    run("downscale a.png")
    run("upscale a_down4.png -o whole.png")
    with Image.open("a_down4.png") as image:
        Image.fromarray(np.asarray(image)).save("stripped.png")  # as editors do
    told = "stripped.png: warning: no record of irn: taken for what irn-x4 makes of 71x66"
    result = ended(run("upscale stripped.png -s 4 --size 71x66"), 0, told=told)
    assert result.stderr.count("warning") == 1
    assert np.array_equal(read("stripped_up4.png").pixels, read("whole.png").pixels)
    ended(
        run("upscale stripped.png -s 4 --size 71x64 --force"),
        1,
        told="--size 71x64 becomes 18x16 at 4x, but the picture is 18x17",
    )
    ended(run("upscale stripped.png --size 71x66"), 2, told="--size is for pictures without a record")
    ended(run("upscale stripped.png -s 4 --size 71"), 2, told="expected WIDTHxHEIGHT, as 640x427, not '71'")
    ended(run("upscale a_down4.png -s 4 --size 71x66 -o b.png"), 0)
    ended(run("upscale a_down4.png -s 4 --size 72x66 -o c.png"), 1, told="its record says that the original is 71x66")


def test_a_foreign_text_of_our_key_is_no_record(run: Run) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("irn", "International Reference Number 7")
    Image.fromarray(photo_like(9, 13)).save("a.png", pnginfo=info)
    assert "warning" not in ended(run("downscale a.png"), 0).stderr
    ended(run("upscale a_down4.png"), 0)
    for name in ("a_down4.png", "a_up4.png"):
        assert [text(chunk) for chunk in read(name).chunks] == ["International Reference Number 7"]
    assert read("a_up4.png").size == (9, 13)


def test_right_weights_are_found_by_their_hash(
    run: Run, tmp_path: Path, tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "mine.safetensors"
    save_model(other, tiny_model(4, seed=9))
    photo("a.png")
    run(f"downscale a.png -m {other}")
    ended(run("upscale a_down4.png"), 0, told="warning: made with mine revision 1")
    monkeypatch.setenv("IRN_WEIGHTS", f"{os.environ['IRN_WEIGHTS']}{os.pathsep}{other.parent}")
    result = ended(run("upscale a_down4.png --force"), 0)
    assert "warning" not in result.stderr
    assert read("a_up4.png").record.model == "mine"
    ended(run("upscale a_down4.png --force -m irn-x2"), 1, told="irn-x2 makes pictures 2 times larger, not 4")
    ended(run(f"downscale a.png -s 2 -m {other}"), 2, told="mine makes pictures 4 times smaller, not 2")
    ended(run("downscale a.png -s 8"), 2, told="no weights for 8x are shipped")
    for command in ("downscale a.png", "upscale a_down4.png"):
        ended(run(f"{command} -m nonsense"), 2, told="no model named 'nonsense'")
        ended(run(f"{command} -m a.png"), 2, told="a.png is not a weights file: expected .safetensors, or .pth for")


def test_changed_pixels_are_warned_of(run: Run) -> None:
    photo("a.png")
    run("downscale a.png")
    small = read("a_down4.png")
    small.pixels[0, 0] ^= 1
    write("a_down4.png", small, overwrite=True)
    result = ended(run("upscale a_down4.png"), 0, told="a_down4.png: warning: its pixels have changed")
    assert result.stderr.count("warning") == 1


@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_numbers_that_mean_nothing(run: Run, number: str) -> None:
    photo("a.png")
    ended(run(["downscale", "a.png", "--min-psnr", number]), 2, told="--min-psnr")
    ended(run(["upscale", "a.png", "-s", "2", "--temperature", number]), 2, told="--temperature")
    assert files() == ["a.png"]


# Many pictures --------------------------------------------------------------------------------------------------------


def test_a_tree_is_mirrored(run: Run) -> None:
    for name in ("a.jpg", "x/b.png", "x/y/c d.webp", "x/notes.png.txt", ".hidden/h.png", "x/.h.png"):
        photo(f"in/{name}.png").rename(f"in/{name}")
    ended(run("downscale in -o out"), 0, told="3 done in")
    small = ["out/a_down4.png", "out/x/b_down4.png", "out/x/y/c d_down4.png"]
    assert [name for name in files() if name.startswith("out")] == small
    ended(run("upscale out -o back"), 0, told="3 done in")
    assert [name for name in files() if name.startswith("back")] == [
        "back/a_up4.png", "back/x/b_up4.png", "back/x/y/c d_up4.png"
    ]  # fmt: skip


def test_patterns_lists_and_names_are_mirrored(run: Run) -> None:
    for name in ("x/a.png", "x/y/b.png", "z/c.png"):
        photo(f"in/{name}")
    ended(run(["downscale", "in/x/**/*.png", "-o", "out1"]), 0)
    ended(run("downscale in/x/a.png in/x/y/b.png in/z/c.png -o out2"), 0)
    Path("list").write_text("in/x/a.png\r\nin/x/y/b.png\n\nin/z/c.png")
    ended(run("downscale --files-from list -o out3"), 0)
    zeros = b"in/x/a.png\0in/x/y/b.png\0in/z/c.png\0"
    ended(run("downscale --files-from - -0 -o out4", input=zeros), 0)
    expected = ["x/a_down4.png", "x/y/b_down4.png", "z/c_down4.png"]
    for number in (2, 3, 4):
        assert [name for name in files() if f"out{number}" in name] == [f"out{number}/{name}" for name in expected]
    assert [name for name in files() if "out1" in name] == ["out1/a_down4.png", "out1/y/b_down4.png"]


def test_outputs_are_never_inputs_again(run: Run) -> None:
    photo("a.png")
    ended(run("downscale ."), 0)
    ended(run("upscale ."), 0, told="a.png: skipped: no record of irn: foreign, or stripped")
    before = files()
    for renamed in ("a_down4.png", "a_up4.png"):  # known by their record, not by their name
        Path(renamed).rename(f"{renamed[:-4]} (1).png")
    ended(run("downscale . --force"), 0, told="2 skipped")
    ended(run(["upscale", ".", "--skip-existing"]), 0)
    assert before == ["a.png", "a_down4.png", "a_up4.png"]
    assert [name for name in files() if name not in before] == [
        "a_down4 (1).png", "a_down4 (1)_up4.png", "a_up4 (1).png"
    ]  # fmt: skip
    ended(run("downscale a_down4.png"), 1, told="nothing to do: irn made it (all of 1, the first is a_down4.png)")


def test_collisions_are_seen_before_anything_runs(run: Run) -> None:
    photo("in/a.png")
    photo("in/a.jpg")
    photo("b.png")
    ended(run("downscale b.png -o b.png --force"), 2, told="irn: b.png would be replaced: b.png is an input")
    ended(run("downscale in -o small.png"), 2, told="-o small.png names one file, for a folder or several inputs")
    told = "irn: out/x.png is what in/a.jpg becomes, and in/a.png too: put {stem} into --name\n"
    ended(run("downscale in -o out --name x{suffix}"), 2, told=told)
    assert files() == ["b.png", "in/a.jpg", "in/a.png"]


def test_an_input_that_comes_later_takes_no_earlier_ones_name(run: Run) -> None:
    photo("in/a.png")
    ended(run("downscale in -o small"), 0)
    ended(run("upscale small -o large"), 0)
    before = [Path(name).read_bytes() for name in ("small/a_down4.png", "large/a_up4.png")]
    photo("in/a.jpg", 24, 24)
    told = "in/a.jpg: warning: named a_jpg_down4.png, since small/a_down4.png is made from a.png\n"
    ended(run("downscale in -o small --skip-existing"), 0, told=told)
    photo("large/b.png").rename("small/a_down4.bmp")  # a foreign one
    told = "small/a_down4.bmp: warning: named a_bmp_up4.png, since large/a_up4.png is made from a.png\n"
    ended(run("upscale small/a_down4.bmp small/a_jpg_down4.png -s 4 -o large --force"), 0, told=told)
    ended(run("downscale in -o small --force"), 0)
    ended(run("upscale small -o large --force"), 0)
    assert [Path(name).read_bytes() for name in ("small/a_down4.png", "large/a_up4.png")] == before
    names = [name for name in files() if not name.startswith("in")]
    assert names == [
        "large/a_bmp_up4.png", "large/a_jpg_up4.png", "large/a_up4.png",
        "small/a_down4.bmp", "small/a_down4.png", "small/a_jpg_down4.png",
    ]  # fmt: skip
    ended(run("upscale small/a_down4.png -o stripped/ --strip"), 0)
    assert read("stripped/a_up4.png").record.name == ""
    assert [read(f"large/{name}_up4.png").record.name for name in ("a", "a_bmp")] == ["a.png", "a_down4.bmp"]


def test_inputs_of_one_name_get_names_that_keep_both(run: Run) -> None:
    for name in ("a.jpg", "a.png", "a.TIF", "b.png"):
        photo(f"in/{name.lower()}").rename(f"in/{name}")
    Path("in/a.TIF").write_bytes(b"damaged")  # takes no name from a picture that can be read
    told = "in/a.png: warning: named a_png_down4.png, since small/a_down4.png is what in/a.jpg becomes\n"
    result = ended(run("downscale in -o small"), 1, told=told)
    assert "3 done, 1 failed" in result.stderr
    small = ["small/a_down4.png", "small/a_png_down4.png", "small/b_down4.png"]
    assert [name for name in files() if name.startswith("small")] == small
    before = [Path(name).read_bytes() for name in small]
    ended(run("downscale in -o small --force"), 1, told=told)
    assert [Path(name).read_bytes() for name in small] == before
    Path("in/a.TIF").unlink()
    assert "3 skipped" in ended(run("downscale in -o small --skip-existing"), 0).stderr
    photo("small/b_down4.tif")
    ended(run("upscale small -s 4 -o large --force"), 0, told="named b_tif_up4.png")
    large = ["large/a_png_up4.png", "large/a_up4.png", "large/b_tif_up4.png", "large/b_up4.png"]
    assert [name for name in files() if name.startswith("large")] == large
    for place in ("in1", "in2", "in3"):
        photo(f"{place}/c.png")
    told = "in3/c.png: failed: small/c_down4.png is what in1/c.png becomes: give this one another -o\n"
    ended(run("downscale in1 in2 in3 -o small"), 1, told=told)


@pytest.mark.parametrize("step", ["irn_cli.inputs.os.scandir", "irn_cli.inputs.peek"])
def test_a_folder_removed_while_it_is_read_fails_alone(run: Run, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    photo("in/a/one.png", 8, 8)
    photo("in/b/two.png", 8, 8)
    photo("in/c/three.png", 8, 8)
    original = {"scandir": os.scandir, "peek": peek}[step.rpartition(".")[2]]

    def removing(path: Path) -> object:
        if str(path).startswith("in/b") and Path("in/b").exists():
            Path("in/b").rename("elsewhere")
        return original(path)

    monkeypatch.setattr(step, removing)
    result = ended(run("downscale in -o out"), 1, told="2 done, 1 failed")
    assert "no such file: in/b" in result.stderr
    assert sorted(path.name for path in Path("out").rglob("*.png")) == ["one_down4.png", "three_down4.png"]


@pytest.mark.parametrize("command", ["downscale in -o out", "upscale in -s 2 -o out"])
def test_what_has_changed_since_is_told_and_renewed_when_asked(run: Run, command: str) -> None:
    photo("in/a.png")
    photo("in/b.png")
    ended(run(f"{command} --skip-existing"), 0, told="2 done")
    out = sorted(Path("out").iterdir())
    photo("in/a.png", seed=1)
    os.utime("in/a.png", (out[0].stat().st_mtime + 10,) * 2)
    before = [path.read_bytes() for path in out]
    told = f"in/a.png: skipped: {out[0]} exists already, but in/a.png has changed since: --update renews it\n"
    ended(run(f"{command} --skip-existing"), 0, told=told)
    assert [path.read_bytes() for path in out] == before
    result = ended(run(f"{command} --update"), 0, told=f"in/b.png: skipped: {out[1]} exists already\n")
    assert "1 done, 1 skipped" in result.stderr
    assert [path.read_bytes() == old for path, old in zip(out, before, strict=True)] == [False, True]


@pytest.mark.parametrize("name", ["x" * 251, "\u3042" * 82])
def test_a_name_that_becomes_too_long_fails_alone(run: Run, name: str) -> None:
    for each in ("a", name, "z"):
        photo(f"in/{each}.png")
    result = ended(
        run("downscale in -o out"), 1, told=f"failed: cannot write out/{name}_down4.png: File name too long\n"
    )
    assert "2 done, 1 failed" in result.stderr
    assert "out/z_down4.png" in files()


def test_a_directory_whose_name_a_file_has_fails_alone(run: Run) -> None:
    for name in ("a/1.png", "b/1.png"):
        photo(f"in/{name}")
    Path("out").mkdir()
    Path("out/a").write_text("in the way")
    told = f"failed: cannot write out/a/1_down4.png: {Path('out/a').absolute()} is not a directory\n"
    assert "1 done, 1 failed" in ended(run("downscale in -o out"), 1, told=told).stderr


def test_links_that_lead_to_themselves_fail_alone(run: Run) -> None:
    for name in ("a.png", "b.png", "in/c.png"):
        photo(name)
    Path("loop.png").symlink_to("loop.png")
    Path("in/nowhere.png").symlink_to("none")
    Path("out").mkdir()
    Path("out/b_down4.png").symlink_to("b_down4.png")
    result = ended(run("downscale a.png b.png in loop.png -o out"), 1, told="2 done, 3 failed in")
    for told in (
        "failed: loop.png is a link that leads nowhere\n",
        "failed: in/nowhere.png is a link that leads nowhere\n",
        "b.png: failed: out/b_down4.png exists already",
    ):
        assert told in result.stderr


def test_lists_with_zero_bytes_are_told_of_the_option(run: Run) -> None:
    photo("a.png")
    listed = {"input": b"a.png\0b.png\0"}
    told = "irn: a name with zero bytes in it: -0 reads lists that `find -print0` writes\n"
    ended(run("downscale --files-from - -o out/", **listed), 1, told=told)
    ended(run("downscale a.png --files-from - -o out/", **listed), 1, told="1 done, 1 failed")


@pytest.mark.parametrize("option", ["-o", "-m", "--name", "--shard", "--files-from", "--memory"])
def test_an_empty_value_is_wrong_usage(run: Run, option: str) -> None:
    photo("a.png")
    ended(run(["downscale", "a.png", option, ""]), 2, told="expected a value, not an empty one")
    assert files() == ["a.png"]


def test_what_an_inputs_link_leads_to_is_not_replaced(run: Run) -> None:
    original = photo("a.png").read_bytes()
    Path("link.png").symlink_to("a.png")
    ended(run("downscale link.png -o a.png --force"), 2, told="link.png would be replaced: a.png is an input")
    assert Path("a.png").read_bytes() == original
    ended(run("downscale link.png"), 0)  # it may be an input, and have a result beside it
    assert "link_down4.png" in files()


def test_pipes_and_devices_are_told_and_do_not_stop_the_rest(run: Run) -> None:
    photo("a.png")
    os.mkfifo("b.png")
    ended(run("downscale --files-from - -o out/", input="b.png\na.png\n"), 1, told="1 done, 1 failed")
    ended(run("downscale a.png -o b.png --force"), 1, told="b.png: it is a device, a pipe or a socket, not a file")
    ended(run("downscale --files-from b.png"), 1, told="cannot read b.png: it is a device, a pipe or a socket")
    ended(run("upscale out/a_down4.png --latent b.png"), 1, told="cannot read b.png: it is a device, a pipe")
    assert Path("b.png").is_fifo()


def test_a_list_from_a_shells_pipe_is_read() -> None:
    photo("a.png")
    command = f"{sys.executable} -m irn_cli downscale --files-from <(echo a.png)"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr


def test_a_scale_that_is_not_the_pictures_own_is_refused(run: Run) -> None:
    photo("a.png")
    run("downscale a.png")
    ended(run("upscale a_down4.png -s 2"), 1, told="failed: irn made it 4 times smaller, not 2: leave --scale out\n")
    ended(run("upscale a_down4.png -s 4"), 0)


@pytest.mark.parametrize("place", [[], ["-o", "in/there"]])
def test_a_folder_that_holds_its_results_goes_on_and_is_done_again(run: Run, place: list[str]) -> None:
    photo("in/a.png")
    ended(run(["downscale", "in", *place]), 0, told="in/a.png -> in/")
    photo("in/b.png")
    for command in ("downscale", "upscale"):
        ended(run([command, "in", *place, "--skip-existing"]), 0)
        ended(run([command, "in", *place]), 1, told="exists already (--force")
        ended(run([command, "in", *place, "--skip-existing"]), 0)
        ended(run([command, "in", *place, "--force"]), 0, told="2 done, ")


def test_pictures_that_irn_does_not_read_are_told(run: Run) -> None:
    photo("in/a.png")
    for name in ("e.jp2", "c.cr2", "notes.txt", ".hidden.heic"):
        Path("in", name).write_bytes(b"foreign")
    photo("thumbnail.tif").rename("in/d.dng")  # what Pillow finds in a raw file is its thumbnail
    result = ended(run("downscale in"), 0, told="in/e.jp2: skipped: irn does not read .jp2\n")
    assert "1 done, 3 skipped" in result.stderr
    Path("in/a.png").unlink()
    ended(run("upscale in --force"), 0, told="in/c.cr2: skipped: irn does not read .cr2\n")
    ended(run("downscale in/e.jp2"), 1, told="in/e.jp2 is not a picture that irn reads")


def test_nothing_is_overwritten_unless_forced(run: Run) -> None:
    photo("in/a.png")
    photo("in/b.png", seed=1)
    Path("out").mkdir()
    Path("out/a_down4.png").write_bytes(b"precious")
    result = ended(run("downscale in -o out"), 1, told="failed: out/a_down4.png exists already (--force replaces it, ")
    assert "in/b.png -> out/b_down4.png" in result.stderr
    assert "1 done, 1 failed" in result.stderr
    ended(run("downscale in -o out --skip-existing"), 0, told="2 skipped")
    assert Path("out/a_down4.png").read_bytes() == b"precious"
    ended(run("downscale in -o out --force"), 0, told="2 done")
    assert isinstance(read("out/a_down4.png").record, Record)
    ended(run("downscale in --force --skip-existing"), 2, told="exclude each other")
    ended(run("downscale in -0"), 2, told="it needs --files-from")
    Path("in/a_down4.png").write_bytes(b"precious")
    told = "in/a.png: warning: named a_png_down4.png, since in/a_down4.png is an input\n"
    ended(run("downscale in --force"), 1, told=told)
    assert Path("in/a_down4.png").read_bytes() == b"precious"
    assert isinstance(read("in/a_png_down4.png").record, Record)


def test_what_cannot_be_written_is_told_before_the_network_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    photo("a.png")
    Path("taken").write_text("a file")
    monkeypatch.setattr(Rescaler, "downscale", lambda *_, **__: pytest.fail("this would have been minutes of work"))
    ended(run("downscale a.png -o taken/a_down4.png"), 1, told="cannot write taken/a_down4.png: ")
    Path("b_down4.png").mkdir()
    photo("b.png")
    ended(run("downscale b.png --force"), 1, told="cannot write b_down4.png: it is a directory")


def test_one_failure_is_told_and_the_rest_goes_on(run: Run) -> None:
    for number in range(4):
        photo(f"in/{number}.png", seed=number)
    whole = Path("in/1.png").read_bytes()
    Path("in/1.png").write_bytes(whole[: len(whole) // 2])
    Path("in/2.png").write_text("text")
    result = ended(run("downscale in -o out"), 1, told="2 done, 2 failed in")
    assert "failed: cannot read in/1.png: " in result.stderr
    assert "failed: in/2.png is not a picture" in result.stderr
    assert [name for name in files() if "out" in name] == ["out/0_down4.png", "out/3_down4.png"]


def test_json_tells_the_same(run: Run) -> None:
    photo("in/a.png")
    photo("in/é\n.png")
    Path("in/c.png").write_text("text")
    result = run("downscale in -o out --json --verify")
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["source"], row["status"]) for row in rows] == [
        ("in/a.png", "done"), ("in/c.png", "failed"), ("in/é\n.png", "done")
    ]  # fmt: skip
    assert rows[0]["input_size"] == [28, 20]
    assert rows[0]["output_size"] == [7, 5]
    assert rows[0]["psnr_rgb"] > 0
    assert 0 < rows[0]["delta_e"] < rows[0]["delta_e_95"]
    assert "not a picture" in rows[1]["reason"]
    assert result.stderr == ""


def test_quiet_leaves_only_failures(run: Run) -> None:
    photo("a.png")
    assert run("downscale a.png -q").stderr == ""
    assert run("downscale a.png -q").stderr.count("\n") == 1


def test_shards_are_the_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        photo(f"in/{number}.png")
    ended(run("downscale in -o out --shard 1/2"), 0, told="3 done")
    ended(run("downscale in -o out --shard 2/2"), 0, told="2 done")
    assert len([name for name in files() if "out" in name]) == 5
    ended(run("downscale in --shard 3/2"), 2, told="expected a share from 1 to 2, not 3")
    ended(run("downscale in --shard two"), 2, told="expected I/N")
    ended(run("downscale in --shard slurm"), 2, told="SLURM_ARRAY_TASK_ID is not set")
    for name, value in {"ID": "14", "MIN": "10", "STEP": "2", "COUNT": "three"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    ended(run("downscale in --shard slurm"), 2, told="expected whole numbers in SLURM_ARRAY_TASK_ID, ")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    ended(run("downscale in -o slurm --shard slurm"), 0, told="in/2.png -> ")
    assert [name for name in files() if "slurm" in name] == ["slurm/2_down4.png"]
    ended(run("downscale in -o plain"), 0, told="5 done")  # Slurm's variables alone change nothing


# Names and places -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b.png", "new\nline.png", "über 写真.png", "-dash.png", "[1].png", "a'\"$x.png"])
def test_odd_names(run: Run, name: str) -> None:
    photo(name)
    result = ended(run(["downscale", "--", name]), 0)
    assert result.stderr.count("\n") == 1
    small = Path(name).stem + "_down4.png"
    ended(run(["upscale", "--", small]), 0)
    assert Path(Path(name).stem + "_up4.png").is_file()


def test_names_that_are_not_unicode(run: Run) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    photo(name)
    ended(run(["downscale", "."]), 0)
    assert Path(os.fsdecode(b"caf\xe9_down4.png")).is_file()


@pytest.mark.parametrize(("shape", "small"), [((1, 1), (1, 1)), ((1, 5000), (1, 1250)), ((5000, 1), (1250, 1))])
def test_odd_sizes(run: Run, shape: tuple[int, int], small: tuple[int, int]) -> None:
    photo("a.png", *shape)
    ended(run("downscale a.png"), 0)
    assert read("a_down4.png").size == small
    ended(run("upscale a_down4.png"), 0)
    assert read("a_up4.png").size == shape


def test_what_is_not_there(run: Run) -> None:
    Path("empty").mkdir()
    ended(run("downscale none.png"), 1, told="no such file or directory: none.png")
    os.mkfifo("pipe")
    ended(run("downscale pipe"), 1, told="pipe is neither a file nor a directory")
    ended(run("downscale empty"), 1, told="no pictures in empty")
    ended(run(["downscale", "*.jpg"]), 1, told="no file matches *.jpg")
    ended(run("downscale --files-from none"), 1, told="cannot read none")
    ended(run("downscale"), 2, told="Missing argument")
    Path("list").write_text("none.png\n")
    ended(run("downscale --files-from list"), 1, told="failed: no such file: none.png")


def test_standard_streams_beside_files(run: Run) -> None:
    data = photo("in/a.png").read_bytes()
    photo("in/b.png", seed=1)
    ended(run("downscale - in/a.png in/b.png -o out", input=data), 0, told="3 done")
    assert [name for name in files() if name.startswith("out")] == [
        "out/-_down4.png", "out/a_down4.png", "out/b_down4.png"
    ]  # fmt: skip
    ended(run("downscale in/a.png in/b.png -o -"), 2, told="standard output takes one picture")


def test_what_is_not_there_does_not_stop_the_rest(run: Run) -> None:
    photo("a.png")
    Path("empty").mkdir()
    result = ended(
        run(["downscale", "none.png", "empty", "*.jpg", "", "a.png", "-o", "out"]), 1, told="1 done, 4 failed"
    )
    for told in ("no such file or directory: none.png", "no pictures in empty", "no file matches *.jpg"):
        assert f"failed: {told}\n" in result.stderr
    assert files() == ["a.png", "out/a_down4.png"]


def test_a_record_that_cannot_be_read_is_told(run: Run) -> None:
    photo("a.png")
    ended(run("downscale a.png -o small/"), 0)
    image = Image.open("small/a_down4.png")
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("irn", image.info["irn"].replace('"irn":1', '"irn":4'))
    image.save("small/a_down4.png", pnginfo=chunks)
    ended(run("upscale small"), 1, told="warning: a record of format 4: a newer irn is needed")


def test_a_picture_lies_in_the_network_as_it_restores_best(run: Run) -> None:
    originals = [photo(f"{seed}.png", 64, 72, seed) for seed in range(4)]

    def restored(options: str) -> list[float]:
        ended(run(f"downscale 0.png 1.png 2.png 3.png -o small --force {options}"), 0)
        ended(run("upscale small -o large --force"), 0)
        found = [Psnr.of(read(path).pixels, read(f"large/{path.stem}_up4.png").pixels) for path in originals]
        return [one.luma + one.rgb for one in found]

    plain, best = restored(""), restored("--orientations 8")
    orientations = [one.record.orientation for one in (read(f"small/{k}_down4.png") for k in range(4))]
    assert set(orientations) != {1}
    for one, other, k, path in zip(plain, best, orientations, sorted(Path("small").iterdir()), strict=True):
        assert other > one if k > 1 else other == one
        told = run(["info", str(path)]).output
        assert (f"  orientation in the network: {k} of EXIF's 8\n" in told) == (k > 1)


def test_json_is_strict(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    photo("a.png")
    monkeypatch.setattr(Rescaler, "verify", lambda *_: Fidelity(math.inf, 50.0, ColourDifference(1.0, 3.0)))
    result = run("downscale a.png --verify --json")
    assert result.exit_code == 0
    found = json.loads(result.stdout, parse_constant=lambda word: pytest.fail(f"JSON has no {word}"))
    assert (found["psnr_y"], found["psnr_rgb"]) == (None, 50)


def test_a_place_that_cannot_be_written(run: Run) -> None:
    photo("a.png")
    Path("file").write_text("")
    ended(run("downscale a.png -o file/b.png"), 1, told="cannot write file/b.png")
    Path("place.png").mkdir()
    ended(run("downscale a.png -o place.png"), 0)  # a directory takes the picture in
    assert Path("place.png/a_down4.png").is_file()


def test_too_many_pixels(run: Run) -> None:
    photo("a.png")
    ended(
        run("downscale a.png --max-pixels 100"),
        1,
        told="a.png is too large: 28x20 is 560 pixels, the limit is 100 (--max-pixels raises it)",
    )


# A process of its own: full disks and signals -------------------------------------------------------------------------


def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "irn_cli", *arguments], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True, **options)  # fmt: skip


def test_unreadable_and_unwritable() -> None:
    photo("a.png").chmod(0)
    photo("b.png")
    Path("closed").mkdir(mode=0o555)
    photo("in/hidden/c.png").parent.chmod(0)
    Path("open").mkdir()
    Path("open").chmod(0o777)
    process = start("downscale", "a.png", "in", "-o", "open", preexec_fn=without_privileges)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "failed: cannot read in/hidden: Permission denied\n" in errors
    assert "failed: cannot read a.png: Permission denied\n" in errors
    process = start("downscale", "b.png", "-o", "closed/b.png", preexec_fn=without_privileges)
    _, errors = process.communicate(timeout=60)
    Path("in/hidden").chmod(0o755)
    assert process.returncode == 1
    closed = Path("closed").absolute()
    assert f"failed: cannot write closed/b.png: no permission to write in {closed}\n" in errors
    assert not list(Path("closed").iterdir())


def test_what_lies_where_nothing_may_be_searched() -> None:
    photo("in/a.png").parent.chmod(0)
    process = start("downscale", "in/a.png", preexec_fn=without_privileges)
    _, errors = process.communicate(timeout=60)
    Path("in").chmod(0o755)
    assert (process.returncode, errors.count("\n")) == (1, 1)
    assert "in/a.png" in errors


def test_closed_places_in_the_middle_of_a_tree() -> None:
    """Each is a line, and all other pictures are done."""
    for name in ("a", "closed/b", "listed/c", "sub/d", "z"):
        photo(f"in/{name}.png")
    photo("in/secret.png").chmod(0)
    Path("out/sub").mkdir(parents=True)
    modes = {"in/closed": 0, "in/listed": 0o444, "out/sub": 0o555}
    for directory, mode in modes.items():
        Path(directory).chmod(mode)
    try:
        tree = start("downscale", "in", "-o", "out", "-q", preexec_fn=without_privileges)
        errors = tree.communicate(timeout=60)[1].splitlines()
        pattern = start("downscale", "in/*/*.png", "-o", "other", "-q", preexec_fn=without_privileges)
        told = pattern.communicate(timeout=60)[1]
    finally:
        for directory in modes:
            Path(directory).chmod(0o755)
    place = Path("out/sub").absolute()
    assert (tree.returncode, errors) == (1, [
        "failed: cannot read in/closed: Permission denied",
        "failed: cannot read in/listed/c.png: Permission denied",
        "failed: cannot read in/secret.png: Permission denied",
        f"in/sub/d.png: failed: cannot write out/sub/d_down4.png: no permission to write in {place}",
    ])  # fmt: skip
    assert (pattern.returncode, told) == (1, "failed: cannot read in/listed/c.png: Permission denied\n")
    written = [name for name in files() if name.startswith(("o", "x"))]
    assert written == ["other/sub/d_down4.png", "out/a_down4.png", "out/z_down4.png"]


def test_a_full_disk_leaves_no_half_file() -> None:
    photo("in/a.png", 300, 400)
    photo("in/b.png", 4, 4)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

    process = start("downscale", "in", "-o", "out", preexec_fn=limit)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "in/a.png: failed: cannot write out/a_down4.png: File too large" in errors
    assert "1 done, 1 failed" in errors
    assert output == ""
    assert [name for name in files() if "out" in name] == ["out/b_down4.png"]


@pytest.fixture
def many_pictures() -> None:
    for number in range(60):
        photo(f"in/{number:02}.png", 200, 300, seed=number)


def wait_for_first(process: subprocess.Popen[str]) -> Iterator[None]:
    deadline = time.monotonic() + 60
    while not list(Path().glob("out/*.png")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield


@pytest.mark.usefixtures("many_pictures")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruption_is_quick_and_leaves_whole_files_only(number: signal.Signals) -> None:
    process = start("downscale", "in", "-o", "out")
    next(wait_for_first(process))
    process.send_signal(number)
    begin = time.monotonic()
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert time.monotonic() - begin < 5
    assert errors.endswith("irn: interrupted\n")
    assert "Traceback" not in errors
    assert output == ""
    written = list(Path("out").iterdir())
    assert 0 < len(written) < 60
    for path in written:
        assert isinstance(read(path).record, Record)
    assert errors.splitlines()[-3].startswith(f"{len(written)} done of 60 in ")


@pytest.mark.usefixtures("many_pictures")
def test_a_killed_run_leaves_no_half_file_and_is_resumed(run: Run) -> None:
    process = start("downscale", "in", "-o", "out")
    next(wait_for_first(process))
    process.kill()
    process.communicate()
    written = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    assert 0 < len(written) < 60
    for path in written:
        assert isinstance(read(path).record, Record)
    ended(run("downscale in -o out --skip-existing"), 0, told=f"{60 - len(written)} done, {len(written)} skipped")
    assert len(list(Path("out").glob("*_down4.png"))) == 60
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())


@pytest.mark.parametrize(
    ("command", "closed", "told"),
    [
        ("irn downscale a.png -o -", ">&-", "irn: standard output is closed"),
        ("irn downscale a.png --json", ">&-", "irn: standard output is closed"),
        ("irn downscale a.png --dry-run", ">&-", "irn: standard output is closed"),
        ("irn train --data . --dry-run", ">&-", "irn: standard output is closed"),
        ("irn weights list", ">&-", "irn: standard output is closed"),
        ("irn weights show irn-x2", ">&-", "irn: standard output is closed"),
        ("irn --version", ">&-", "irn: standard output is closed"),
        ("irn eval --data . --baseline area --json -", ">&-", "irn: standard output is closed"),
        ("irn downscale - -o b.png", "<&-", "-: failed: standard input is closed"),
        ("irn downscale --files-from - -o out/", "<&-", "irn: standard input is closed"),
        ("irn downscale a.png -o -", ">/dev/full", "a.png: failed: No space left on device"),
        ("irn downscale a.png --json", ">/dev/full", "irn: No space left on device"),
    ],
)
def test_streams_that_are_closed_or_full_are_one_line(command: str, closed: str, told: str) -> None:
    photo("a.png")
    command = f"unset PYTHONUNBUFFERED; {command.replace('irn', f'{sys.executable} -m irn_cli', 1)} {closed}"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{told}\n")


@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&-", "2>&1 | true", "2</dev/null"])
def test_messages_that_nobody_gets_stop_nothing(stream: str) -> None:
    for name in "abc":
        photo(f"in/{name}.png")
    command = f"set -o pipefail; {sys.executable} -m irn_cli downscale in -o out {stream}"
    done = subprocess.run(["bash", "-c", command], check=False)
    assert done.returncode == 0
    assert [name for name in files() if "out" in name] == [f"out/{name}_down4.png" for name in "abc"]
    wrong = subprocess.run(["bash", "-c", command.replace("downscale", "nonsense")], check=False)
    assert wrong.returncode == 2


def test_names_that_the_terminal_does_not_know_are_shown_as_escapes() -> None:
    photo("日\udce9.png")
    done = subprocess.run(
        [sys.executable, "-m", "irn_cli", "info", "日\udce9.png"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(r"\u65e5\udce9.png: PNG")


def test_several_runs_into_one_folder_share_the_work() -> None:
    for number in range(6):
        photo(f"in/{number}.png", 40 + number, 48)
    runs = [start("downscale", "in", "-o", "out", "--skip-existing", "--json") for _ in range(3)]
    made = []
    for process in runs:
        output, errors = process.communicate(timeout=100)
        assert (process.returncode, errors) == (0, "")
        rows = [json.loads(line) for line in output.splitlines()]
        assert [(row["status"], row["code"]) for row in rows if row["status"] != "done"] == [
            ("skipped", "exists") for row in rows if row["status"] != "done"
        ]
        assert len(rows) == 6
        made += [path for row in rows for path in row["outputs"]]
    assert sorted(made) == [f"out/{number}_down4.png" for number in range(6)]
    assert [name for name in files() if "out" in name] == sorted(made)


def test_a_reader_that_has_enough_ends_the_run_quietly() -> None:
    for number in range(3):
        photo(f"in/{number}.png", 50, 50)
    process = start("downscale", "in", "-o", "out", "--json")
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors


@pytest.mark.slow
def test_memory_stays_far_below_what_the_plain_network_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IRN_WEIGHTS")  # the shipped network, which needs 8 GB for this when run on the whole picture
    photo("a.jpg", 3000, 4000)
    # A process's peak counts that of the one which forked it: between this large one and irn stands a small one.
    measure = "import os, subprocess as s, sys; print(*os.wait4(s.Popen(sys.argv[1:]).pid, 0)[1:], sep='\\n')"
    for command in (["downscale", "a.jpg"], ["upscale", "a_down4.png"]):
        line = [sys.executable, "-c", measure, sys.executable, "-m", "irn_cli", *command]
        told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        status, usage = told.split("\n", 1)
        assert status == "0"
        assert int(usage.split("ru_maxrss=")[1].split(",")[0]) < 750_000, usage  # KiB
