"""The losses' terms, one function each, and the features that one of them compares.

Sums over a picture and means over the batch, as the paper's. Source: Xiao et al., "Invertible Image Rescaling", ECCV
2020: Eq. 10 (IRN), Eq. 11 (IRN+), and the appendix.
"""

import math
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from irn_cli.errors import WeightsError
from irn_cli.tensors import read_state_dict

# Channels of VGG19's convolutions up to conv5_4; "pool" halves the size. torchvision numbers ReLUs as layers too.
_VGG19 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512, 512, 512, 512, "pool", 512, 512, 512, 512)

VGGInput = Literal["torchvision", "oxford"]

_DEVIATION = (0.229, 0.224, 0.225)  # what torchvision's weights have their input divided by


def charbonnier(a: Tensor, b: Tensor) -> Tensor:
    """Sum of sqrt((a - b)^2 + 1e-6), mean over the batch: an absolute difference that is smooth at zero."""
    return torch.sqrt((a - b).square() + 1e-6).sum() / len(a)


def reconstruction(x: Tensor, restored: Tensor) -> Tensor:
    """L_recon: Charbonnier distance of the picture and what comes back from quantise(y) and a drawn z."""
    return charbonnier(x, restored)


def guide(y: Tensor, bicubic: Tensor, chroma: float = 1.0) -> Tensor:
    """L_guide: sum (y - bicubic)^2, which keeps the small picture (before rounding) near the bicubic one.

    Ours: a weight for chroma, the part of the difference that is not the same in all channels; the paper's is 1.
    """
    difference = y - bicubic
    grey = difference.mean(1, keepdim=True)
    weighted = grey + math.sqrt(chroma) * (difference - grey) if chroma != 1 else difference
    return weighted.square().sum() / len(y)


def distribution(z: Tensor) -> Tensor:
    """L_distr of stage 1: sum z^2, the cross-entropy of the latent against N(0, I) up to constants."""
    return z.square().sum() / len(z)


def deception(fake: Tensor) -> Tensor:
    """L_distr of stage 2 for the generator: -log sigma(T(x')), mean over the batch; the non-saturating form.

    Args:
        fake: (B, 1), the discriminator's logits of restored pictures.
    """
    return functional.softplus(-fake).mean()


def discrimination(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises: -log sigma(T(x)) - log(1 - sigma(T(x'))), the appendix's Eq. 1."""
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def perceptual(features: Tensor, restored: Tensor) -> Tensor:
    """L_percp: Charbonnier distance of the two pictures' (scaled) features."""
    return charbonnier(features, restored)


class VGGFeatures(nn.Module):
    """VGG19 up to conv5_4, before its ReLU; frozen. (B, 3, H, W) in [0, 1] -> (B, 512, H/16, W/16), times `scale`.

    The authors' code compares torchvision's features as they are. Oxford's weights see the same picture some 58 times
    as large, in levels instead of standard deviations, and nearly so much larger are their features: they are divided
    by it, so that a loss weight means the same with either file.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, path: Path, picture: VGGInput, scale: float) -> None:
        """Read the network's weights.

        Args:
            path: a `.pth` or `.safetensors` file with torchvision's names (`features.0.weight` ...).
            picture: what the weights were trained on. torchvision: RGB, normalised; oxford: BGR in levels, less a mean.
            scale: what the features are multiplied by.

        Raises:
            WeightsError: the file is missing or holds something else.
        """
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _VGG19:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1, device="meta"), nn.ReLU(inplace=True)]
            channels = width
        self.layers = nn.Sequential(*layers[:-1])
        state = {name.removeprefix("features."): tensor for name, tensor in read_state_dict(path).items()}
        wanted = self.layers.state_dict()
        for name, tensor in wanted.items():
            if name not in state or state[name].shape != tensor.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise WeightsError(
                    f"{path} is not VGG19 in torchvision's layout: expected features.{name} {tuple(tensor.shape)}, "
                    f"found {found}"
                )
        self.layers.load_state_dict({name: state[name].float() for name in wanted}, assign=True)
        levels = picture == "oxford"
        self.picture = picture
        self.scale = scale / (255 * sum(_DEVIATION) / 3) if levels else scale
        mean = [103.939, 116.779, 123.68] if levels else [0.485, 0.456, 0.406]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([1.0] * 3 if levels else _DEVIATION).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.picture == "oxford":
            x = 255 * x.flip(1)
        features: Tensor = self.layers((x - self.mean) / self.deviation)
        return self.scale * features
