"""What a batch shows while it runs, and the exit status that it ends with."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from irn_cli.batch.line import Events, Progressed
from irn_cli.batch.plan import Outcome, Result
from irn_cli.batch.progress import follow
from irn_cli.cluster import WorkersChanged
from irn_cli.errors import Code
from tests.helpers import ROOT

SCHEMA = json.loads((ROOT / "docs" / "batch.schema.json").read_text(encoding="utf-8"))
DONE = Outcome(
    Path("a\n.png"),
    "done",
    Code.DONE,
    outputs=(Path("b.latent.safetensors"), Path("b.png")),
    result=Result((40, 30), (10, 8), 31.25, float("inf"), 30.75, 38.5, 1.0, 3.5, 2_000_000, 1.26, ("odd",)),
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
        "a\\n.png -> b.latent.safetensors, b.png (40x30 -> 10x8; restores at 31.25 dB Y, inf dB RGB; "
        "before refinement 30.75 and 38.50; latent 2.0 MB; 1.3 s)",
        "c.png: failed: unexpected",
        "d.png: skipped: e.png exists already",
    ]
    assert summary.startswith("1 done, 1 skipped, 1 failed in ")


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
