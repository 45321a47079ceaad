"""A network as an ONNX file, for other runtimes: one direction of it, for pictures of any size.

What is written is the plain network of `model.py`: no rounding, no clamping, memory in proportion to the picture. It is
run by onnxruntime and compared with torch before it is written.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from irn_cli.errors import IrnError, UsageError
from irn_cli.files import atomic_write, require_writable
from irn_cli.model import IRN
from irn_cli.weights import weights_hash

Direction = Literal["up", "down"]

_OPSET = 17  # of ONNX 1.12, 2022: older runtimes have it, and nothing here needs more
_TOLERANCE = 1e-3  # a quarter of a level of 255; with the shipped weights it is 3e-5 at most
_SIZES = ((1, 5, 7), (2, 12, 9))  # B, h, w of what is compared; neither is traced


@dataclass(frozen=True)
class Exported:
    """What was written."""

    inputs: Mapping[str, tuple[int | str, ...]]  # shapes by name; words are free
    outputs: Mapping[str, tuple[int | str, ...]]
    nbytes: int
    difference: float  # the largest from torch, where samples lie in [0, 1]


class _Down(nn.Module):
    def __init__(self, model: IRN) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(self.model.downscale(x))  # type: ignore[return-value]


class _Up(nn.Module):
    def __init__(self, model: IRN) -> None:
        super().__init__()
        self.model = model

    def forward(self, y: Tensor, z: Tensor | None = None) -> Tensor:
        return self.model.upscale(y, z)


def export(
    path: str | os.PathLike[str],
    model: IRN,
    direction: Direction,
    *,
    latent: bool = True,
    overwrite: bool = False,
) -> Exported:
    """Write one direction of a network as ONNX, after it has been run and compared.

    Args:
        path: the file to make.
        model: the network, on the CPU.
        direction: `down`, x to y and z; or `up`, y and z to x. Shapes and ranges are those of `IRN.downscale` and
            `IRN.upscale`.
        latent: whether z is an input of `up`; otherwise it is 0, the latent's mean.
        overwrite: replace an existing file.

    Raises:
        UsageError: onnx or onnxruntime is not installed.
        OutputError: the file exists already or cannot be written.
        IrnError: what onnxruntime computes is not what torch computes; nothing is written.
    """
    onnx, onnxruntime = _libraries()
    require_writable(path, overwrite=overwrite)
    network = _Down(model) if direction == "down" else _Up(model)
    inputs = {"down": ["x"], "up": ["y", "z"] if latent else ["y"]}[direction]
    outputs = {"down": ["y", "z"], "up": ["x"]}[direction]
    channels, small = model.config.latent_channels, ("small_height", "small_width")
    named = {"x": ("batch", 3, "height", "width"), "y": ("batch", 3, *small), "z": ("batch", channels, *small)}
    shapes = {name: named[name] for name in (*inputs, *outputs)}
    graph = _traced(onnx, network, _arguments(model, inputs, (1, 6, 8)), shapes)
    graph.doc_string = (
        f"{model.name}, {direction}: float32 RGB in [0, 1]; x is {model.config.scale} times as large as y"
    )
    for key, text in _facts(model, direction).items():
        graph.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(graph, full_check=True)
    data = graph.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = max(_difference(session, network, _arguments(model, inputs, size)) for size in _SIZES)
    if not difference < _TOLERANCE:
        raise IrnError(f"not written: onnxruntime and torch differ by {difference:.2g}, more than {_TOLERANCE:g}")
    with atomic_write(path, overwrite=overwrite) as stream:
        stream.write(data)
    return Exported(
        {name: shapes[name] for name in inputs}, {name: shapes[name] for name in outputs}, len(data), difference
    )


def _traced(
    onnx: Any, network: nn.Module, arguments: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | str, ...]]
) -> Any:
    """The network's graph, for inputs of these names and, where a shape has a word, of any size."""
    outputs = [name for name in shapes if name not in arguments]
    axes = {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)} for name, shape in shapes.items()
    }
    with TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks of shapes, which are not part of what is exported
        # The older of torch's exporters: a third of a second instead of ten, and onnx is all that it needs.
        torch.onnx.export(
            network.eval(),
            tuple(arguments.values()),
            Path(place, "graph.onnx"),
            dynamo=False,
            input_names=list(arguments),
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=_OPSET,
        )
        graph = onnx.load(Path(place, "graph.onnx"))
    for value in graph.graph.output:  # whose sizes are known, but not to the exporter
        for dimension, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            setattr(dimension, "dim_value" if isinstance(size, int) else "dim_param", size)
    return graph


def _libraries() -> tuple[Any, Any]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it reports to its makers, and says so where it cannot
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"an ONNX file needs onnx and onnxruntime: pip install 'irn-cli[onnx]' ({error})") from None
    return onnx, onnxruntime


def _arguments(model: IRN, names: Sequence[str], size: tuple[int, int, int]) -> dict[str, Tensor]:
    """Inputs for a small picture of (B, h, w), by their names."""
    (batch, height, width), scale = size, model.config.scale
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "x": torch.rand(batch, 3, scale * height, scale * width, generator=generator),
        "y": torch.rand(batch, 3, height, width, generator=generator),
        "z": torch.randn(batch, model.config.latent_channels, height, width, generator=generator),
    }
    return {name: tensors[name] for name in names}


def _difference(session: Any, network: nn.Module, arguments: Mapping[str, Tensor]) -> float:
    with torch.inference_mode():
        expected = network(*arguments.values())
    found = session.run(None, {name: tensor.numpy() for name, tensor in arguments.items()})
    pairs = zip(expected if isinstance(expected, tuple) else (expected,), found, strict=True)
    return max(float((a - torch.from_numpy(b)).abs().max()) for a, b in pairs)


def _facts(model: IRN, direction: Direction) -> dict[str, str]:
    return {
        "irn.model": model.name,
        "irn.revision": model.revision,
        "irn.weights": weights_hash(model.state_dict()),
        "irn.config": json.dumps(asdict(model.config)),
        "irn.direction": direction,
    }
