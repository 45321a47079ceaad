"""A network as ONNX: run by onnxruntime, it is the network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from irn_cli import export as module
from irn_cli.cli import irn
from irn_cli.errors import IrnError, OutputError, UsageError
from irn_cli.export import export
from irn_cli.model import IRN
from irn_cli.weights import save_model, weights_hash

onnx = pytest.importorskip("onnx", reason="ONNX is not installed: pip install 'irn-cli[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is not installed: pip install 'irn-cli[onnx]'")

SIZES = [(1, 1), (4, 3), (20, 31)]


def run(path: Path, **inputs: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} == set(inputs)
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


def assert_same(found: np.ndarray, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("scale", [2, 4])
def test_it_is_the_network_at_any_size(tmp_path: Path, tiny_model: Callable[..., IRN], scale: int) -> None:
    model = tiny_model(scale)
    for name, direction, latent in (("down", "down", True), ("up", "up", True), ("mean", "up", False)):
        done = export(tmp_path / f"{name}.onnx", model, direction, latent=latent)
        assert done.nbytes == (tmp_path / f"{name}.onnx").stat().st_size
        assert 0 < done.difference < 1e-4
    for batch, (h, w) in enumerate(SIZES, 1):
        x = torch.rand(batch, 3, scale * h, scale * w)
        y, z = model.downscale(x)
        found = run(tmp_path / "down.onnx", x=x)
        assert_same(found[0], y)
        assert_same(found[1], z)
        assert_same(run(tmp_path / "up.onnx", y=y.detach(), z=z.detach())[0], x)
        assert_same(run(tmp_path / "mean.onnx", y=y.detach())[0], model.upscale(y))


def test_the_file_says_what_it_is(tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    model = tiny_model(2)
    done = export(tmp_path / "up.onnx", model, "up")
    graph = onnx.load(tmp_path / "up.onnx")
    facts = {one.key: one.value for one in graph.metadata_props}
    assert facts["irn.weights"] == weights_hash(model.state_dict())
    assert (facts["irn.model"], facts["irn.revision"], facts["irn.direction"]) == ("tiny-x2", "1", "up")
    shape = [one.dim_value or one.dim_param for one in graph.graph.output[0].type.tensor_type.shape.dim]
    assert tuple(shape) == done.outputs["x"] == ("batch", 3, "height", "width")
    assert done.inputs["z"] == ("batch", 9, "small_height", "small_width")


def test_what_does_not_agree_with_torch_is_not_written(
    tmp_path: Path, tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: module._Up, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.model.upscale(y, z) + (0 if torch.jit.is_tracing() else 1)

    monkeypatch.setattr(module._Up, "forward", forward)
    with pytest.raises(IrnError, match="onnxruntime and torch differ by 1,"):
        export(tmp_path / "up.onnx", tiny_model(2), "up")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_stays(tmp_path: Path, tiny_model: Callable[..., IRN]) -> None:
    (tmp_path / "up.onnx").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        export(tmp_path / "up.onnx", tiny_model(2), "up")
    assert (tmp_path / "up.onnx").read_text() == "mine"
    export(tmp_path / "up.onnx", tiny_model(2), "up", overwrite=True)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra_it_is_named(
    tmp_path: Path, tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(UsageError, match=r"pip install 'irn-cli\[onnx\]'"):
        export(tmp_path / "up.onnx", tiny_model(2), "up")


def test_the_command(tmp_path: Path, tiny_model: Callable[..., IRN], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model("tiny.safetensors", tiny_model(2))

    def told(*arguments: str) -> str:
        return CliRunner().invoke(irn, ["export", "-m", "tiny.safetensors", *arguments], standalone_mode=False)

    done = told("up.onnx", "--direction", "up", "--latent", "zero")
    assert done.stdout.startswith("up.onnx: y (batch, 3, small_height, small_width) -> x (batch, 3, height, width); ")
    assert done.stdout.endswith("at most from torch\n")
    assert isinstance(told("up.onnx", "--direction", "up").exception, OutputError)
    assert isinstance(told("down.onnx", "--direction", "down", "--latent", "zero").exception, UsageError)
    assert not Path("down.onnx").exists()
