"""What a batch shows while it runs, and the exit status that it ends with."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from rich.cells import cell_len
from rich.progress import Progress, TaskID

from irn_cli.batch.jobs import Outcome, Result
from irn_cli.batch.line import Events, Progressed
from irn_cli.batch.progress import follow
from irn_cli.batch.shares import Shares
from irn_cli.cluster import WorkersChanged
from irn_cli.errors import Code
from tests.helpers import ROOT

SCHEMA = json.loads((ROOT / "docs" / "batch.schema.json").read_text(encoding="utf-8"))
DONE = Outcome(
    Path("a\n.png"),
    "done",
    Code.DONE,
    outputs=(Path("b.latent.safetensors"), Path("b.png")),
    result=Result(
        (40, 30), (10, 8), 31.25, float("inf"), 30.75, 38.5, 1.0, 3.5, 2_000_000, 1.26, ("odd",), 113_400, 26_000
    ),
)
FAILED = Outcome(Path("c.png"), "failed", Code.BUG, "unexpected", traceback="Traceback: here\n")
SKIPPED = Outcome(Path("d.png"), "skipped", Code.EXISTS, "e.png exists already")


def events(*them: Progressed | WorkersChanged | Outcome, closed: list[bool] | None = None) -> Events:
    try:
        yield from them
    finally:
        if closed is not None:
            closed.append(True)


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(events(Progressed(Path("a"), 0.5), DONE, FAILED, SKIPPED), 3) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    *lines, summary = shown.err.splitlines()
    assert lines == [
        "a\\n.png: warning: odd",
        "a\\n.png -> b.latent.safetensors, b.png (40x30 -> 10x8, 113 kB -> 26 kB; restores at 31.25 dB Y, ∞ dB RGB; "
        "before refinement 30.75 and 38.50; kept original 2.0 MB; 1.3 s)",
        "c.png: failed: unexpected",
        "d.png: skipped: e.png exists already",
    ]
    assert re.fullmatch(r"1 done, 1 skipped, 1 failed in \d\.\d s; 113 kB -> 26 kB", summary)


def test_sizes_are_told_where_both_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    follow(events(*[replace(DONE, result=replace(DONE.result, input_bytes=None))] * 2), 2)  # from standard input
    shown = capsys.readouterr().err.splitlines()
    assert "(40x30 -> 10x8; restores" in shown[1]
    assert re.fullmatch(r"2 done in \d\.\d s", shown[-1])


def test_pictures_of_unknown_size_count_as_well() -> None:
    shares = Shares({Path("a"): 0, Path("b"): 1 << 15})
    shares.end(Outcome(Path("a"), "failed", Code.UNUSABLE))
    assert shares.done == shares.total / 3


def test_a_name_that_is_only_a_part_of_a_word_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "it restores at 16.62 dB, below 90 dB"
    them = [Outcome(Path(name), "failed", Code.LOW_PSNR, reason) for name in ("1", "s", "a.png")]
    named = Outcome(Path("in/1"), "failed", Code.MISSING, "no such file: in/1")
    follow(events(*them, named), 4, quiet=True)
    told = [f"{name}: failed: {reason}" for name in ("1", "s", "a.png")]
    assert capsys.readouterr().err.splitlines() == [*told, "failed: no such file: in/1"]


def skipped(code: Code, count: int, reason: str = "{}_down4.png exists already") -> list[Outcome]:
    return [Outcome(Path(f"{code}{i}.png"), "skipped", code, reason.format(i)) for i in range(count)]


def test_what_is_skipped_is_counted_and_listed_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    them = skipped(Code.EXISTS, 9998)
    assert follow(events(*them), 9998) == 0
    assert capsys.readouterr().err == "9,998 skipped: their outputs exist\n"
    them = [*skipped(Code.OUTDATED, 2), *skipped(Code.UNSUPPORTED, 3, "irn does not read .heic"), SKIPPED, DONE]
    follow(events(*them), 7)
    assert capsys.readouterr().err.splitlines()[2:-1] == [
        "2 skipped: their outputs exist, but they have changed since: --update renews them",
        "3 skipped: irn does not read .heic",
        "d.png: skipped: e.png exists already",
    ]
    follow(events(*them), 7, verbose=True)
    shown = capsys.readouterr().err
    assert "outdated1.png: skipped: 1_down4.png exists already\n" in shown
    assert "2 skipped" not in shown


def bars(events: Events, pixels: dict[Path, int], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How far the bar is, 0 to 1, whenever it is set."""
    shares: list[float] = []
    update = Progress.update

    def watched(self: Progress, task: TaskID, **fields: Any) -> None:
        update(self, task, **fields)
        shares.append(self.tasks[0].completed / (self.tasks[0].total or 0))

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(Progress, "update", watched)
    follow(events, len(pixels), pixels=pixels)
    return shares


