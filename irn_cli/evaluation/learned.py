"""Learned measures of how alike two pictures look, or how good one does, by torchmetrics (extra `irn-cli[metrics]`).

torchmetrics carries what was fitted to people's judgements; the networks whose features it compares, trained on
ImageNet, are torchvision's. torch keeps them in its hub's folder, `torch.hub.get_dir()`, and downloads what is missing.

Sources: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric" (2018) for LPIPS; Ding
et al., "Image quality assessment: unifying structure and texture similarity" (2020) for DISTS; Agnolucci et al.,
"ARNIQA: learning distortion manifold for image quality assessment" (2024).
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from irn_cli.errors import InputError, UsageError
from irn_cli.metrics import Levels, Metric

_LEAST = 32  # pixels a side that AlexNet's features need


class _Kind(NamedTuple):
    label: str
    higher_is_better: bool
    weights: tuple[str, ...]  # the files in the hub's folder
    load: Callable[[], nn.Module]
    call: Callable[[nn.Module, Tensor, Tensor], Tensor]  # of original and restored, (1, 3, H, W), 0 to 1


def _lpips() -> nn.Module:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    network: nn.Module = LearnedPerceptualImagePatchSimilarity(net_type="alex").net
    return network


def _dists() -> nn.Module:
    from torchmetrics.functional.image.dists import DISTSNetwork

    return DISTSNetwork()


def _arniqa() -> nn.Module:
    from torchmetrics.image.arniqa import ARNIQA

    network: nn.Module = ARNIQA(regressor_dataset="koniq10k").model
    return network


_KINDS = {
    "lpips": _Kind("LPIPS", False, ("alexnet-owt-7be5be79.pth",), _lpips, lambda net, a, b: net(a, b, normalize=True)),
    "dists": _Kind("DISTS", False, ("vgg16-397923af.pth",), _dists, lambda net, a, b: net(a, b)),
    # Judges the restored picture alone, as NIQE does; all of it, where its authors average five squares of it.
    "arniqa": _Kind(
        "ARNIQA", True, ("ARNIQA.pth", "regressor_koniq10k.pth"), _arniqa, lambda net, a, b: net(b, normalize=True)
    ),
}


def load_metric(name: str) -> Metric:
    """Load a learned metric: `lpips` (of AlexNet's features), `dists` or `arniqa`.

    Raises:
        UsageError: torchmetrics or torchvision is not installed, or cannot be loaded.
        InputError: its network's weights are neither here nor to be had, or damaged.
    """
    kind = _KINDS[name]
    try:
        for library in ("torchvision", "torchmetrics.image"):
            importlib.import_module(library)
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"--metric {name} needs torchmetrics and the torchvision that belongs to this torch; "
            f"pip install 'irn-cli[metrics]' brings both ({error})"
        ) from error
    try:
        network = kind.load().eval()
    except Exception as error:  # whatever urllib, an unpickler or a network of another shape stumbles over
        reason = str(getattr(error, "reason", None) or error).strip().splitlines()
        told = reason[0] if reason else type(error).__name__
        place = Path(torch.hub.get_dir()) / "checkpoints"
        files = " and ".join(kind.weights)
        if all((place / file).exists() for file in kind.weights):
            raise InputError(f"--metric {name}: damaged weights ({told}): put {files} into {place} again") from error
        raise InputError(
            f"--metric {name}: its weights cannot be downloaded ({told}): put {files} into {place}"
        ) from error

    def measure(original: Levels, restored: Levels, _grey: bool) -> float:
        if min(original.shape[:2]) < _LEAST:
            raise InputError(f"too small for {kind.label}: expected at least {_LEAST} pixels a side, borders cropped")
        a, b = (torch.tensor(pixels).movedim(2, 0)[None].float() / 255 for pixels in (original, restored))
        with torch.inference_mode():
            return float(kind.call(network, a, b))

    return Metric(name, kind.label, 4, kind.higher_is_better, measure)
