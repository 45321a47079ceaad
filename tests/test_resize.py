"""The bicubic against MATLAB's, Lanczos and area against Pillow's, and their own properties."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from irn_cli.model import quantise
from irn_cli.resize import area, bicubic, bicubic_large, bicubic_small, lanczos
from tests.helpers import SHARED, needs_shared


@needs_shared
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_matlabs(name: str, scale: int) -> None:
    golden = load_file(SHARED / "golden" / "bicubic.safetensors")
    x = golden[f"{name}.hr_uint8"].float()[0] / 255
    height, width = x.shape[1] // scale, x.shape[2] // scale
    down = bicubic(x[:, : height * scale, : width * scale], (height, width))
    assert_close(down, golden[f"{name}.down{scale}"], atol=1e-5, rtol=0)
    up = bicubic(quantise(down), (height * scale, width * scale))
    assert_close(up, golden[f"{name}.up{scale}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (40, 17), (7, 11)])
def test_a_flat_picture_stays_flat_at_any_size(size: tuple[int, int]) -> None:
    x = torch.full((2, 3, 7, 11), 0.25, dtype=torch.float64)
    assert_close(bicubic(x, size), torch.full((2, 3, *size), 0.25, dtype=torch.float64), atol=1e-12, rtol=0)


def test_rows_and_columns_are_treated_alike(rng: torch.Generator) -> None:
    x = torch.rand(3, 12, 20, generator=rng, dtype=torch.float64)
    assert_close(bicubic(x.mT, (5, 3)), bicubic(x, (3, 5)).mT, atol=1e-12, rtol=0)


def test_enlarging_keeps_a_ramp_straight_inside() -> None:
    ramp = torch.arange(12, dtype=torch.float64).expand(1, 4, 12)
    large = bicubic(ramp, (4, 24))[0, 0]
    assert_close(large[6:-6].diff(), torch.full((11,), 0.5, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("resize", "filter_"), [(lanczos, Image.Resampling.LANCZOS), (area, Image.Resampling.BOX)])
@pytest.mark.parametrize("size", [(48, 40), (24, 20), (32, 60), (192, 160)])
def test_lanczos_and_area_are_pillows_inside(
    resize: Callable[..., torch.Tensor], filter_: Image.Resampling, size: tuple[int, int], rng: torch.Generator
) -> None:
    x = torch.rand(96, 80, generator=rng)
    expected = torch.from_numpy(np.asarray(Image.fromarray(x.numpy()).resize(size[::-1], filter_)).copy())
    border = 3 * max(1, size[0] // 96)  # at borders Pillow cuts the kernel off, where we mirror
    inside = (slice(border, -border), slice(border, -border))
    assert_close(resize(x, size)[inside], expected[inside], atol=1e-5, rtol=0)


# In bands ---------------------------------------------------------------------------------------------------------


def random_pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (130, 9), (260, 40), (333, 222)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_bands_make_the_same_small_picture_as_the_whole(shape: tuple[int, int], scale: int) -> None:
    pixels = random_pixels(*shape)
    padded = np.pad(pixels, ((0, -shape[0] % scale), (0, -shape[1] % scale), (0, 0)), mode="edge")
    whole = torch.from_numpy(padded).permute(2, 0, 1).double()
    expected = bicubic(whole, (padded.shape[0] // scale, padded.shape[1] // scale)).clamp(0, 255).permute(1, 2, 0)
    assert np.abs(bicubic_small(pixels, scale) - expected.numpy()).max() < 2e-4


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (130, 9), (200, 33)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_bands_make_the_same_large_picture_as_the_whole(shape: tuple[int, int], scale: int) -> None:
    small = random_pixels(*shape)
    whole = torch.from_numpy(small).permute(2, 0, 1).double()
    expected = bicubic(whole, (shape[0] * scale, shape[1] * scale)).clamp(0, 255).permute(1, 2, 0).numpy()
    bands = list(bicubic_large(small, scale))
    assert [top for top, _ in bands] == list(np.cumsum([0, *(len(band) for _, band in bands[:-1])]))
    assert np.abs(np.concatenate([band for _, band in bands]) - expected).max() < 2e-4
