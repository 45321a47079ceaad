"""The losses' terms against their equations, and VGG19 against a plain computation."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from safetensors import safe_open
from safetensors.torch import save_file

from irn_cli.errors import WeightsError
from irn_cli.train import losses
from irn_cli.train.losses import VGGFeatures
from tests.helpers import LAYERS, SHARED, needs_shared, vgg_tensors

POOLED = {5, 10, 19, 28}  # a pooling stands before these


def test_terms_are_sums_over_a_picture_and_means_over_the_batch() -> None:
    a, b = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    assert losses.reconstruction(a, b) == pytest.approx(48 * math.sqrt(0.25 + 1e-6), rel=1e-6)
    assert losses.reconstruction(a, a) == pytest.approx(48 * 1e-3, rel=1e-6)
    assert losses.guide(a, b) == pytest.approx(48 * 0.25)
    assert losses.guide(a, b, chroma=4.0) == pytest.approx(48 * 0.25), "a grey difference"
    assert losses.distribution(b) == pytest.approx(48 * 0.25)
    assert losses.perceptual(a, b) == losses.reconstruction(a, b)


def test_the_guide_can_weigh_colour_more() -> None:
    a, b = torch.rand(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(3)).unbind()
    assert losses.guide(a, b, chroma=1.0) == losses.guide(a, b)
    grey = (a - b).mean(1, keepdim=True).expand_as(a)  # of the difference
    rest = losses.guide(a - b, grey)
    assert losses.guide(a, b, chroma=4.0) == pytest.approx((losses.guide(a, b) + 3 * rest).item())


def test_the_adversarial_terms_are_cross_entropies() -> None:
    real, fake = torch.tensor([[0.3], [-2.0]]), torch.tensor([[1.2], [-0.4]])
    one, zero = torch.ones(2, 1), torch.zeros(2, 1)
    entropy = functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(losses.discrimination(real, fake), entropy(real, one) + entropy(fake, zero))
    torch.testing.assert_close(losses.deception(fake), entropy(fake, one))


def plain_vgg(x: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    for layer in LAYERS:
        if layer:
            x = x.relu()
        if layer in POOLED:
            x = functional.max_pool2d(x, 2)
        x = functional.conv2d(x, tensors[f"features.{layer}.weight"], tensors[f"features.{layer}.bias"], padding=1)
    return x


def test_vgg_features_are_conv5_4_before_its_relu(tmp_path: Path, rng: torch.Generator) -> None:
    tensors = vgg_tensors()
    save_file(tensors, tmp_path / "vgg.safetensors")
    torch.save({**tensors, "classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    x = torch.rand(1, 3, 32, 32, generator=rng)
    levels = 255 * x.flip(1) - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    features = VGGFeatures(tmp_path / "vgg.safetensors", "oxford", 0.5)(x)
    assert features.shape == (1, 512, 2, 2)
    assert features.min() < 0
    torch.testing.assert_close(features, 0.5 * plain_vgg(levels, tensors) / 57.63, rtol=1e-4, atol=1e-5)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    network = VGGFeatures(tmp_path / "vgg.pth", "torchvision", 1.0)
    torch.testing.assert_close(network(x), plain_vgg((x - mean) / deviation, tensors), rtol=1e-4, atol=1e-5)
    assert not any(weight.requires_grad for weight in network.parameters())


def test_what_is_not_vgg19_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        VGGFeatures(tmp_path / "absent.pth", "oxford", 1.0)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="is not a file of plain tensors"):
        VGGFeatures(tmp_path / "junk.pth", "oxford", 1.0)
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"expected features\.0\.bias \(64,\), found nothing"):
        VGGFeatures(tmp_path / "part.safetensors", "oxford", 1.0)


@needs_shared
def test_the_oxford_weights_see_what_they_should(tmp_path: Path) -> None:
    """Their conv5_4 has a standard deviation near 46 on photographs, as was reported; ours is of torchvision's size."""
    from irn_cli.image import read

    tensors = {}
    with safe_open(SHARED / "vgg19" / "vgg19_features_codebook.safetensors", framework="pt") as file:
        for layer in LAYERS:
            codes = file.get_tensor(f"features.{layer}.codes").long()
            tensors[f"features.{layer}.weight"] = file.get_tensor(f"features.{layer}.table")[codes]
            tensors[f"features.{layer}.bias"] = file.get_tensor(f"features.{layer}.bias")
    save_file(tensors, tmp_path / "vgg.safetensors")
    photo = read(Path(__file__).parents[1] / "examples" / "photos" / "chelsea.png").pixels[:256, :256]
    x = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        features = VGGFeatures(tmp_path / "vgg.safetensors", "oxford", 1.0)(x)
    assert 20 / 57.63 < features.std() < 90 / 57.63
