"""Invertible image rescaling: make a picture 2 or 4 times smaller so that it can be made large again.

Importing this package is cheap: names load what they need (torch, above all) on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irn_cli.config import IRNConfig as IRNConfig
    from irn_cli.errors import IrnError as IrnError
    from irn_cli.evaluation.evaluate import evaluate as evaluate
    from irn_cli.evaluation.scores import Failure as Failure
    from irn_cli.evaluation.scores import Score as Score
    from irn_cli.evaluation.scores import Summary as Summary
    from irn_cli.evaluation.scores import summarise as summarise
    from irn_cli.image import read as read
    from irn_cli.image import write as write
    from irn_cli.latent import KeptOriginal as KeptOriginal
    from irn_cli.latent import Latent as Latent
    from irn_cli.latent import latent_path as latent_path
    from irn_cli.latent import read_latent as read_latent
    from irn_cli.latent import write_latent as write_latent
    from irn_cli.metrics import luma as luma
    from irn_cli.metrics import psnr as psnr
    from irn_cli.metrics import ssim as ssim
    from irn_cli.model import IRN as IRN
    from irn_cli.picture import Picture as Picture
    from irn_cli.rescale import Rescaler as Rescaler
    from irn_cli.weights import WeightsInfo as WeightsInfo
    from irn_cli.weights import list_weights as list_weights
    from irn_cli.weights import load_model as load_model
    from irn_cli.weights import save_model as save_model

_HOMES = {
    "IRN": "model",
    "IRNConfig": "config",
    "Failure": "evaluation.scores",
    "IrnError": "errors",
    "KeptOriginal": "latent",
    "Latent": "latent",
    "Picture": "picture",
    "Rescaler": "rescale",
    "Score": "evaluation.scores",
    "Summary": "evaluation.scores",
    "WeightsInfo": "weights",
    "evaluate": "evaluation.evaluate",
    "latent_path": "latent",
    "list_weights": "weights",
    "load_model": "weights",
    "luma": "metrics",
    "psnr": "metrics",
    "read": "image",
    "read_latent": "latent",
    "save_model": "weights",
    "ssim": "metrics",
    "summarise": "evaluation.scores",
    "write": "image",
    "write_latent": "latent",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # which loads much

        return version("irn-cli")
    if name not in _HOMES:
        raise AttributeError(f"module 'irn_cli' has no attribute {name!r}")
    return getattr(import_module(f"irn_cli.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
