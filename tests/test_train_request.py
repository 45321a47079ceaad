"""What is asked of training, and what a run remembers of it."""

import json
from pathlib import Path

import pytest

from irn_cli.errors import InputError, UsageError
from irn_cli.train.request import NAME, Request, parse_duration, recall


def remember(run: Path, request: Request, time_limit: float | None = None) -> None:
    run.mkdir()
    (run / NAME).write_text(json.dumps(request.remembered(time_limit)))


def test_a_continued_run_needs_nothing_repeated(tmp_path: Path) -> None:
    data, run = (tmp_path / "a", tmp_path / "b"), tmp_path / "run"
    first = Request(data=data, validation=tmp_path / "val", include_own=True, vgg=tmp_path / "vgg.pth")
    remember(run, first, 60.0)
    again = Request(resume=run).repeated()
    assert (again.data, again.validation, again.include_own, again.vgg) == (
        data, tmp_path / "val", True, tmp_path / "vgg.pth",
    )  # fmt: skip
    assert recall(run)["time_limit"] == 60
    assert again.time_limit is None  # of which a new call has its own


def test_paths_are_remembered_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    remember(tmp_path / "run", Request(data=(Path("photos"),)))
    monkeypatch.chdir("/")
    assert Request(resume=tmp_path / "run").repeated().data == (tmp_path / "photos",)


def test_other_pictures_are_not_validated_on_those_of_before(tmp_path: Path) -> None:
    remember(tmp_path / "run", Request(data=(tmp_path / "a",), validation=tmp_path / "val", vgg=tmp_path / "vgg.pth"))
    again = Request(resume=tmp_path / "run", data=(tmp_path / "b",)).repeated()
    assert (again.data, again.validation) == ((tmp_path / "b",), None)
    assert again.vgg == tmp_path / "vgg.pth"


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to train on"):
        Request().repeated()
    with pytest.raises(UsageError, match="nothing to train on"):
        Request(resume=tmp_path).repeated()  # a run that remembers nothing, as an earlier version left it
    for given in ({"recipe": "irn"}, {"init": "irn-x2"}):
        with pytest.raises(UsageError, match="leave out --recipe and --init"):
            Request(resume=tmp_path, **given)
    (tmp_path / NAME).write_text("{")
    with pytest.raises(InputError, match=r"request\.json is damaged"):
        Request(resume=tmp_path).repeated()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("9m", 540), ("1h30m", 5400), ("0.5m", 30), (" 1H ", 3600), ("1h1m1s", 3661)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "m", "5x", "-1m", "1m1h", "soon"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time limit"):
        parse_duration(text)
