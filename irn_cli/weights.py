"""From a name or a path to a verified network, and back into a file.

A weights file is safetensors: the tensors of `IRN.state_dict()` (float16 as shipped) and a header of text fields, the
most important being the configuration that rebuilds the network. Its identity is a hash over the tensors' values, not
over the file, so that a header can be edited without changing what small pictures depend on.

What headers say is read without torch, which takes a second to load.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from irn_cli.config import IRNConfig
from irn_cli.errors import UsageError, WeightsError
from irn_cli.files import atomic_write
from irn_cli.hub import PREFIX, fetch
from irn_cli.locations import user_directory, weights_directories
from irn_cli.tensors import TensorFormat, read_state_dict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from irn_cli.model import IRN

DEFAULT_MODELS = {2: "irn-x2", 4: "irn-x4"}  # what is used where only a scale is given
_FORMAT = TensorFormat("irn-1", "a weights file of irn", ("config", "revision", "hash"), WeightsError)
_ALWAYS_BUILT = 1 << 22  # parameters: a network of no more is made before its tensors are looked at, which tells more
_SCORES = "scores_"  # what the notes' keys for test sets begin with
_OWN_FIELDS = ("format", *_FORMAT.fields, "temperatures")


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file's header says, read without loading its tensors."""

    name: str  # the file's stem: irn-x4
    path: Path
    config: IRNConfig
    revision: str  # counts up when shipped weights of this name change
    hash: str  # see `weights_hash`
    temperatures: tuple[float, float]  # see `IRN`; only 1 where the header does not say it
    notes: Mapping[str, str]  # free text: recipe, data, steps, hardware, scores, licence

    @property
    def scores(self) -> dict[str, str]:
        """What the notes say of test sets, by name, the shortest names first."""
        found = {key.removeprefix(_SCORES): text for key, text in self.notes.items() if key.startswith(_SCORES)}
        return dict(sorted(found.items(), key=lambda one: (len(one[0]), one[0])))

    def described(self) -> dict[str, str]:
        """All that there is to say, what matters first: what it is for, how good it is, what one may do with it."""
        blocks = "+".join(map(str, self.config.blocks))
        first = {
            "name": self.name,
            "scale": f"{self.config.scale}x",
            **{f"{_SCORES}{name}": text for name, text in self.scores.items()},
            **{key: self.notes[key] for key in ("licence",) if key in self.notes},
            "temperatures": " to ".join(f"{one:g}" for one in dict.fromkeys(self.temperatures)),
            "revision": self.revision,
            "hash": self.hash,
            "network": f"{blocks} blocks, growth {self.config.growth}, clamp {self.config.clamp:g}",
            "file": str(self.path),
        }
        return first | {key: text for key, text in self.notes.items() if key not in first}


def load_model(source: str | os.PathLike[str]) -> "IRN":
    """Load a network, ready for use: on the CPU, in float32, in eval mode, its tensors verified.

    Args:
        source: a name (`irn-x4`), the path of a `.safetensors` file of ours, or of an official `.pth` checkpoint; or
            `hf:OWNER/NAME` on the Hugging Face Hub, see `hub.fetch`.

    Raises:
        UsageError: nothing is found under that name or path.
        WeightsError: the file is damaged or holds something else.
    """
    import torch

    path = find_weights(source)
    if path.suffix == ".pth":
        state = read_official(path)
        return _build(path, infer_config(state, path), state, revision="0")
    header, arrays = _FORMAT.read(path)
    info = _info(path, header)
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model = _build(path, info.config, state, info.revision)
    model.temperatures = info.temperatures
    if (found := weights_hash(model.state_dict())) != info.hash:
        raise WeightsError(f"{path} is damaged: its header promises {info.hash[:12]}, its tensors hash to {found[:12]}")
    return model


