"""What becomes of each input, decided before anything runs."""

import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irn_cli.batch.jobs import Job, Outcome
from irn_cli.batch.outputs import Outputs, check_output
from irn_cli.batch.plan import plan_downscale, plan_upscale, share
from irn_cli.errors import Code, InputError, UsageError
from irn_cli.image import Header, write
from irn_cli.inputs import STREAM, Input
from irn_cli.picture import Picture
from irn_cli.record import Record, Restored

SMALL = Record(4, 30, 20, "RGB", "irn-x4", "1", "0" * 64, "0" * 64)
LARGE = Restored(4, "irn-x4", "1", "0" * 64, 0, 1.0, 0)


def found(path: str, *, record: Record | Restored | None = None, named: bool = False, size: int = 8) -> Input:
    return Input(Path(path), Path(path).parent, named, Header((size, size), record))


def targets(plan: list[Job | Outcome]) -> list[list[str]]:
    return [[str(target) for target in item.targets] for item in plan if isinstance(item, Job)]


def test_where_results_go() -> None:
    one, many = [found("a.jpg", named=True)], [found("x/a.jpg"), found("b.png")]
    two = [found("a.jpg", named=True), found("b.jpg", named=True)]
    for inputs, output, expected in [
        (two, "out", [["out/a_down2.png"], ["out/b_down2.png"]]),
        (one, None, [["a_down2.png"]]),
        (one, "b.webp", [["b.webp"]]),
        (one, "new/", [["new/a_down2.png"]]),
        (one, "-", [["-"]]),
        (many, None, [["x/a_down2.png"], ["b_down2.png"]]),
        (many, "out", [["out/x/a_down2.png"], ["out/b_down2.png"]]),
    ]:
        assert targets(plan_downscale(inputs, Outputs(output), 2, keep_latent=False)) == expected
    assert targets(plan_downscale(one, Outputs(), 2, keep_latent=True)) == [
        ["a_down2.png", "a_down2.latent.safetensors"]
    ]
    (stream,) = plan_downscale([Input(STREAM, Path(), True, None)], Outputs(), 4, keep_latent=False)
    assert isinstance(stream, Job)
    assert stream.targets == (STREAM,)
    for inputs, output, words in [
        (many, "-", "takes one picture"),
        (many, "a.png", "names one file"),
        (one, "a.bmp", r"cannot write \.bmp; expected \.png, \.webp, \.tif or \.jxl"),
    ]:
        with pytest.raises(UsageError, match=words):
            plan_downscale(inputs, Outputs(output), 2, keep_latent=False)


def test_formats_and_names_that_are_asked_for() -> None:
    one, many = [found("a.jpg", named=True)], [found("x/a.jpg"), found("b.png")]
    for inputs, outputs, expected in [
        (one, Outputs(format="webp"), [["a_down4.webp"]]),
        (one, Outputs("out/", format="tiff", name="{stem}{suffix}"), [["out/a.tif"]]),
        (many, Outputs("out", name="{stem}-{scale}.webp"), [["out/x/a-4.webp"], ["out/b-4.webp"]]),
        (one, Outputs("-", format="webp"), [["-"]]),
    ]:
        assert targets(plan_downscale(inputs, outputs, 4, keep_latent=False)) == expected
    for outputs, words in [
        (Outputs("a.png", format="webp"), "a.png is named as a PNG, but --format asks for webp"),
        (Outputs(name="{name}.png"), "expected a name in which {stem}, {scale} and {suffix}"),
        (Outputs(name="{}"), "expected a name in which"),
        (Outputs(name="{stem"), "expected a name in which"),
        (Outputs(name="{stem.x}"), "expected a name in which"),
        (Outputs(name="../{stem}.png"), "without directories"),
        (Outputs(name="{stem}"), "what to write"),
        (Outputs(format="jpg"), "would be lost as JPEG"),
    ]:
        with pytest.raises(UsageError, match=re.escape(words)):
            plan_downscale(one, outputs, 4, keep_latent=False)
    (job,) = plan_downscale([found("a.png", named=True)], Outputs(name="{stem}{suffix}"), 4, keep_latent=False)
    assert isinstance(job, Job)
    assert job.targets == (Path("a_png.png"),)
    assert job.warnings == ("named a_png.png, since a.png is an input",)
    small = [found("a_down4.png", record=SMALL)]
    plan = plan_upscale(small, Outputs(format="avif", quality=50), None, samples=1, spread=False)
    assert targets(plan) == [["a_up4.avif"]]
    with pytest.raises(UsageError, match="--quality: a PNG loses nothing; --format jpg"):
        plan_upscale(small, Outputs(quality=50), None, samples=1, spread=False)


