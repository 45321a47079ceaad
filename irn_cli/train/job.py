"""From what a user asks for to a job that can run: processes, recipe, pictures, network, step."""

import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from irn_cli.dataset import DataSet, find_data_set, load
from irn_cli.device import parse_memory, physical_memory, resolve_device, resolve_precision
from irn_cli.errors import InputError, IrnError, OutputError, UsageError
from irn_cli.files import atomic_write, require_writable
from irn_cli.model import IRN, IRNConfig
from irn_cli.train import checkpoint as checkpoints
from irn_cli.train.checkpoint import Checkpoint, load_checkpoint
from irn_cli.train.data import Pictures, hold_out, load_pictures
from irn_cli.train.losses import VGGFeatures, VGGInput
from irn_cli.train.recipe import Recipe, load_recipe, read_config, recipe_toml
from irn_cli.train.step import Step
from irn_cli.weights import load_model, weights_hash


@dataclass(frozen=True)
class Request:
    """What a user asks for; None where they leave it to us."""

    data: tuple[Path, ...]
    validation: Path | None = None
    recipe: str | None = None
    config: Path | None = None
    overrides: Mapping[str, Any] | None = None  # values of a recipe's keys; None where not given
    run: Path | None = None
    init: str | None = None
    resume: bool = False
    force: bool = False
    vgg: Path | None = None
    vgg_input: VGGInput = "torchvision"
    device: str = "auto"
    precision: str = "auto"
    memory: str | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """A run that can start."""

    step: Step
    run: Path
    pictures: Pictures
    validation: DataSet | None
    checkpoint: Checkpoint | None  # what is resumed
    notes: Mapping[str, str]  # for the header of the exported weights
    seen: bool  # whether it is validated on pictures that it is trained on

    @property
    def remarks(self) -> list[str]:
        """What the user should know before it starts."""
        step = self.step
        held = f"{len(self.validation.pictures)} to validate on" if self.validation else "none to validate on"
        lines = [f"{len(self.pictures)} pictures to train on, {held}; {_hardware(step.device)}, {step.precision}"]
        if self.seen:
            lines.append("it is validated on pictures that it is trained on: other pictures will come back worse")
        lines += [f"left out: {reason}" for reason in self.pictures.skipped[:5]]
        if len(self.pictures.skipped) > 5:
            lines.append(f"left out: {len(self.pictures.skipped) - 5} more")
        if self.checkpoint is not None and self.checkpoint.stamp != self.pictures.stamp:
            lines.append("these are not the pictures that the run had: it will not go on bit for bit as it would have")
        return lines

    def open(self) -> None:
        """Make the run's directory and note in it what is run.

        Raises:
            OutputError: that is not possible.
        """
        if self.checkpoint is None:
            try:
                for name in (checkpoints.NAME, "log.jsonl"):
                    (self.run / name).unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"cannot write to {self.run}: {error.strerror or error}") from error
        held = [] if self.validation is None else [f"{path}\n" for path in self.validation.pictures]
        for name, text in (("recipe.toml", recipe_toml(self.step.recipe)), ("validation.txt", "".join(held))):
            with atomic_write(self.run / name, overwrite=True) as stream:
                stream.write(text.encode())


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Join the other processes, where torchrun started several; gives the name of this one's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(torch.device(device))
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
        dist.barrier()  # leave together: one that ends while the first still validates may be aborted by the runtime
    finally:
        dist.destroy_process_group()


