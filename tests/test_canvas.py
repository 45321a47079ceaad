"""Pixels through the network with a border around them: what is drawn, kept, cut off and rounded."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from irn_cli.border import Border
from irn_cli.canvas import Canvas, to_pixels
from irn_cli.engine import Engine
from irn_cli.latent import Latent
from irn_cli.model import IRN, quantise
from tests.helpers import photo_like

Models = Callable[..., IRN]


def canvas(model: IRN, size: tuple[int, int], border: Border | None = None) -> Canvas:
    return Canvas(Engine(model, torch.device("cpu"), "fp32"), border or Border(), size)


def test_latents_are_standard_normal_whatever_the_width(tiny_model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irn_cli.canvas.hash_pixels", lambda _: "the same")  # the draw depends on it
    way = canvas(tiny_model(4), (1200, 28))
    drawn = way.draw(np.zeros((300, 7, 3), np.uint8))[..., 3:]
    assert abs(float(drawn.mean())) < 0.01
    assert abs(float(drawn.std()) - 1) < 0.01
    assert torch.equal(way.draw(np.zeros((5, 7, 3), np.uint8))[..., 3:], drawn[:5])


def test_the_small_picture_is_the_networks_rounded(tiny_model: Models) -> None:
    pixels = photo_like(24, 32)
    small = canvas(tiny_model(2), (24, 32)).downscale(pixels)
    with torch.no_grad():
        y, _ = tiny_model(2).downscale(torch.from_numpy(pixels).movedim(2, 0)[None] / 255)
    assert abs(small - quantise(y)[0].movedim(0, 2).mul(255).round().numpy()).max() <= 1


@pytest.mark.parametrize("size", [(24, 32), (19, 30), (1, 9)])
@pytest.mark.parametrize("border", [Border(), Border("mirror", 3, 5), Border("edge", 2, 0)], ids=lambda one: one.kind)
def test_a_latent_brings_the_original_back_without_its_border(
    tiny_model: Models, size: tuple[int, int], border: Border
) -> None:
    pixels = photo_like(*size)
    way = canvas(tiny_model(4), size, border)
    small = way.downscale(pixels)
    assert small.shape == (-(-size[0] // 4), -(-size[1] // 4), 3)
    rows, columns = border.sources(size, 4)
    u = way.engine.downscale(torch.from_numpy(pixels[rows].take(columns, 1)) / 255)
    assert u.shape == (small.shape[0] + 2 * border.rows, small.shape[1] + 2 * border.columns, 48)
    changed = small ^ 1  # as the improving of a small picture changed it
    rows, columns = border.sources((small.shape[0], small.shape[1]))
    rounding = u[..., :3].numpy() - changed[rows][:, columns].astype(np.float32) / 255
    latent = Latent(u[..., 3:].numpy(), rounding, "", "")
    assert np.array_equal(way.restore(way.with_latent(changed, latent)), pixels)
    assert not np.array_equal(way.upscale(changed), pixels)


def test_levels_are_rounded_clamped_and_made_grey() -> None:
    x = torch.tensor([[[-0.1, 0.4 / 255, 1.2], [0.6 / 255, 0.5, 0.0]]])
    assert to_pixels(x, (1, 2)).tolist() == [[[0, 0, 255], [1, 128, 0]]]
    assert to_pixels(x, (1, 1)).shape == (1, 1, 3)
    grey = to_pixels(torch.tensor([[[0.1, 0.2, 0.6]]]), (1, 1), grey=True)
    assert grey.tolist() == [[[76, 76, 76]]]  # 0.3 of 255 is 76.5, in float32 a little less
