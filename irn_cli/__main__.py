"""`irn`, and `python -m irn_cli`: what belongs to a process of its own.

Before there is someone to say so, and after all is said, Ctrl-C ends it at once.
"""

import io
import os
import signal
import sys
from pathlib import Path

from irn_cli.streams import Diagnostics


def main() -> None:
    """Run the command line."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it was started to ignore Ctrl-C
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):  # else it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # a name, or a sign that the terminal does not know
    sys.stderr = Diagnostics(sys.stderr or Path(os.devnull).open("w"))  # noqa: SIM115  # None where it is closed
    from irn_cli import cli

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli.main()
    finally:
        if heeded:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
