"""`irn`, and `python -m irn_cli`: what belongs to a process of its own.

Before there is someone to say so, and after all is said, Ctrl-C ends it at once: what takes time to load is loaded in
`main`.
"""

import signal
import sys


def main() -> None:
    """Run the command line."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it was started to ignore Ctrl-C
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import io
    import os

    from irn_cli.streams import Diagnostics

    if isinstance(sys.stdout, io.TextIOWrapper):  # else it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # a name, or a sign that the terminal does not know
    sys.stderr = Diagnostics(sys.stderr or open(os.devnull, "w"))  # noqa: PTH123, SIM115  # None where it is closed
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
