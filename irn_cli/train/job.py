"""From what a user asks for to a training job that can run: processes, recipe, pictures, network, step."""

import gc
import json
import os
import platform
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist

from irn_cli.config import IRNConfig
from irn_cli.device import resolve_device, resolve_precision
from irn_cli.errors import InputError, IrnError, OutputError, UsageError
from irn_cli.evaluation.dataset import DataSet, find_data_set, load
from irn_cli.files import atomic_write, lock, require_writable
from irn_cli.hardware import parse_memory, usable_memory
from irn_cli.model import IRN
from irn_cli.paths import real_path
from irn_cli.train import checkpoint as checkpoints
from irn_cli.train import request as requests
from irn_cli.train.checkpoint import Checkpoint, load_checkpoint
from irn_cli.train.data import Pictures, hold_out, load_pictures, picture_stamp, sweep_cache
from irn_cli.train.losses import VGGFeatures
from irn_cli.train.recipe import Recipe, load_recipe, recipe_toml
from irn_cli.train.request import Request, recall
from irn_cli.train.step import Step
from irn_cli.weights import load_model, weights_hash

# How long processes wait for one another: the first validates and saves meanwhile. torchrun ends those of a lost one.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Limits:
    """What ends a call before its recipe does."""

    seconds: float | None = None  # of work
    steps: int | None = None


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """A run that can start."""

    step: Step
    run: Path
    pictures: Pictures
    validation: DataSet | None
    checkpoint: Checkpoint | None  # what is resumed
    notes: Mapping[str, str]  # for the header of the exported weights
    limits: Limits  # what ends this call before its recipe does
    facts: tuple[str, ...]  # what it will do
    remarks: tuple[str, ...]  # what may be wrong with that
    remembered: Mapping[str, Any]  # what a later call that continues the run need not repeat
    found: tuple[int, int] | None  # the version of what the run's directory held
    branched: Path | None = None  # the run that it continues in a directory of its own

    def open(self) -> BinaryIO:
        """Make the run's directory, keep other processes out of it, and note in it what is run.

        Returns:
            The log; while it stays open, no other process can open the run.

        Raises:
            UsageError: another process trains there, or has done so since the job was prepared.
            OutputError: the directory cannot be written.
        """
        validation = () if self.validation is None else self.validation.pictures
        files = {
            "recipe.toml": recipe_toml(self.step.recipe),
            "validation.txt": "".join(f"{path}\n" for path in validation),
            requests.NAME: json.dumps(self.remembered, indent=2) + "\n",
        }
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                log = stack.enter_context((self.run / "log.jsonl").open("ab"))
                if not lock(log):
                    raise UsageError(f"another process trains in {self.run}: stop it, or name another directory (-o)")
                if _version(self.run) != self.found:
                    raise UsageError(f"another process has trained in {self.run} meanwhile: try again")
                if self.checkpoint is None or self.branched is not None:
                    (self.run / checkpoints.NAME).unlink(missing_ok=True)
                    log.truncate(0)
                    log.write(self._log_so_far())
                    log.flush()
                for name, text in files.items():
                    with atomic_write(self.run / name, overwrite=True) as stream:
                        stream.write(text.encode(errors="surrogateescape"))  # names as they are, UTF-8 or not
                stack.pop_all()
            return log
        except OSError as error:
            raise OutputError(f"cannot write to {self.run}: {error.strerror or error}") from error

    def _log_so_far(self) -> bytes:
        """A branch's log begins with that of its run, up to where it branches off."""
        if self.checkpoint is None or self.branched is None:
            return b""
        path, step = self.branched / "log.jsonl", self.checkpoint.counters.step
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        return b"".join(line for line in lines if line.endswith(b"}\n") and json.loads(line)["step"] <= step)


