"""What a run shows and writes down."""

import io
import json
import os
import signal
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from irn_cli.errors import OutputError, UsageError
from irn_cli.evaluation.scores import Summary
from irn_cli.train.board import require_tensorboard
from irn_cli.train.curve import write_curve
from irn_cli.train.monitor import RunConsole, stopping, watch
from irn_cli.train.recipe import load_recipe
from irn_cli.train.records import read_log
from irn_cli.train.trainer import Ended, Event, Logged, Preview, Saved, SetBack, Validated

RECIPE = replace(load_recipe("irn"), iterations=10_000)


def logged(step: int, **more: float) -> Logged:
    row = {"loss": 1234.5 / step, "reconstruction": 1000.0 / step, "guide": 3.0, "distribution": 2.0, "grad_norm": 5.0,
           "skipped": 0.0, "lr": 2e-4, "ms_per_step": 700.0, "elapsed": 0.7 * step}  # fmt: skip
    return Logged(step, row | more, step / 10_000, 3725.0)


def validated(step: int, failures: tuple[str, ...] = ()) -> Validated:
    summary = Summary(
        quality={"psnr_y": 31.25, "ssim_y": 0.91, "psnr_rgb": 29.5}, method="weights", scale=4, dataset="set",
        pictures=5, infinite={}, lr_psnr_y=40.0, lr_ssim_y=0.99, lr_worst_patch=6.5, lr_delta_e=1.5,
        lr_delta_e_95=4.5, lr_bits_per_pixel=11.0, bytes=100.0,
        bits_per_pixel=0.7, psnr_y_std_over_samples=None, seconds_per_picture=0.4,
    )  # fmt: skip
    return Validated(step, summary, failures)


GREY = np.full((32, 48, 3), 128, np.uint8)
EVENTS: list[Event] = [
    logged(10),
    SetBack(15, 0.5),
    logged(6_000, skipped=3.0),
    Saved(6_000, Preview(GREY, np.zeros((8, 12, 3), np.uint8), GREY)),
    validated(6_000, ("cannot read bad.png: no picture",)),
    Ended(6_000, "time"),
]


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=80)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_goes_on_where_nobody_reads_on(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with suppress(BrokenPipeError), os.fdopen(writer, "w") as stream:
        assert watch(EVENTS, tmp_path, RECIPE, RunConsole(file=stream, width=80)) == "time"
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl") if "loss" in row] == [10, 6_000]


def test_without_a_terminal_there_is_a_line_an_event(tmp_path: Path) -> None:
    console = plain_console()
    assert watch(EVENTS, tmp_path, RECIPE, console) == "time"
    lines = text(console).splitlines()
    assert lines[0] == "step 10 (0.1%)  loss 123.5  lr 2.00e-04  700 ms/step  1:02:05 left"
    assert lines[1] == "step 15  too many bad steps: back to the last good state, rate x 0.5 from here on"
    assert "skipped 3" in lines[2]
    assert "restored 31.25 dB on Y, 29.50 on RGB" in lines[3]
    assert "worst patch 6.5 levels" in lines[3]
    assert lines[3].endswith("the authors' run at 5,000 x 16 crops: 29.9 dB (RGB, DIV2K)")
    assert lines[4] == "cannot read bad.png: no picture"
    assert lines[5] == "ended at step 6,000: the time is up"


def test_the_discriminators_loss_is_shown_and_is_not_the_runs(tmp_path: Path) -> None:
    console = plain_console()
    alone = logged(10, discriminator=1.25)
    alone = replace(alone, row={name: value for name, value in alone.row.items() if name != "loss"})
    watch([alone, logged(20, discriminator=0.5)], tmp_path, RECIPE, console)
    first, second = text(console).splitlines()
    assert first.startswith("step 10 (0.1%)  discriminator 1.250  lr")
    assert second.startswith("step 20 (0.2%)  loss 61.7  discriminator 0.500  lr")


def test_quiet_shows_only_what_went_wrong(tmp_path: Path) -> None:
    console = plain_console()
    watch(EVENTS, tmp_path, RECIPE, console, quiet=True)
    assert [line[:7] for line in text(console).splitlines()] == ["step 15"]


def test_a_terminal_gets_a_display(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=30)
    watch(EVENTS, tmp_path, RECIPE, console)
    shown = text(console)
    for part in (
        "step 6,000",
        "60.0%",
        "reconstruction",
        "ms/step",
        "restored 31.25 dB",
        "the time is up",
        "rate x 0.5",
    ):
        assert part in shown, part


def test_eighty_columns_hold_every_loss(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=30)
    watch([logged(6_000, perceptual=139.25, discriminator=1.25)], tmp_path, RECIPE, console)
    for part in ("reconstruction", "distribution", "perceptual", "139.2", "discriminator", "700 ms/step", "skipped 0"):
        assert part in text(console), part


def test_other_processes_show_and_write_nothing(tmp_path: Path) -> None:
    assert watch(EVENTS, tmp_path, RECIPE, None) == "time"
    assert not list(tmp_path.iterdir())


def test_references_are_by_crops_seen_and_only_where_they_are_known(tmp_path: Path) -> None:
    def shown(**changes: object) -> str:
        console = plain_console()
        watch([validated(6_000)], tmp_path, replace(RECIPE, **changes), console)  # type: ignore[arg-type]
        return text(console)

    assert "authors' run" in shown()
    assert "authors' run" not in shown(batch=4)
    assert "authors' run" not in shown(scale=2)
    assert "authors' run" not in shown(stage="irn-plus")
    assert "29.9" in shown(batch=15)


def test_records_are_rows_of_json_and_a_cut_one_is_left_out(tmp_path: Path) -> None:
    watch(EVENTS, tmp_path, RECIPE, plain_console())
    log = tmp_path / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 15, 6_000, 6_000, 6_000]
    assert rows[0]["loss"] == pytest.approx(123.45)
    assert rows[1]["setback"] == 0.5
    assert rows[3]["val_psnr_y"] == 31.25
    assert rows[3]["failures"] == ["cannot read bad.png: no picture"]
    assert rows[4]["ended"] == "time"
    with log.open("a") as stream:
        stream.write('{"step": 7, "lo')
    assert read_log(log) == rows
    watch([logged(20)], tmp_path, RECIPE, plain_console())
    assert [row["step"] for row in read_log(log)] == [10, 15, 6_000, 6_000, 6_000, 20]
    assert read_log(tmp_path / "absent") == []


