"""Checkpoints: one safetensors file with every tensor of a run, and all else about it as JSON in the header.

It is one file, put in place in one step: whenever the process dies, the last whole checkpoint is there.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from irn_cli.config import IRNConfig
from irn_cli.errors import InputError, UsageError
from irn_cli.tensors import TensorFormat
from irn_cli.train.recipe import Recipe, recipe_from

NAME = "checkpoint.safetensors"
_FIELDS = ("counters", "recipe", "config", "stamp", "notes")
_FORMAT = TensorFormat("irn-checkpoint-1", "a checkpoint of irn", _FIELDS, InputError)


@dataclass(frozen=True)
class Counters:
    """Where a run stands, besides its tensors. Its random numbers are functions of seed and step, and need no state."""

    step: int  # steps done
    elapsed: float  # seconds of work so far, all calls together
    progress: float  # how much of the run has passed, 0 to 1
    setbacks: int  # returns to a good state so far; each lowers the rate


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that a run needs to go on."""

    tensors: Mapping[str, Tensor]  # weights, moments, average, the guard's counts
    counters: Counters
    recipe: Recipe
    config: IRNConfig  # the network's
    stamp: str  # of the training pictures
    notes: Mapping[str, str]  # for the exported weights' header


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write the run's checkpoint, replacing the earlier one only when the new one is whole and on the disk.

    Raises:
        OutputError: it cannot be written; the earlier one is as it was.
    """
    header = {
        "counters": json.dumps(asdict(checkpoint.counters)),
        "recipe": json.dumps(asdict(checkpoint.recipe)),
        "config": json.dumps(asdict(checkpoint.config)),
        "stamp": checkpoint.stamp,
        "notes": json.dumps(dict(checkpoint.notes)),
    }
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in checkpoint.tensors.items()}
    _FORMAT.write(run / NAME, arrays, header, overwrite=True)


def load_checkpoint(run: Path) -> Checkpoint:
    """Read the run's checkpoint.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = run / NAME
    if not path.exists():
        raise InputError(f"nothing to resume: there is no {path}")
    header, arrays = _FORMAT.read(path)
    try:
        config = json.loads(header["config"])
        return Checkpoint(
            tensors={name: torch.from_numpy(array) for name, array in arrays.items()},
            counters=Counters(**json.loads(header["counters"])),
            recipe=recipe_from(json.loads(header["recipe"]), str(path)),
            config=IRNConfig(**{**config, "blocks": tuple(config["blocks"])}),
            stamp=header["stamp"],
            notes=json.loads(header["notes"]),
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:  # not JSON, or not what belongs there
        raise InputError(f"{path} is damaged: {error}") from error