def _version(run: Path) -> tuple[int, int] | None:
    """Changes with each save into a run's directory."""
    try:
        status = (run / checkpoints.NAME).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Join the other processes, where torchrun started several; gives the name of this one's device.

    Whoever trains within this scope must let go of all that it trained with before the scope ends.

    Raises:
        UsageError: several are promised, but not by torchrun.
        DeviceError: there is no GPU for this one.
    """
    count = _number_of_torchrun("WORLD_SIZE", 1)
    if count == 1:
        yield device
        return
    if missing := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UsageError(f"WORLD_SIZE is set, but not {missing[0]}: torchrun sets both; unset it for one process")
    _number_of_torchrun("RANK", 0, count - 1)
    local_rank = _number_of_torchrun("LOCAL_RANK", 0, count - 1)
    _number_of_torchrun("MASTER_PORT", 0, 65535)
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        device = f"cuda:{local_rank}"
    on_gpu = resolve_device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(torch.device(device))
    import_module("torch.distributed.nn")  # now: loaded when there is a group, its functions keep that as a default
    with _signals_end_it():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield device
        dist.barrier()  # leave together: one that ends while the first still validates may be aborted by the runtime
    finally:
        # gloo's threads end with the last object that uses them; at Python's own end they abort it at times.
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """Within this scope Ctrl-C and SIGTERM end the process at once: no handler of Python's runs while C++ waits."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in heeded:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


def _number_of_torchrun(name: str, least: int, most: int = 2**31 - 1) -> int:
    """A number that torchrun puts into the environment; without torchrun, the least.

    Raises:
        UsageError: it is none, or out of bounds.
    """
    text = os.environ.get(name, str(least))
    if not (text.isdecimal() and least <= int(text) <= most):
        expected = f"a whole number from {least}" + (f" to {most}" if most < 2**31 - 1 else "")
        raise UsageError(f"{name}={text}: expected {expected}, as torchrun sets it; unset WORLD_SIZE for one process")
    return int(text)


