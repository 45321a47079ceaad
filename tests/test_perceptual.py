"""`weights/perceptual.py`: its two numbers where they are known."""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from irn_cli.evaluation.dataset import Original
from irn_cli.evaluation.methods import Small
from irn_cli.image import write
from irn_cli.picture import Picture
from tests.helpers import vgg_tensors

SCRIPT = Path(__file__).parents[1] / "weights" / "perceptual.py"


class Same:
    """A method that loses nothing."""

    name, scale = "same", 4

    def downscale(self, original: Original) -> Small:
        return Small(original.picture)

    def upscale(self, small: Small, **_: object) -> Picture:
        assert small.picture
        return small.picture


class Flat(Same):
    """One that gives all detail up."""

    name = "flat"

    def upscale(self, small: Small, **_: object) -> Picture:
        return Picture(np.full_like(super().upscale(small).pixels, 128))


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., Result]:
    write(tmp_path / "data" / "a.png", Picture(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)))
    save_file(vgg_tensors(), tmp_path / "vgg.safetensors")
    script = runpy.run_path(str(SCRIPT))

    def run(*methods: Same) -> Result:
        script["compare"].callback.__globals__["load_methods"] = lambda *_: list(methods)
        return CliRunner().invoke(
            script["compare"], ["x", "--data", str(tmp_path / "data"), "--vgg", str(tmp_path / "vgg.safetensors")]
        )

    return run


def test_what_is_the_same_has_no_distance_and_all_detail(compare: Callable[..., Result]) -> None:
    same, flat = compare(Same(), Flat()).stdout.splitlines()[2:]
    assert same == "| same | 0.000 | 1.00 | inf dB |"
    _, name, distance, finest, _, _ = map(str.strip, flat.split("|"))
    assert (name, finest) == ("flat", "0.00")
    assert float(distance) > 0.05


def test_pictures_that_are_not_there(compare: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "data" / "a.png").unlink()
    result = compare(Same())
    assert result.exit_code == 1
    assert "no pictures in" in result.stderr
