"""Invertible image rescaling: make a picture 2 or 4 times smaller so that it can be made large again.

Importing this package is cheap: names load what they need (torch, above all) on first use.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irn_cli.errors import IrnError as IrnError
    from irn_cli.image import Picture as Picture
    from irn_cli.image import read as read
    from irn_cli.image import write as write
    from irn_cli.model import IRN as IRN
    from irn_cli.model import IRNConfig as IRNConfig
    from irn_cli.rescale import Rescaler as Rescaler
    from irn_cli.weights import load_model as load_model

_HOMES = {
    "IRN": "model",
    "IRNConfig": "model",
    "IrnError": "errors",
    "Picture": "image",
    "Rescaler": "rescale",
    "load_model": "weights",
    "read": "image",
    "write": "image",
}
__all__ = ["IRN", "IRNConfig", "IrnError", "Picture", "Rescaler", "load_model", "read", "write"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("irn-cli")
    if name not in _HOMES:
        raise AttributeError(f"module 'irn_cli' has no attribute {name!r}")
    return getattr(import_module(f"irn_cli.{_HOMES[name]}"), name)
