"""The standard streams, which whoever starts a program may have closed."""

import sys
from typing import BinaryIO, TextIO

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
