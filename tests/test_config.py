"""The shape of a network: what follows from it, and what is none."""

from typing import Any

import pytest

from irn_cli.config import IRNConfig
from irn_cli.model import IRN


@pytest.mark.parametrize(("blocks", "scale", "channels"), [((8,), 2, 9), ((8, 8), 4, 45), ((1, 2, 3), 8, 189)])
def test_scale_and_latent_follow_from_the_blocks(blocks: tuple[int, ...], scale: int, channels: int) -> None:
    config = IRNConfig(blocks)
    assert (config.scale, config.latent_channels) == (scale, channels)
    assert 3 + config.latent_channels == 3 * scale**2  # as many numbers as the picture has


@pytest.mark.parametrize("config", [IRNConfig((1,), 4), IRNConfig((2, 1), 8), IRNConfig((1, 1, 2), 6)])
def test_parameters_are_the_networks(config: IRNConfig) -> None:
    assert config.parameters == sum(parameter.numel() for parameter in IRN(config).parameters())


@pytest.mark.parametrize(
    "fields",
    [
        {"blocks": ()},
        {"blocks": (1, 1, 1, 1)},
        {"blocks": (8, 0)},
        {"blocks": (8.0,)},
        {"blocks": (True,)},
        {"growth": 0},
        {"growth": 3.5},
        {"clamp": 0.0},
        {"clamp": float("nan")},
        {"clamp": float("inf")},
    ],
)
def test_what_is_no_network(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        IRNConfig(**fields)