def save_model(
    path: str | os.PathLike[str],
    model: "IRN",
    *,
    notes: Mapping[str, str] | None = None,
    dtype: "torch.dtype | None" = None,
    overwrite: bool = False,
) -> None:
    """Write a network as a weights file, atomically; the stored revision is `model.revision`.

    Args:
        path: the `.safetensors` file to make.
        model: the network; its parameters are rounded to `dtype`, once, and stay as they are in memory.
        notes: text fields for the header (recipe, data, scores ...).
        dtype: how the tensors are stored, float32 or (where None) float16, which costs about 0.0001 dB and halves the
            file.
        overwrite: replace an existing file.

    Raises:
        OutputError: the file exists already or cannot be written.
        ValueError: a note has the name of one of the format's own fields.
    """
    import torch

    dtype = dtype or torch.float16
    if clash := set(_OWN_FIELDS) & set(notes or {}):
        raise ValueError(f"these header fields are the format's own: {sorted(clash)}")
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    header = {
        "config": json.dumps(asdict(model.config)),
        "revision": model.revision,
        "hash": weights_hash(tensors),
        "temperatures": json.dumps(model.temperatures),
        **(notes or {}),
    }
    _FORMAT.write(path, {name: tensor.numpy() for name, tensor in tensors.items()}, header, overwrite=overwrite)


def read_info(path: str | os.PathLike[str]) -> WeightsInfo:
    """Read the header of a weights file of ours.

    Raises:
        WeightsError: the file is missing, is not safetensors, or was not written by `save_model`.
    """
    path = Path(path)
    if path.suffix == ".pth":
        raise WeightsError(f"{path}: expected a .safetensors file; irn weights import makes one of an official .pth")
    return _info(path, _FORMAT.read_header(path))


def read_scale(path: Path) -> int:
    """How many times smaller the network of a weights file makes pictures: 2, 4 or 8.

    Raises:
        WeightsError: as `read_info`, or `infer_config` for an official checkpoint.
    """
    config = infer_config(read_official(path), path) if path.suffix == ".pth" else read_info(path).config
    return config.scale


def _info(path: Path, header: Mapping[str, str]) -> WeightsInfo:
    try:
        config = json.loads(header["config"])
        config["blocks"] = tuple(config["blocks"])
        low, high = map(float, json.loads(header.get("temperatures", "[1, 1]")))
        return WeightsInfo(
            name=path.stem,
            path=path,
            config=IRNConfig(**config),
            revision=header["revision"],
            hash=header["hash"],
            temperatures=(low, high),
            notes={key: header[key] for key in sorted(header) if key not in _OWN_FIELDS},  # as read, in no order
        )
    except (KeyError, TypeError, ValueError) as error:  # not JSON, or other fields than a configuration's
        raise WeightsError(f"{path} has a damaged header: {error}") from error


def weights_hash(tensors: "Mapping[str, Tensor]") -> str:
    """SHA-256 (hexadecimal) over the tensors, sorted by name: each one's name, shape, and float32 values.

    float16 tensors hash like their float32 copies, so a loaded network has the hash of the file it came from.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def find_weights(source: str | os.PathLike[str]) -> Path:
    """Find the file that a name or path means: path, then $IRN_WEIGHTS, the shipped weights, the user's own.

    What begins with `hf:` is fetched, by `hub.fetch`.

    Raises:
        UsageError: there is no such file or name; the message lists the names that there are.
    """
    if isinstance(source, str) and source.startswith(PREFIX):
        return fetch(source)
    path = Path(source)
    if path.suffix in (".safetensors", ".pth") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise UsageError(f"no weights file {path}")
    for directory in weights_directories():
        if (candidate := directory / f"{source}.safetensors").is_file():
            return candidate
    if path.is_file():
        raise UsageError(f"{path} is not a weights file: expected .safetensors, or .pth for an official checkpoint")
    places = ", ".join(map(str, weights_directories()))
    names = ", ".join(sorted({info.name for info in list_weights()})) or f"none (looked in {places})"
    raise UsageError(f"no model named {str(source)!r}; there are: {names}")


def find_by_hash(wanted: str) -> Path | None:
    """Find the weights whose hash is, or begins with, `wanted` among those that `list_weights` finds."""
    return next((info.path for info in list_weights() if info.hash.startswith(wanted)), None)


def list_weights() -> list[WeightsInfo]:
    """What every weights file in the look-up directories says of itself, in the order of look-up.

    Files that are not ours or are damaged are left out: one bad file must not hide the good ones.
    """
    return look_up()[0]


def look_up() -> tuple[list[WeightsInfo], list[WeightsError]]:
    """What `list_weights` gives, and why other files or whole directories are left out."""
    found, left_out = [], []
    for directory in weights_directories():
        try:
            files = sorted(directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            left_out.append(WeightsError(f"cannot read {directory}: {error.strerror}"))
            continue
        for path in (file for file in files if file.suffix == ".safetensors"):
            try:
                found.append(read_info(path))
            except WeightsError as error:
                left_out.append(error)
    return found, left_out


def import_official(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Convert an official checkpoint into a weights file, its numbers unchanged.

    Raises:
        UsageError: the suffix of `target` is not `.safetensors`, by which it will be known.
        WeightsError: `source` is not an IRN checkpoint.
        OutputError: `target` cannot be written.
    """
    if target.suffix != ".safetensors":
        raise UsageError(f"cannot write weights to {target}: expected a name that ends in .safetensors")
    if not source.exists():
        raise WeightsError(f"no such file: {source}")  # now, not after the second that torch takes to load
    import torch

    state = read_official(source)
    model = _build(source, infer_config(state, source), state, revision="0")
    dtype = torch.float16 if all(tensor.dtype == torch.float16 for tensor in state.values()) else torch.float32
    save_model(target, model, notes={"imported": source.name}, dtype=dtype, overwrite=overwrite)


