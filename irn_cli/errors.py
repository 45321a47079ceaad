"""The few errors that a user of `irn` can meet, and the exit status each one means.

Every message is one line that says what was expected and what came. `cli.py` is the one place that turns these errors
into exit codes; library code raises them and never prints or exits.
"""


class IrnError(Exception):
    """Something outside our control is wrong: an input, a file, a device. The base of all errors that we raise."""

    exit_status = 1


class UsageError(IrnError):
    """What was asked for cannot be: an unknown model, a scale that it has not, options that exclude each other."""

    exit_status = 2


class InputError(IrnError):
    """A picture, latent, data set or option cannot be used as given."""


class WeightsError(IrnError):
    """Weights are missing, damaged, or of another shape than their configuration says."""


class RecordError(IrnError):
    """The record inside a small picture cannot be read or does not fit its picture."""


class OutputError(IrnError):
    """A result could not be written: it exists already, the disk is full, or the place is not writable."""


class DeviceError(IrnError):
    """The device asked for is absent, or its memory does not suffice even for the smallest tile."""


def one_line(text: str) -> str:
    """A message or a file's name as one printable line: newlines, control and broken characters become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
