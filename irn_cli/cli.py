"""The `irn` command: what all its commands share, and how a call ends.

This is the one place that turns errors into exit statuses: 0 all done, 1 some input failed, 2 wrong usage, 130
interrupted (143 by SIGTERM, 129 by a terminal that is closed). The commands are in `irn_cli.commands`; their bodies are
thin and import what they need, so that `irn --help` is quick and loads no torch.
"""

import gc
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

from irn_cli.commands.compare import compare
from irn_cli.commands.downscale import downscale
from irn_cli.commands.eval import eval_
from irn_cli.commands.export import export
from irn_cli.commands.info import info
from irn_cli.commands.options import DEBUG, Group, debugging
from irn_cli.commands.train import train
from irn_cli.commands.upscale import upscale
from irn_cli.commands.weights import weights
from irn_cli.errors import Code, explain, one_line
from irn_cli.streams import standard_output

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


def main() -> None:
    """Run the command line; every failure ends in one line on standard error."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries have to say reaches the user as our warnings and failures
    logging.getLogger().addHandler(logging.NullHandler())  # likewise what they log, which else is printed
    try:
        with _ended_by_signals():
            status = irn.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo("irn: interrupted", err=True)
        cause = error.__cause__ or error  # click makes an Abort of it
        status = 128 + (cause.number if isinstance(cause, _Ended) else signal.SIGINT)
    except BrokenPipeError:  # whoever read our output has enough
        sys.stderr.close()
        status = 1
    except Exception as error:
        if debugging():
            traceback.print_exc()
        code, message = explain(error)
        if code is Code.MEMORY:
            message += ": --memory limits what a picture takes; in training, lower --batch or --patch"
        click.echo(f"irn: {one_line(message)}", err=True)
        status = getattr(error, "exit_status", 1)
    if "WORLD_SIZE" not in os.environ:  # under torchrun, what such cycles hold has threads to be ended
        gc.freeze()  # else the interpreter, ending, searches all of torch for cycles: a quarter of a second
    sys.exit(_flushed(status or 0))


class _Ended(KeyboardInterrupt):
    """A signal that asks to end, which is answered as Ctrl-C is: what is being written is finished."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within this scope SIGTERM, and SIGHUP unless `nohup` has it ignored, raise `_Ended`."""

    def end(number: int, _frame: object) -> None:
        raise _Ended(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # no SIGHUP on Windows
    heeded = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_DFL)


def _flushed(status: int) -> int:
    """Write out what standard output still holds; the exit status, given that so far."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        if not status:
            click.echo(f"irn: {explain(error)[1]}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter, ending, tries again
        return status or 1
    return status


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    standard_output()
    from importlib.metadata import version

    from irn_cli.hardware import may_have_gpu, multiplies_bfloat16
    from irn_cli.weights import list_weights

    device, precision = "cpu", "bf16" if multiplies_bfloat16() else "fp32"
    if may_have_gpu():
        from irn_cli.device import resolve_device, resolve_precision

        device = str(found := resolve_device("auto"))
        precision = resolve_precision("auto", found)
    names = ", ".join(f"{info.name} (revision {info.revision})" for info in list_weights()) or "none"
    click.echo(f"irn {version('irn-cli')}")
    click.echo(f"torch {version('torch')}, device {device}, precision {precision}")
    click.echo(f"weights: {names}")
    context.exit()


@click.group(cls=Group, context_settings=CONTEXT)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the versions of irn and torch, the device and the weights found.")  # fmt: skip
@click.option("--debug", **DEBUG)
def irn() -> None:
    """Make pictures 2 or 4 times smaller so that they can be made large again.

    The small picture is an ordinary PNG. The network that made it also makes it large again, with detail that
    interpolation cannot bring back.

    \b
    Example:
      irn downscale photo.jpg        # writes photo_down4.png
      irn upscale photo_down4.png    # writes photo_up4.png
    """


for _one in (downscale, upscale, info, eval_, compare, weights, export, train):
    irn.add_command(_one)