def test_originals_names() -> None:
    def planned(name: str, kind: str = "", **options: Any) -> list[str]:
        record = replace(SMALL, name=name, format=kind)
        inputs = [found("in/x_down4.png", record=record), found("in/y_down4.png", record=SMALL)]
        outputs = Outputs("out", original_names=True, **options)
        plan = plan_upscale(inputs, outputs, None, samples=1, spread=False)
        assert isinstance(plan[1], Job)
        assert plan[1].warnings == (f"its original's name is not known: named {plan[1].targets[0].name}",)
        return targets(plan)[0]

    assert planned("IMG_1.jpg", "jpeg") == ["out/in/IMG_1.jpg"]
    assert planned("IMG_1.JPEG", "jpeg", quality=80) == ["out/in/IMG_1.JPEG"]
    assert planned("IMG_1.PNG", "png", quality=80) == ["out/in/IMG_1.PNG"]
    assert planned("IMG_1.HEIC", "heif") == ["out/in/IMG_1.png"]
    assert planned("v1.2", "webp") == ["out/in/v1.2.webp"]
    assert planned("v1.2", "gif") == ["out/in/v1.2.png"]
    assert planned("IMG_1.jpg", "jpeg", format="webp") == ["out/in/IMG_1.webp"]
    same = replace(SMALL, name="a.jpg", format="jpeg")
    inputs = [found("a_down4.png", record=same), found("a_down4.tif", record=same)]
    plan = plan_upscale(inputs, Outputs("out", original_names=True), None, samples=1, spread=False)
    assert targets(plan) == [["out/a.jpg"], ["out/a_tif.jpg"]]


def test_samples_and_names_of_small_pictures() -> None:
    inputs = [found("a_down4.png", record=SMALL), found("a_down4.tif", record=SMALL), found("b.png", record=SMALL)]
    plan = plan_upscale(inputs, Outputs(), None, samples=2, spread=True)
    assert targets(plan) == [
        ["a_up4_1.png", "a_up4_2.png", "a_up4_spread.png"],
        ["a_tif_up4_1.png", "a_tif_up4_2.png", "a_tif_up4_spread.png"],
        ["b_up4_1.png", "b_up4_2.png", "b_up4_spread.png"],
    ]
    assert isinstance(plan[1], Job)
    assert plan[1].warnings == ("named a_tif_up4_1.png, since a_up4_1.png is what a_down4.png becomes",)
    assert plan[1].pixels == 2 * 8 * 8 * 16


def test_what_is_skipped_and_why() -> None:
    own, restored, plain = found("a.png", record=SMALL), found("b.png", record=LARGE), found("c.png")
    foreign = Input(Path("d.jp2"), Path(), False, None)
    missing = Input(Path("e.png"), Path(), True, None, "no such file or directory: e.png")
    damaged = Input(Path("f.png"), Path(), False, Header((8, 8), None, damaged=True))
    everything = [own, restored, plain, foreign, missing, damaged]
    down = plan_downscale(everything, Outputs(), 4, keep_latent=False)
    assert [getattr(item, "code", None) for item in down] == [
        Code.OWN, Code.OWN, None, Code.UNSUPPORTED, Code.MISSING, None
    ]  # fmt: skip
    up = plan_upscale(everything, Outputs(), None, samples=1, spread=False)
    assert [getattr(item, "code", None) for item in up] == [
        None, Code.OWN, Code.NO_RECORD, Code.UNSUPPORTED, Code.MISSING, None
    ]  # fmt: skip
    assert len(targets(plan_upscale([plain], Outputs(), 2, samples=1, spread=False))) == 1
    with pytest.raises(InputError, match=r"nothing to do: irn made it \(all of 2, the first is a\.png\)"):
        plan_downscale([own, restored], Outputs(), 4, keep_latent=False)