def prepare(request: Request) -> Job:
    """Find, read and check everything that a run needs; writes nothing but the cache of decoded pictures.

    Raises:
        UsageError: the request contradicts itself or names something that is not there.
        InputError: there are no usable pictures, or nothing whole to resume.
        OutputError: the run's directory cannot be written.
        WeightsError: weights are damaged.
    """
    checkpoint, model, recipe, run = _what_to_train(request)
    require_writable(run / checkpoints.NAME, overwrite=True)  # what follows may take minutes
    device = resolve_device(request.device)
    precision = resolve_precision(request.precision, device)
    features = _features(request, recipe, checkpoint)
    training, validation = _pictures(request, recipe)
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    limit = (parse_memory(request.memory) if request.memory else physical_memory() // 3) // sharing
    pictures = load_pictures(training, recipe.scale, recipe.patch, limit)
    step = Step(model, recipe, pictures, device, precision, features)
    notes = checkpoint.notes if checkpoint else _notes(request, model, recipe, pictures, step)
    seen = validation is not None and not {path.resolve() for path in training}.isdisjoint(
        path.resolve() for path in validation.pictures
    )
    return Job(step, run, pictures, validation, checkpoint, notes, seen)


def parse_duration(text: str) -> float:
    """Turn `90s`, `9m`, `1h30m` or plain seconds into seconds.

    Raises:
        UsageError: the text is no duration, or a duration of nothing.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip().lower())
    parts = match.groups(default="0") if match else ("0", "0", "0")
    seconds = sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))
    if seconds <= 0:
        raise UsageError(f"{text!r} is no time limit: expected something like 9m, 90s or 1h30m")
    return seconds


def _what_to_train(request: Request) -> tuple[Checkpoint | None, IRN, Recipe, Path]:
    """The network and the recipe: a resumed run's own, or a named recipe's with the weights to start from."""
    given = {key: value for key, value in (request.overrides or {}).items() if value is not None}
    config = read_config(request.config) if request.config else {}
    if request.resume:
        if request.init or request.recipe:
            raise UsageError("--resume continues a run with its own recipe and weights: leave out --recipe and --init")
        if request.run is None:
            raise UsageError("--resume needs the run's directory (-o)")
        checkpoint = load_checkpoint(request.run)
        recipe = replace(checkpoint.recipe, **{**config, **given})
        model = _fresh(checkpoint.config, recipe.seed)  # its weights come with the checkpoint's other tensors
        _check_scale(recipe, model, str(request.run))
        return checkpoint, model, recipe, request.run
    recipe = load_recipe(request.recipe or "irn")
    start = load_model(request.init) if request.init else None
    own = {"scale": start.config.scale} if start else {}
    recipe = replace(recipe, **{**own, **config, **given})
    if recipe.stage == "irn-plus" and start is None:
        raise UsageError("stage irn-plus continues IRN weights: name them with --init")
    blocks = (recipe.blocks,) * (recipe.scale.bit_length() - 1)
    model = start or _fresh(IRNConfig(blocks, recipe.growth, recipe.clamp), recipe.seed)
    _check_scale(recipe, model, str(request.init))
    run = request.run or Path("runs") / f"{request.recipe or 'irn'}-x{recipe.scale}"
    if (run / checkpoints.NAME).exists() and not request.force:
        raise UsageError(f"{run} holds a run already: --resume continues it, --force starts anew")
    return None, model, recipe, run


def _features(request: Request, recipe: Recipe, checkpoint: Checkpoint | None) -> VGGFeatures | None:
    """What the perceptual term compares, where the recipe has one."""
    if recipe.stage != "irn-plus" or not recipe.perceptual:
        return None
    if request.vgg is None:
        raise UsageError(
            "this recipe compares VGG19 features: give their file (--vgg), for example torchvision's from "
            "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth, or set perceptual = 0 in --config"
        )
    before = request.vgg_input if checkpoint is None else checkpoint.notes.get("vgg_input", request.vgg_input)
    if before != request.vgg_input:
        raise UsageError(f"the run's VGG19 features are of {before} input: give --vgg-input {before}")
    return VGGFeatures(request.vgg, request.vgg_input, recipe.feature_scale)


def _check_scale(recipe: Recipe, model: IRN, source: str) -> None:
    if recipe.scale != model.config.scale:
        raise UsageError(f"{source} is of scale {model.config.scale}, the recipe of scale {recipe.scale}")


def _fresh(config: IRNConfig, seed: int) -> IRN:
    """A new network; its initial values depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % 2**63)  # torch.manual_seed would seed every GPU's too
        return IRN(config)


def _pictures(request: Request, recipe: Recipe) -> tuple[list[Path], DataSet | None]:
    """What to train on, and what to validate on: a directory of its own, or a few pictures held out."""
    found = [path for directory in request.data for path in find_data_set(directory).pictures]
    found = list({path.resolve(): path for path in found}.values())  # one folder may lie in another
    if request.validation is not None:
        validation = find_data_set(request.validation)
        reason = _obstacle(validation.pictures[0], recipe.scale)
        if reason and all(_obstacle(path, recipe.scale) for path in validation.pictures[1:]):
            raise InputError(f"no validation picture can be measured; the first: {reason}")
        held_out = {path.resolve() for path in validation.pictures}  # DIV2K's may lie in one folder with the others
        return [path for path in found if path.resolve() not in held_out] or found, validation
    training, held = hold_out(found, recipe.validation, lambda path: _obstacle(path, recipe.scale) is None)
    if not held:
        return training, None
    root = Path(os.path.commonpath([path.resolve().parent for path in held]))
    return training, DataSet("held out", root, tuple(path.resolve() for path in held))


def _obstacle(path: Path, scale: int) -> str | None:
    """What keeps a picture from being validated on; else the first validation would find out, after hours."""
    try:
        load(DataSet("", path.parent, (path,)), path, scale, scale)
    except IrnError as error:
        return str(error)
    return None


def _notes(request: Request, model: IRN, recipe: Recipe, pictures: Pictures, step: Step) -> dict[str, str]:
    given = {key: value for key, value in (request.overrides or {}).items() if value is not None}
    config = read_config(request.config) if request.config else {}
    changed = given | {key: value for key, value in config.items() if key not in given}
    told = ", ".join(f"{key} = {value}" for key, value in changed.items())
    notes = {
        "recipe": (request.recipe or "irn") + (f" with {told}" if told else ""),
        "data": f"{len(pictures)} pictures of {', '.join(path.resolve().name for path in request.data)}",
        "hardware": f"{_hardware(step.device)}, {step.precision}",
        "software": f"torch {torch.__version__}, Python {platform.python_version()}",
    }
    if recipe.stage == "irn-plus" and recipe.perceptual:
        notes["vgg_input"] = request.vgg_input
    if request.init:
        notes["init"] = f"{model.name} revision {model.revision}, {weights_hash(model.state_dict())[:12]}"
    return notes


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, threads: {torch.get_num_threads()}"
