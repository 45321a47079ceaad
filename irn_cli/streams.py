"""The standard streams, which whoever starts a program may have closed."""

import os
import sys
from typing import Any, BinaryIO, TextIO

from irn_cli.errors import InputError, OutputError


def standard_input() -> BinaryIO:
    """Standard input, for bytes.

    Raises:
        InputError: it is closed.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed")
    return sys.stdin.buffer


def standard_output() -> TextIO:
    """Standard output; its `buffer` is for bytes.

    Raises:
        OutputError: it is closed.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    return sys.stdout


class Diagnostics:
    """Standard error that stops nothing: once it cannot be written (a full disk, a reader that left), it is silent."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._fall_silent()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._fall_silent()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _fall_silent(self) -> None:
        """Let what still waits to be written, and all that follows, go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
