"""Files of tensors: ours, which are safetensors with a header that says what they are, and others' weights.

Headers and arrays are read without torch, which is imported only for others' weights.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from irn_cli.errors import IrnError, WeightsError
from irn_cli.files import atomic_write
from irn_cli.paths import fetched, open_file, to_path

if TYPE_CHECKING:
    from torch import Tensor


_NESTED = ("params_ema", "params", "state_dict")  # where BasicSR and others put weights; averaged ones first


@dataclass(frozen=True)
class TensorFormat:
    """One of our kinds of file: safetensors whose header names the format and holds further text fields."""

    name: str  # what stands in the header under `format`
    noun: str  # what messages call such a file
    fields: tuple[str, ...]  # that its header must have; it may have more
    error: type[IrnError]  # what reading raises: the file is missing, damaged, or of another kind
    earlier: tuple[str, ...] = ()  # names that earlier versions gave such files, which are read too

    def write(
        self,
        path: str | os.PathLike[str],
        tensors: Mapping[str, NDArray[Any]],
        header: Mapping[str, str],
        *,
        overwrite: bool = False,
    ) -> None:
        """Write a file of this kind, atomically.

        Raises:
            OutputError: the file exists already or cannot be written.
        """
        with atomic_write(path, overwrite=overwrite) as stream:
            stream.write(save(dict(tensors), metadata={"format": self.name, **header}))

    def read_header(self, path: str | os.PathLike[str]) -> dict[str, str]:
        """Read a file's text fields, not its tensors."""
        with self._opened(path) as file:
            return self._checked(path, file)

    def read(self, path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
        """Read a file's text fields and its tensors."""
        with self._opened(path) as file:
            header = self._checked(path, file)
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping

    @contextmanager
    def _opened(self, path: str | os.PathLike[str]) -> Iterator[safe_open]:
        try:
            with fetched(to_path(path)) as here:
                _require_readable(here)
                with safe_open(here, framework="np") as file:
                    yield file
        except FileNotFoundError:
            raise self.error(f"no such file: {path}") from None
        except SafetensorError as error:
            raise self.error(lfs_pointer(path) or f"{path} is not a complete safetensors file: {error}") from error
        except OSError as error:
            raise self.error(f"cannot read {path}: {error.strerror or error}") from error

    def _checked(self, path: str | os.PathLike[str], file: safe_open) -> dict[str, str]:
        header: dict[str, str] = file.metadata() or {}
        if (found := header.get("format")) not in (self.name, *self.earlier):
            raise self.error(f"{path} is not {self.noun}: expected format {self.name!r}, found {found!r}")
        if missing := [field for field in self.fields if field not in header]:
            raise self.error(f"{path} has a damaged header: no {missing[0]!r} in it")
        return header


def _require_readable(path: Path) -> None:
    """Raise the `OSError` that safetensors reports as a missing file, whatever it is."""
    with open_file(path):
        pass


def lfs_pointer(path: str | os.PathLike[str]) -> str:
    """What to do about a file that Git left as a pointer to the real one; empty if it is not one."""
    with open_file(to_path(path)) as stream:
        is_pointer = stream.read(40).startswith(b"version https://git-lfs.github.com/spec/")
    return f"{path} is only a pointer to a file in Git LFS: `git lfs pull` fetches the file" if is_pointer else ""


def read_state_dict(path: Path) -> "dict[str, Tensor]":
    """Read others' weights, without running what a pickle might carry.

    Args:
        path: a `.safetensors` file, or what `torch.save` made of a mapping of names to tensors, by itself or, as
            trainers leave it, among other things under one of the names in `_NESTED`.

    Raises:
        WeightsError: the file is missing, or holds anything else.
    """
    import torch
    from safetensors.torch import load_file

    try:
        _require_readable(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"no such file: {path}") from None
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # unpicklers of foreign bytes raise nearly anything
        told = f"{path} is not a file of plain tensors, and is not loaded"
        raise WeightsError(lfs_pointer(path) or told) from error
    if isinstance(state, Mapping):
        state = next((state[name] for name in _NESTED if isinstance(state.get(name), Mapping)), state)
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise WeightsError(f"{path}: expected a mapping of names to tensors")
    return {str(name): tensor for name, tensor in state.items()}