def test_who_cannot_be_read_takes_no_name_from_who_can() -> None:
    unreadable = Input(Path("a.jpg"), Path(), False, None)
    plan = plan_downscale([unreadable, found("a.png")], Outputs(), 4, keep_latent=False)
    assert targets(plan) == [["a_jpg_down4.png"], ["a_down4.png"]]


def test_a_result_keeps_its_name_when_another_file_of_that_name_comes(tmp_path: Path) -> None:
    """Whichever way the inputs sort, and however the earlier one's name was spelled."""
    pixels = np.zeros((8, 8, 3), np.uint8)

    def made_from(name: str, target: str) -> None:
        picture = Picture(pixels, record=replace(SMALL, width=32, height=32, name=name))
        write(tmp_path / target, picture, overwrite=True)

    def names(*sources: str, **options: Any) -> list[str]:
        inputs = [Input(tmp_path / name, Path(), True, Header((8, 8), None)) for name in sources]
        plan = plan_downscale(inputs, Outputs(**{"existing": "replace"} | options), 4, keep_latent=False)
        return [item.targets[0].name if isinstance(item, Job) else item.code for item in plan]

    made_from("a.png", "a_down4.png")
    assert names("a.jpg", "a.png") == ["a_jpg_down4.png", "a_down4.png"]
    assert names("a.jpg") == ["a_jpg_down4.png"]
    assert names("a.jpg", output=str(tmp_path / "a_down4.png")) == ["a_down4.png"]  # which is asked for
    assert names("a.PNG") == ["a_down4.png"]  # renamed
    assert names("a.PNG", "a.png") == ["a_png_down4.png", "a_down4.png"]
    made_from("caf\u00e9.png", "cafe\u0301_down4.png")
    assert names("cafe\u0301.png") == ["cafe\u0301_down4.png"]  # copied by a Mac
    write(tmp_path / "b_up4.png", Picture(pixels, record=replace(LARGE, name="x.png")))
    unnamed = Input(tmp_path / "b_down4.png", Path(), True, Header((8, 8), SMALL))
    plan = plan_upscale([unnamed], Outputs(existing="replace"), None, samples=1, spread=False)
    assert targets(plan) == [[str(tmp_path / "b_up4.png")]]  # whose original it was is not known
    made_from("a_jpg.tif", "a_jpg_down4.png")
    assert names("a.jpg", "a.png") == [Code.NAME_TAKEN, "a_down4.png"]
    made_from("", "a_down4.png")  # it does not remember
    assert names("a.jpg", "a.png") == ["a_down4.png", "a_png_down4.png"]


def test_what_goes_wrong_with_one_name_is_its_failure_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Outputs.target

    def target(outputs: Outputs, source: Input, name: str, *, many: bool) -> Path:
        if source.path.stem == "b":
            raise OSError(5, "Input/output error", "b")
        return real(outputs, source, name, many=many)

    monkeypatch.setattr(Outputs, "target", target)
    plan = plan_downscale([found("a.png"), found("b.png"), found("c.png")], Outputs(), 4, keep_latent=False)
    assert [getattr(item, "code", None) for item in plan] == [None, Code.SYSTEM, None]


def test_what_may_hold_a_mark_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def decode(path: Path, **_: int) -> Picture:
        decoded.append(path)
        raise InputError("no matter")

    monkeypatch.setattr("irn_cli.batch.plan.read", decode)
    monkeypatch.setattr("irn_cli.mark.LEAST", 64)
    formats = {"a": "PNG", "b": "JPEG", "c": "WEBP", "d": "MPO", "e": "AVIF", "f": "HEIF"}
    inputs = [Input(Path(name), Path(), False, Header((8, 8), None, format=kind)) for name, kind in formats.items()]
    inputs += [found("with_record", record=SMALL), found("tiny", size=7), found("named_down2", named=True)]
    plan_upscale(inputs, Outputs(), None, samples=1, spread=False)
    assert decoded == [Path("a"), Path("c")]
    plan_upscale(inputs, Outputs(), 4, samples=1, spread=False)
    assert len(decoded) == 2