def prepare(request: Request) -> TrainingJob:
    """Find, read and check everything that a run needs; writes nothing but the cache of decoded pictures.

    Raises:
        UsageError: the request contradicts itself or names something that is not there.
        InputError: there are no usable pictures, or nothing whole to resume.
        OutputError: the run's directory cannot be written.
        WeightsError: weights are damaged.
    """
    request = request.repeated()
    checkpoint, model, recipe, run = _continue(request, request.resume) if request.resume else _begin(request)
    found = _version(run)
    require_writable(run / checkpoints.NAME, overwrite=True)  # what follows may take minutes
    device = resolve_device(request.device)
    precision = resolve_precision(request.precision, device)
    features = _features(request, recipe, checkpoint)
    sets = [find_data_set(directory, include_own=request.include_own) for directory in request.data]
    training, validation = _pictures(request, recipe, [path for one in sets for path in one.pictures])
    sharing = _number_of_torchrun("LOCAL_WORLD_SIZE", 1)
    limit = (parse_memory(request.memory) if request.memory else usable_memory() // 3) // sharing
    freed = sweep_cache()
    pictures = load_pictures(training, recipe.scale, recipe.patch, limit, include_own=request.include_own)
    step = Step(model, recipe, pictures, device, precision, features)
    notes = _notes(request, model, recipe, pictures, step)
    if checkpoint:
        notes = _continued(checkpoint, recipe, notes)
    if request.anneal:
        notes["recipe"] = f"{notes.get('recipe', 'unknown')}; its rate taken to zero in {request.anneal:.0f} s"
    limits = Limits(_seconds(request, recipe, checkpoint), request.stop_after)
    left = 1 - checkpoint.counters.progress if checkpoint else 1.0
    remarks = [*_remarks(request, recipe, training, pictures, validation), *filter(None, (one.remark for one in sets))]
    if checkpoint is not None:
        remarks += _differences(checkpoint, recipe, training, pictures)
    return TrainingJob(
        step=step,
        run=run,
        pictures=pictures,
        validation=validation,
        checkpoint=checkpoint,
        notes=notes,
        limits=limits,
        facts=_facts(request, step, pictures, validation, freed),
        remarks=tuple(remarks),
        remembered=replace(request, vgg=request.vgg if features else None).remembered(
            limits.seconds / left if limits.seconds and left else None
        ),
        found=found,
        branched=request.resume if request.resume and real_path(run) != real_path(request.resume) else None,
    )


def _continue(request: Request, resumed: Path) -> tuple[Checkpoint, IRN, Recipe, Path]:
    """A run's own network and recipe, the recipe with what this request changes."""
    checkpoint = load_checkpoint(resumed)
    run = request.run or resumed
    same = real_path(run) == real_path(resumed)
    if request.anneal is not None:
        if same:
            raise UsageError("--anneal leaves the run as it is: name the directory of the new one with -o")
        checkpoint = _branch(checkpoint, resumed)
    recipe = replace(checkpoint.recipe, **request.changes())
    model = _fresh(checkpoint.config, recipe.seed)  # its weights come with the checkpoint's other tensors
    _check_scale(recipe, model, str(resumed))
    if not same:
        _require_no_run(run, request)
    return checkpoint, model, recipe, run


def _begin(request: Request) -> tuple[None, IRN, Recipe, Path]:
    """A named recipe with what the request changes, and a new network or the weights to start from."""
    name = request.recipe or "irn"
    start = load_model(request.init) if request.init else None
    changes = ({"scale": start.config.scale} if start else {}) | request.changes()
    recipe = replace(load_recipe(name, changes.get("scale")), **changes)
    if recipe.stage == "irn-plus" and start is None:
        raise UsageError("stage irn-plus continues IRN weights: name them with --init")
    blocks = (recipe.blocks,) * (recipe.scale.bit_length() - 1)
    model = start or _fresh(IRNConfig(blocks, recipe.growth, recipe.clamp), recipe.seed)
    _check_scale(recipe, model, str(request.init))
    run = request.run or Path("runs") / f"{name}-x{recipe.scale}"
    _require_no_run(run, request)
    return None, model, recipe, run


def _require_no_run(run: Path, request: Request) -> None:
    if (run / checkpoints.NAME).exists() and not request.force:
        raise UsageError(f"{run} already holds a run: --resume continues it, --force starts over")


def _branch(checkpoint: Checkpoint, run: Path) -> Checkpoint:
    """Where a run stands in its constant stage, to be continued with a rate that falls to zero over a time limit."""
    recipe, counters = checkpoint.recipe, checkpoint.counters
    if recipe.schedule != "trapezoid":
        raise UsageError(f'{run} has no constant rate to come down from: its schedule is "{recipe.schedule}"')
    if counters.progress >= 1 - recipe.anneal:
        raise UsageError(f"{run} is past its constant stage, after {counters.progress:.0%} of its schedule")
    recipe = replace(recipe, anneal=1.0, horizon="time")
    return replace(checkpoint, recipe=recipe, counters=replace(counters, progress=0.0))


def _seconds(request: Request, recipe: Recipe, checkpoint: Checkpoint | None) -> float | None:
    """The time limit: where it is the schedule's, a call that continues a run gets what is left of it."""
    if checkpoint is None or request.anneal is not None or recipe.horizon != "time":
        return request.anneal or request.time_limit
    before = recall(request.resume).get("time_limit") if request.resume else None
    left = before and before * (1 - checkpoint.counters.progress)
    return request.time_limit or left


def _facts(request: Request, step: Step, pictures: Pictures, validation: DataSet | None, freed: int) -> tuple[str, ...]:
    held = f"{len(validation.pictures)} to validate on" if validation else "none to validate on"
    if validation is None and step.recipe.validation:
        held += " (with fewer than ten pictures none is held out; name a folder of others with --val)"
    facts = [f"{len(pictures)} pictures to train on, {held}; {_hardware(step.device)}, {step.precision}"]
    if request.init:
        facts.append("starting weights carry no optimiser state: results drop at first; --resume restores it")
    if freed:
        facts.append(f"removed {freed / 1e9:.1f} GB of decoded pictures that no run has used for a month")
    return tuple(facts)


def _remarks(
    request: Request, recipe: Recipe, training: list[Path], pictures: Pictures, validation: DataSet | None
) -> list[str]:
    lines = []
    if validation and not {real_path(path) for path in training}.isdisjoint(map(real_path, validation.pictures)):
        lines.append("validation uses pictures that are trained on: other pictures will come back worse")
    lines += [f"left out: {reason}" for reason in pictures.skipped[:5]]
    if len(pictures.skipped) > 5:
        lines.append(f"left out: {len(pictures.skipped) - 5} more")
    if request.vgg and recipe.stage != "irn-plus":
        lines.append("--vgg is not used: stage irn compares no features")
    return lines


def _differences(checkpoint: Checkpoint, recipe: Recipe, training: list[Path], pictures: Pictures) -> list[str]:
    """Why a continued run does not go on as it would have."""
    lines, before = [], checkpoint.recipe
    if checkpoint.stamp not in (pictures.stamp, picture_stamp(training, before.scale, before.patch)):
        lines.append("these are not the pictures the run had: it will not continue bit for bit")
    if recipe.patch != before.patch:
        lines.append(
            f"crops of {recipe.patch}x{recipe.patch} where the run had {before.patch}x{before.patch}: it will not "
            "continue bit for bit"
        )
    return lines


def _features(request: Request, recipe: Recipe, checkpoint: Checkpoint | None) -> VGGFeatures | None:
    """What the perceptual term compares, where the recipe has one."""
    if recipe.stage != "irn-plus" or not recipe.perceptual:
        return None
    if request.vgg is None:
        raise UsageError(
            "this recipe compares VGG19 features: give their file (--vgg), for example torchvision's from "
            "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth, or set perceptual = 0 in --config"
        )
    before = checkpoint.notes.get("vgg_input") if checkpoint else None
    if before and request.vgg_input not in (None, before):
        raise UsageError(f"the run's VGG19 features expect {before} input: leave out --vgg-input")
    return VGGFeatures(
        request.vgg, "oxford" if "oxford" in (before, request.vgg_input) else "torchvision", recipe.feature_scale
    )


def _check_scale(recipe: Recipe, model: IRN, source: str) -> None:
    if recipe.scale != model.config.scale:
        raise UsageError(f"{source} is for {model.config.scale}x, but the recipe is for {recipe.scale}x")


def _fresh(config: IRNConfig, seed: int) -> IRN:
    """A new network; its initial values depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % 2**63)  # torch.manual_seed would seed every GPU's too
        return IRN(config)


def _pictures(request: Request, recipe: Recipe, found: list[Path]) -> tuple[list[Path], DataSet | None]:
    """What to train on, and what to validate on: a directory of its own, or a few pictures held out."""
    found = list({real_path(path): path for path in found}.values())  # one folder may lie in another
    obstacle = partial(_obstacle, scale=recipe.scale, include_own=request.include_own)
    if request.validation is not None:
        validation = find_data_set(request.validation, include_own=request.include_own)
        reason = obstacle(validation.pictures[0])
        if reason and all(map(obstacle, validation.pictures[1:])):
            raise InputError(f"no validation picture can be measured; the first: {reason}")
        held_out = {real_path(path) for path in validation.pictures}  # DIV2K's may lie in one folder with the others
        return [path for path in found if real_path(path) not in held_out] or found, validation
    training, held = hold_out(found, recipe.validation, lambda path: obstacle(path) is None)
    if not held:
        return training, None
    root = Path(os.path.commonpath([real_path(path).parent for path in held]))
    return training, DataSet("held out", root, tuple(map(real_path, held)), include_own=request.include_own)


def _obstacle(path: Path, scale: int, include_own: bool) -> str | None:
    """What keeps a picture from being validated on; else the first validation would find out, after hours."""
    try:
        load(DataSet("", path.parent, (path,), include_own=include_own), path, scale, scale)
    except IrnError as error:
        return str(error)
    return None


def _notes(request: Request, model: IRN, recipe: Recipe, pictures: Pictures, step: Step) -> dict[str, str]:
    told = ", ".join(f"{key} = {value}" for key, value in request.changes().items())
    notes = {
        "recipe": (request.recipe or "irn") + (f" with {told}" if told else ""),
        "data": f"{len(pictures)} pictures of {', '.join(real_path(path).name for path in request.data)}",
        "hardware": f"{_hardware(step.device)}, {step.precision}",
        "software": f"torch {torch.__version__}, Python {platform.python_version()}",
    }
    if recipe.stage == "irn-plus" and recipe.perceptual:
        notes["vgg_input"] = request.vgg_input or "torchvision"
    if request.init:
        notes["init"] = f"{model.name} revision {model.revision}, {weights_hash(model.state_dict())[:12]}"
    return notes


def _continued(checkpoint: Checkpoint, recipe: Recipe, now: Mapping[str, str]) -> dict[str, str]:
    """The notes of a run that goes on: what is otherwise from here on is added to what there was."""
    notes, here = dict(checkpoint.notes), f"from step {checkpoint.counters.step}"
    before = asdict(checkpoint.recipe)
    if told := ", ".join(f"{key} = {value}" for key, value in asdict(recipe).items() if value != before[key]):
        notes["recipe"] = f"{notes.get('recipe', 'unknown')}; {here} with {told}"
    for name in ("data", "hardware", "software"):
        if now[name] not in (known := notes.get(name, "unknown")):
            notes[name] = f"{known}; {here} {now[name]}"
    return notes


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, threads: {torch.get_num_threads()}"
