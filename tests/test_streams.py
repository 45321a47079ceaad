"""The standard streams, open and closed."""

import io
import os
import sys

import pytest

from irn_cli.errors import InputError, OutputError
from irn_cli.streams import Diagnostics, standard_input, standard_output


def test_standard_input_is_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n")))
    assert standard_input().read() == b"\xff\n"


def test_standard_output_is_whatever_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stream)
    assert standard_output() is stream


def test_closed_ones_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after `<&-`
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(InputError, match="standard input is closed"):
        standard_input()
    with pytest.raises(OutputError, match="standard output is closed"):
        standard_output()


def test_diagnostics_are_silent_once_they_cannot_be_written() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:  # noqa: PTH123
        diagnostics = Diagnostics(stream)
        for _ in range(2):
            assert diagnostics.write("told\n") == 5
            diagnostics.flush()
        assert diagnostics.encoding == stream.encoding