def test_the_bar_goes_forward_only_and_by_pixels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = (Path(name) for name in "abc")
    done = Outcome(a, "done", Code.DONE, result=Result(output_size=(1, 1), seconds=1.0))
    told = [Progressed(a, 0), Progressed(b, 0), Progressed(b, 0.5), Progressed(a, 0.5), Progressed(b, 1),
            Progressed(a, 0.25), Progressed(c, 0), Progressed(a, 1), done, replace(done, source=b),
            replace(done, source=c)]  # fmt: skip
    shares = bars(events(*told), {a: 30_000_000, b: 10_000_000, c: 0}, monkeypatch)
    assert shares == sorted(shares)
    assert shares[3:5] == pytest.approx([0.125, 0.5], abs=2e-3)
    assert shares[-1] == 1
    assert re.search(r"3 done in \d\.\d s, 2 at a time\n", capsys.readouterr().err)


@pytest.mark.parametrize("status", ["done", "failed", "skipped"])  # the last two by --min-psnr
def test_the_time_left_is_that_of_the_pixels_left_not_of_what_the_network_never_had(
    status: Literal["done", "failed", "skipped"], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    paths = [Path(str(number)) for number in range(5)]
    shares = Shares(dict.fromkeys(paths, 10000000))
    assert shares.rates() == (0, 0, None)
    shares.end(Outcome(paths[0], "skipped", Code.EXISTS))
    shares.progress(paths[1], 0)
    now += 10
    shares.end(Outcome(paths[1], status, Code.DONE, result=Result(output_size=(9, 9))))
    shares.end(Outcome(paths[4], "failed", Code.UNUSABLE))
    shares.progress(paths[2], 0)
    now += 5
    shares.progress(paths[2], 0.5)
    megapixels, pictures, left = shares.rates()
    assert (megapixels, pictures) == pytest.approx((1, 6))
    assert left == pytest.approx(15)
    assert shares.at_once == 1


def test_at_80_columns_the_bar_is_one_line_and_lines_break_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    source = Path("日本の写真" * 9, "IMG_0001.jpg")
    pixels = {source: 12_000_000} | {Path(f"{number}"): 1 for number in range(9999)}
    named = replace(DONE, source=Path("holidays/IMG_0001.jpg"), outputs=(Path("small/holidays/IMG_0001_down4.png"),))
    follow(events(Progressed(source, 0), Progressed(source, 0.5), named), 10_000, pixels=pixels)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    lines = re.split(r"[\r\n]+", shown)
    assert max(map(cell_len, lines)) <= 80
    (bar,) = (line for line in lines if "IMG_0001.jpg" in line and "/10,000" in line)
    assert re.fullmatch(r"…日本の写真/IMG_0001.jpg +[\d.]+ MP/s, [\d,]+/min .* 1/10,000 +\d+:\d\d:\d\d *", bar), bar
    assert {"40x30", "10x8,", "31.25", "30.75"} <= set(shown.replace("(", "").split())


def test_no_line_breaks_within_a_figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    whole = ["40x30 -> 10x8", "113 kB -> 26 kB", "31.25 dB", "2.0 MB", "1.3 s"]
    for width in range(20, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        follow(events(replace(DONE, source=Path("日本/a 4"))), 1)
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
        assert max(map(cell_len, shown.splitlines())) <= width
        assert [figure for figure in whole if figure not in shown] == []
        assert "\ue000" not in shown


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize(
    ("total", "note", "workers"),
    [(1, "", 0), (1, "refining, 3 of 10: 31.22 -> 31.44 dB", 0), (13, "", 0), (13, "", 16), (10_000, "", 0)],
)
def test_at_any_width_the_bar_cuts_no_figure_and_only_the_bar_moves(
    width: int, total: int, note: str, workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(width)}.items():
        monkeypatch.setenv(name, value)
    update = Progress.update

    def drawn_at_once(self: Progress, task: TaskID, **fields: Any) -> None:
        update(self, task, **fields)
        self.refresh()

    monkeypatch.setattr(Progress, "update", drawn_at_once)
    names = [Path("a.png"), Path("日本の写真" * 9), Path("a-name-longer-than-there-is-room-for.jpg")]
    pixels = dict.fromkeys([*names, *(Path(f"{number}") for number in range(total - 3))], 12_000_000)

    def work() -> Events:
        nonlocal now
        yield from [WorkersChanged(workers)] if workers else []
        for number, name in enumerate(names):
            for share in (0, 0.1, 0.9):
                now += 10**number
                yield Progressed(name, share, note)

    follow(work(), total, pixels=pixels)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    lines = [line for line in re.split(r"[\r\n]+", shown) if re.match("[^ ━].*━", line)]  # once there is a name
    assert len(lines) >= 8
    count = r" *\d+ %" if total == 1 else f" *0/{total:,}"
    for line in lines:
        assert cell_len(line) <= width, line
        assert re.fullmatch(rf"[^━╸╺]+[━╸╺]+{count} +(\d:\d\d:\d\d|\d+ h)? *", line), line
    assert len({cell_len(re.split("[━╸╺]", line)[0]) for line in lines}) == 1, lines
    if width >= 80:
        wanted = note or (r"16 workers, [\d.]+ files/s" if workers else r"[\d.]+ MP/s, [\d,]+/min")
        assert re.search(wanted, lines[-1])


@pytest.mark.parametrize(
    ("sources", "shown"),
    [
        (["/home/me/photos/a.jpg", "/home/me/photos/sub/b.jpg"], "sub/b.jpg"),
        (["photos/a.jpg", "photos2/b.jpg"], "photos2/b.jpg"),
        (["/home/me/photos/b.jpg"], "b.jpg"),
        (["a.jpg", "/b.jpg"], "/b.jpg"),
    ],
)
def test_the_bar_names_a_picture_below_the_directory_of_all(
    sources: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[str] = []
    monkeypatch.setattr(Progress, "update", lambda *_, **fields: set_to.append(fields.get("description", "")))
    monkeypatch.setenv("FORCE_COLOR", "1")
    paths = [Path(source) for source in sources]
    follow(events(Progressed(paths[-1], 0.5)), 2, pixels=dict.fromkeys(paths, 9))
    assert set_to[1].split()[0] == shown


def test_quiet_leaves_warnings_and_failures(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(events(DONE, SKIPPED), 2, quiet=True) == 0
    assert capsys.readouterr().err == "a\\n.png: warning: odd\n"


def test_debug_shows_tracebacks_also_beside_json(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        follow(events(FAILED), 1, debug=True, as_json=as_json)
        assert capsys.readouterr().err.startswith("Traceback: here\n")


def test_json_is_what_its_schema_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(events(DONE, FAILED, SKIPPED), 3, as_json=True) == 1
    shown = capsys.readouterr()
    assert shown.err == ""
    rows = [json.loads(line, parse_constant=pytest.fail) for line in shown.out.splitlines()]
    for row in rows:
        jsonschema.validate(row, SCHEMA)
    assert set(rows[0]) == set(SCHEMA["properties"])
    assert (rows[0]["psnr_y"], rows[0]["psnr_rgb"]) == (31.25, None)
    assert [(row["status"], row["code"]) for row in rows] == [
        ("done", "done"), ("failed", "bug"), ("skipped", "exists")
    ]  # fmt: skip


def test_the_schema_knows_every_code() -> None:
    codes = SCHEMA["properties"]["code"]["oneOf"]
    assert [code["const"] for code in codes] == list(Code)
    assert all(code["description"] for code in codes)


@pytest.mark.parametrize(
    ("done", "told"), [([DONE, FAILED], "1 done, 1 failed of 9 in "), ([], "nothing done of 9 in ")]
)
def test_an_interruption_tells_how_far_it_came(
    capsys: pytest.CaptureFixture[str], done: list[Outcome], told: str
) -> None:
    def interrupted() -> Events:
        yield from done
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(interrupted(), 9)
    assert capsys.readouterr().err.splitlines()[-1].startswith(told)


def test_an_interruption_while_something_is_shown_reaches_the_runner(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    def runner() -> Events:
        try:
            yield DONE
            yield DONE
        except KeyboardInterrupt:
            yield FAILED  # what it has finished meanwhile
            raise

    monkeypatch.setattr("irn_cli.batch.progress._line", interrupt)
    with pytest.raises(KeyboardInterrupt):
        follow(runner(), 9)
    assert capsys.readouterr().err.splitlines()[-1].startswith("1 done, 1 failed of 9 in ")


def test_whoever_shows_a_batch_closes_it() -> None:
    def interrupted() -> Iterator[Outcome]:
        yield DONE
        raise KeyboardInterrupt

    closed: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        follow(events(*interrupted(), closed=closed), 2)

    def broken() -> Events:
        try:
            yield DONE
            yield Progressed(Path("a"), "no number")  # type: ignore[arg-type]
            yield DONE
        finally:
            closed.append(True)

    with pytest.raises(TypeError):
        follow(broken(), 2)
    assert closed == [True]


def test_the_bar_of_a_cluster_tells_workers_and_their_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as far as rich can tell
    monkeypatch.setenv("TERM", "xterm")
    follow(
        events(WorkersChanged(1), WorkersChanged(2), SKIPPED, DONE, WorkersChanged(1, "no weights there"), FAILED), 3
    )
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "irn: a worker was given up: no weights there\n" in shown
    assert re.search(r"1 worker, \d+\.\d files/s .* 3/3", shown)