def pull(reference: str, target: Path | None = None, *, overwrite: bool = False) -> WeightsInfo:
    """Fetch weights and keep them where they are found by name, or as `target`; their tensors are verified.

    Raises:
        UsageError, WeightsError, InputError: as `hub.fetch` and `load_model`.
        OutputError: the file exists already or cannot be written.
    """
    source = fetch(reference)
    load_model(source)
    target = target or user_directory() / source.name
    with atomic_write(target, overwrite=overwrite) as stream:
        stream.write(source.read_bytes())
    return read_info(target)


def read_official(path: Path) -> "dict[str, Tensor]":
    """Read a checkpoint of the authors' code, without ever running what a pickle might carry.

    Args:
        path: a `.pth` file whose keys read `operations.N.F.conv1.weight`; a `module.` prefix is taken off.

    Returns:
        The tensors, less the constant Haar filters.

    Raises:
        WeightsError: the file is missing, is no checkpoint, or holds more than tensors.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in read_state_dict(path).items()}
    return {name: tensor for name, tensor in state.items() if not name.endswith("haar_weights")}


def infer_config(state: "Mapping[str, Tensor]", path: Path) -> IRNConfig:
    """Recover a network's configuration from its tensors' names and shapes.

    `operations.N` counts Haar transforms and blocks alike; the gaps in N are the Haar transforms.

    Raises:
        WeightsError: the tensors are not those of an IRN with RGB pictures.
    """
    try:
        present = {int(name.split(".")[1]) for name in state}
        if max(present) - len(present) > 2:  # counts from 0, so a scale of 8, three transforms, leaves 2
            raise ValueError("more gaps than an IRN has Haar transforms")
        blocks: list[int] = []
        for n in range(max(present) + 1):
            if n in present:
                blocks[-1] += 1
            else:
                blocks.append(0)
        growth = state["operations.1.G.conv1.weight"].shape[0]
        return IRNConfig(blocks=tuple(blocks), growth=growth)
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{path} is not an IRN checkpoint: expected tensors operations.N.F.conv1 ...") from error


def _build(path: Path, config: IRNConfig, state: "Mapping[str, Tensor]", revision: str) -> "IRN":
    """Make the network and fill it; every tensor must be there, fit, and be finite."""
    import torch

    from irn_cli.model import IRN

    held = sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in state.values())
    if config.parameters > max(2 * held, _ALWAYS_BUILT):  # else what a file says could take all the memory there is
        raise WeightsError(f"{path}: expected {config.parameters:,} numbers, as its shape says, found {held:,}")
    # The initial values drawn here are thrown away. On the meta device none would be drawn, but entering it makes torch
    # import its compiler: a second, where drawing takes a seventh of one.
    with torch.random.fork_rng(devices=[]):
        model = IRN(config)
    expected = model.state_dict()
    for name in {**expected, **state}:
        want = tuple(expected[name].shape) if name in expected else None
        have = tuple(state[name].shape) if name in state else None
        if want != have:
            raise WeightsError(f"{path}: tensor {name}: expected {want or 'nothing'}, found {have or 'nothing'}")
        if not torch.isfinite(state[name]).all():
            raise WeightsError(f"{path}: tensor {name} holds NaN or infinity")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    model.name, model.revision = path.stem, revision
    return model.eval()
