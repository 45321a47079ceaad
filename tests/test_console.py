"""How figures and tables are printed."""

import math

import pytest
from rich.console import Console

from irn_cli.console import counting_bar, plain_table, show_decibels, show_number, show_pair, wide_console


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 3, "-"), (0.12345, 3, "0.123"), (-0.0001, 3, "0.000"), (math.inf, 2, "∞"), (12, 0, "12")],
)
def test_numbers(value: float | None, digits: int, text: str) -> None:
    assert show_number(value, digits) == text


@pytest.mark.parametrize(
    ("pair", "sign", "text"),
    [
        (None, "", "-"),
        ((33.388, 0.91229), "", "33.39 / 0.9123"),
        ((33.388, None), "", "33.39 /      -"),
        ((0.5, 0.01), "+", "+0.50 / +0.0100"),
        ((-0.001, -0.00001), "", "0.00 / 0.0000"),
        ((math.inf, 1.0), "", "∞ / 1.0000"),
    ],
)
def test_pairs(pair: tuple[float, float | None] | None, sign: str, text: str) -> None:
    assert show_pair(pair, sign) == text


def test_decibels() -> None:
    assert (show_decibels(7.126), show_decibels(math.inf)) == ("7.13", "∞")


@pytest.mark.parametrize(("columns", "width"), [(None, 160), ("72", 72)])
def test_a_file_has_room_for_wide_tables_unless_told(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "is_terminal", False)
    monkeypatch.delenv("COLUMNS")
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    assert wide_console().width == width


def test_a_terminal_keeps_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.delenv("COLUMNS")
    assert wide_console().width == Console().width


@pytest.mark.parametrize("folded", [30, 12])
def test_a_tables_names_are_folded_and_its_figures_stay_whole(folded: int) -> None:
    table = plain_table(["method"], ["dB", "pixels"])
    table.add_row("a-long-name", "33.39", "1,024")
    console = Console(width=folded + 14)
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    assert lines[0].split() == ["method", "dB", "pixels"]
    assert lines[1].endswith("33.39   1,024")
    assert "".join(line[:folded].strip() for line in lines[1:]).startswith("a-long-name")


@pytest.mark.parametrize(("terminal", "shown"), [(True, True), (True, False), (False, True)])
def test_only_a_terminal_gets_a_bar_and_only_if_it_is_asked_for(
    terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "is_terminal", terminal)
    bar = counting_bar(shown=shown)
    assert (bar.disable, bar.console.stderr) == (not (terminal and shown), True)
