"""The few errors that a user of `irn` can meet, and what each is for people, shells and programs.

Every message is one line that says what was expected and what came. Library code raises these errors and never prints
or exits; `explain` is the one place that says what any exception means.
"""

import re
from enum import StrEnum


class Code(StrEnum):
    """What became of one input, for programs: the `code` of an outcome in `--json`, beside its `status`."""

    DONE = "done"

    # Skipped.
    EXISTS = "exists"  # its result is there already; failed, where neither --force nor --skip-existing was given
    OUTDATED = "outdated"  # its result is there already, but it has changed since: --update renews the result
    OWN = "made-by-irn"  # irn made it (nothing to make small), or restored it (nothing to make large)
    NO_RECORD = "no-record"  # irn did not make it small; failed, where it was named and no --scale was given
    UNSUPPORTED = "unsupported-format"  # a picture in a format that irn does not read, found in a directory

    # Failed.
    TOO_LARGE = "too-large"  # it has more pixels than --max-pixels
    MISSING = "missing"  # no such file, or a directory or pattern without pictures
    UNUSABLE = "unusable"  # not a picture, or damaged; or its record, or the file kept beside it, does not fit
    NAME_TAKEN = "name-taken"  # another input of this run becomes the same file
    INCOMPLETE = "incomplete"  # of a picture and the file kept beside it one is there, the other is not
    ARTIFACT = "artifact"  # a coloured blotch, with --on-artifact fail
    LOW_PSNR = "low-psnr"  # it restores worse than --min-psnr; skipped with --otherwise skip
    USAGE = "usage"  # what was asked for cannot be done with this input
    WEIGHTS = "weights"  # the weights are missing or damaged
    UNWRITABLE = "unwritable"  # the result cannot be written: a full disk, no permission, the format's limits
    DEVICE = "device"  # the device is absent or too small
    MEMORY = "out-of-memory"
    WORKER = "worker-died"  # the worker of a cluster that had it died
    SYSTEM = "system"  # the operating system refused something else
    BUG = "bug"  # an error that irn did not expect: please report it with the traceback that --debug shows


# What a command line can do about it: messages themselves speak to whoever calls from Python, too.
_HINTS = {
    Code.EXISTS: "--force replaces it",
    Code.TOO_LARGE: "--max-pixels raises it",
}
_NO_MEMORY = "out of memory|DefaultCPUAllocator|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED"


class IrnError(Exception):
    """Something outside our control is wrong: an input, a file, a device. The base of all errors that we raise.

    Args:
        message: one line.
        code: what it means for programs, where that is more than the error's kind says.
    """

    exit_status = 1
    code = Code.UNUSABLE

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code


class UsageError(IrnError):
    """What was asked for cannot be done: an unknown model, the wrong scale, options that exclude each other."""

    exit_status = 2
    code = Code.USAGE


class InputError(IrnError):
    """A picture, latent, data set or option cannot be used as given."""


class WeightsError(IrnError):
    """Weights are missing, damaged, or do not have the shapes that their configuration gives."""

    code = Code.WEIGHTS


class RecordError(IrnError):
    """The record inside a small picture cannot be read or does not fit its picture."""


class OutputError(IrnError):
    """A result could not be written: it exists already, the disk is full, or the place is not writable."""

    code = Code.UNWRITABLE


class DeviceError(IrnError):
    """The device asked for is absent, or has too little memory even for the smallest tile."""

    code = Code.DEVICE


def explain(error: BaseException) -> tuple[Code, str]:
    """Say what an exception means, for programs and for people at a command line."""
    code, message = _meaning(error)
    return code, f"{message} ({_HINTS[code]})" if code in _HINTS else message


def _meaning(error: BaseException) -> tuple[Code, str]:
    if isinstance(error, IrnError):
        return error.code, str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return Code.SYSTEM, f"{place}{error.strerror or error}"
    # torch reports a failed allocation as a RuntimeError: of its own kind where its own allocator for a GPU finds none,
    # else known by its text, as where another program has left none for CUDA and its libraries.
    torch_said = type(error).__name__ == "OutOfMemoryError" or re.search(_NO_MEMORY, str(error))
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and torch_said):
        return Code.MEMORY, "not enough memory"
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return Code.BUG, f"unexpected {text}; this is a bug in irn: please report it with what --debug shows"


def mentions(message: str, name: str) -> bool:
    """Whether a name stands in a message; a file called `1` is not in `16.2 dB`."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message) is not None


def one_line(text: str) -> str:
    """A message or a file's name as one printable line: newlines, control and broken characters become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