def test_shares_are_the_whole() -> None:
    plan = plan_downscale([found(f"{number}.png") for number in range(5)], Outputs(), 4, keep_latent=False)
    assert share(plan, 1, 2) + share(plan, 2, 2) == [plan[0], plan[2], plan[4], plan[1], plan[3]]


@pytest.mark.parametrize(
    ("existing", "there", "newer", "expected"),
    [
        ("refuse", "", False, None),
        ("refuse", "a", False, Code.EXISTS),
        ("skip", "ab", False, Code.EXISTS),
        ("skip", "ab", True, Code.OUTDATED),
        ("skip", "a", False, Code.INCOMPLETE),
        ("update", "ab", False, Code.EXISTS),
        ("update", "ab", True, None),
        ("update", "a", False, None),
        ("replace", "ab", False, None),
    ],
)
def test_what_becomes_of_results_that_exist(
    tmp_path: Path, existing: str, there: str, newer: bool, expected: Code | None
) -> None:
    source, files = tmp_path / "source", {name: tmp_path / name for name in "ab"}
    source.touch()
    for name in there:
        files[name].touch()
        os.utime(files[name], (1000, 1000))
    os.utime(source, (2000, 2000) if newer else (500, 500))
    job = Job(source, tuple(files.values()), together=True)
    item = check_output(job, Outputs(existing=existing))  # type: ignore[arg-type]
    assert getattr(item, "code", None) == expected
    assert (item is job) == (expected is None)


def test_the_oldest_of_a_results_files_says_whether_it_is_outdated(tmp_path: Path) -> None:
    source, a, b = (tmp_path / name for name in ("source", "a", "b"))
    update, job = Outputs(existing="update"), Job(source, (a, b), together=True)
    for path in (source, a, b):
        path.touch()
        os.utime(path, (2000, 2000))
    assert check_output(job, update).code == Code.EXISTS  # as old as its input
    os.utime(b, (1000, 1000))
    assert check_output(job, update) is job
    b.unlink()
    b.symlink_to("elsewhere")  # the link is what would be replaced
    (tmp_path / "elsewhere").touch()
    os.utime(tmp_path / "elsewhere", (1000, 1000))
    assert check_output(job, update).code == Code.EXISTS


def test_one_of_the_results_that_might_be_is_enough(tmp_path: Path) -> None:
    job = Job(tmp_path / "source", (tmp_path / "a", tmp_path / "b"), one_of=True)
    job.targets[1].touch()
    assert check_output(job, Outputs(existing="skip")).code == Code.EXISTS
    assert check_output(replace(job, one_of=False), Outputs(existing="skip")) == replace(job, one_of=False)


def test_a_date_that_is_still_to_come_does_not_renew_a_result_for_ever(tmp_path: Path) -> None:
    source, result = tmp_path / "source", tmp_path / "result"
    job, to_come = Job(source, (result,)), time.time() + 1e6
    source.touch()
    os.utime(source, (to_come, to_come))  # a camera whose clock is wrong
    while not result.exists() or result.stat().st_mtime <= source.stat().st_ctime:
        result.touch()
    assert check_output(job, Outputs(existing="update")).code == Code.EXISTS
    assert check_output(job, Outputs(existing="skip")).code == Code.EXISTS
    os.utime(result, (1000, 1000))  # made before the source was changed
    assert check_output(job, Outputs(existing="update")) is job
    os.utime(result, (to_come, to_come))  # likewise, by another machine's clock
    while source.stat().st_ctime <= result.stat().st_ctime:
        os.utime(source)
    assert check_output(job, Outputs(existing="update")) is job


def test_a_place_that_cannot_be_written_is_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    for target in ("file/a", "directory", "x" * 300):
        outcome = check_output(Job(tmp_path / "source", (tmp_path / target,)), Outputs(existing="replace"))
        assert isinstance(outcome, Outcome)
        assert (outcome.status, outcome.code) == ("failed", Code.UNWRITABLE)