def test_the_curve_is_an_svg_with_the_whole_history(tmp_path: Path) -> None:
    watch(EVENTS, tmp_path, RECIPE, plain_console())
    watch([logged(8_000), validated(8_000)], tmp_path, RECIPE, plain_console())
    root = ElementTree.parse(tmp_path / "curve.svg").getroot()  # our own file
    lines = [node.get("points", "").split() for node in root if node.tag.endswith("polyline")]
    assert [len(line) for line in lines] == [3, 2]
    words = [node.text for node in root if node.tag.endswith("text")]
    assert "8,000" in words
    assert "31.25" in words


def test_what_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    watch([logged(1, loss=float("nan"), guide=float("inf")), logged(2)], tmp_path, RECIPE, plain_console())
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)
    assert (row["loss"], row["guide"], row["grad_norm"]) == (None, None, 5.0)
    write_curve(tmp_path / "curve.svg", read_log(tmp_path / "log.jsonl"), RECIPE)


def test_steps_done_again_are_drawn_once(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": loss} for step, loss in ((10, 8.0), (20, 4.0), (30, 2.0), (20, 1.0))]
    write_curve(tmp_path / "curve.svg", [*rows, {"step": 30, "loss": 1.0, "val_psnr_y": 20.0}], RECIPE)
    root = ElementTree.parse(tmp_path / "curve.svg").getroot()  # our own file
    lines = [node.get("points", "").split() for node in root if node.tag.endswith("polyline")]
    assert [len(line) for line in lines] == [3, 1]


def test_a_curve_of_nothing_and_of_what_is_not_finite_is_still_a_picture(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": None},
        {"step": 2, "loss": 0.0},
        {"step": 3, "val_psnr_y": None},
    ]
    for history in ([], rows):
        write_curve(tmp_path / "curve.svg", history, RECIPE)
        ElementTree.parse(tmp_path / "curve.svg")  # our own file


def test_the_preview_shows_original_small_and_restored(tmp_path: Path) -> None:
    watch(EVENTS, tmp_path, RECIPE, plain_console())
    preview = np.asarray(Image.open(tmp_path / "preview.png"))
    assert preview.shape == (32, 3 * 48 + 8, 3)
    assert (preview[:, :48] == 128).all()
    assert (preview[:, 52:100] == 0).all()


def test_tensorboard_shows_what_the_log_says(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    watch(EVENTS, tmp_path, RECIPE, plain_console(), tensorboard=True)
    again = [logged(6_000, loss=1.0), logged(6_001, loss=float("nan"))]  # it was killed before it saved
    watch(again, tmp_path, RECIPE, plain_console(), tensorboard=True)
    board = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in board.Scalars("training/loss")]
    assert losses == [(10, pytest.approx(123.45)), (6_000, 1.0)]
    assert len(board.Scalars("training/guide")) == 3
    assert "training/lr" in board.Tags()["scalars"]


def test_tensorboard_shows_validations_and_previews(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    watch(EVENTS, tmp_path, RECIPE, plain_console(), tensorboard=True)
    board = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("validation/psnr_y")] == [31.25]
    (preview,) = board.Images("preview")
    assert (preview.step, preview.width, preview.height) == (6_000, 3 * 48 + 8, 32)


def test_without_the_extra_tensorboard_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'irn-cli\[tensorboard\]'"):
        require_tensorboard()


def test_a_directory_that_went_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write to .*absent: No such file"):
        watch(EVENTS, tmp_path / "absent", RECIPE, plain_console())


def test_the_first_signal_asks_and_the_second_acts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
