"""Where weights are kept. Nothing is read here, so that a shell can complete names without waiting for torch."""

import os
from pathlib import Path

import platformdirs


def weights_directories() -> list[Path]:
    """Where names are looked up, first match first: $IRN_WEIGHTS (may list several), shipped, the user's own.

    The last is left out where it may not be read, as in a container whose user has another one's home.
    """
    package = Path(__file__).parent
    shipped = package / "shipped"  # in the wheel, where a directory `weights` would stand beside this module
    if not shipped.is_dir():
        shipped = package.parent / "weights"  # in a checkout
    named = [Path(entry) for entry in os.environ.get("IRN_WEIGHTS", "").split(os.pathsep) if entry]
    own = user_directory()
    try:
        os.scandir(own).close()
    except PermissionError:
        return [*named, shipped]
    except OSError:
        pass  # there is none
    return [*named, shipped, own]


def weights_names() -> list[str]:
    """The names of the files there, whatever is in them."""
    return sorted({path.stem for directory in weights_directories() for path in directory.glob("*.safetensors")})


def user_directory() -> Path:
    """Where `irn weights import` puts what a user brings; not made until then."""
    return Path(platformdirs.user_data_dir("irn", appauthor=False)) / "weights"
