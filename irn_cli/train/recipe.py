"""Recipes: every number that decides what a training run does, in one flat TOML file.

The paper's two stages are `irn` and `irn-plus`; `irn-shipped` made the weights that come with this package. A user's
own file and command-line options override a recipe's values, one by one.
"""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from irn_cli.errors import InputError, UsageError
from irn_cli.paths import open_file

Stage = Literal["irn", "irn-plus"]

_MOST = 10**12  # no number in a recipe means more; torch's own have their limits

# What a checkpoint written before these keys existed was trained with.
_BEFORE = {
    "accumulate": 1,
    "anneal": 0.2,
    "guide_chroma": 1.0,
    "momentum": 0.95,
    "optimiser": "adam",
    "panels": 0.0,
    "stripes": 0.0,
    "stripes_levels": 40.0,
    "temperature": (1.0, 1.0),
}


@dataclass(frozen=True)
class Recipe:
    """One training run. A recipe file gives every one of these; there are no defaults in code."""

    stage: Stage  # irn: fidelity (Eq. 10); irn-plus: perception (Eq. 11), continues IRN weights
    scale: int  # 2, 4 or 8
    # The network, where a run starts from nothing; weights (--init) bring their own.
    blocks: int  # InvBlocks in each downscaling module
    growth: int  # channels that each convolution of a dense block adds
    clamp: float  # c: the coupling's log-scale lies in (-c, c)
    # Data.
    batch: int  # crops a step, over all processes together
    accumulate: int  # parts that they are computed in, one after another: less memory, the same gradient
    patch: int  # a crop's side in HR pixels
    flips: bool  # mirror crops at random
    turns: bool  # turn crops by quarter turns at random
    grain: float  # share of the crops that get noise
    grain_levels: float  # its largest standard deviation, in levels of 255
    panels: float  # share of the crops that get flat coloured areas
    stripes: float  # share of the crops that get fine stripes
    stripes_levels: float  # their largest amplitude, in levels of 255
    # Weights of the losses' terms.
    reconstruction: float
    guide: float
    guide_chroma: float  # how much more the guide weighs differences in colour than in brightness; the paper's is 1
    distribution: float  # stage irn: sum(z^2); stage irn-plus: the adversarial term
    perceptual: float  # stage irn-plus only
    feature_scale: float  # VGG features, of torchvision's size, are multiplied by this before they are compared
    temperature: tuple[float, float]  # range of what each crop's latent is multiplied by; half gets the lowest
    # Optimiser.
    optimiser: Literal["adam", "muon"]  # muon: for convolutions, and Adam for biases
    lr: float  # peak learning rate
    momentum: float  # Muon's
    beta1: float  # Adam's
    beta2: float
    weight_decay: float  # Adam: L2, as the paper's; Muon: share of the weights, times the rate, lost at each step
    clip: float  # largest norm of the whole gradient
    # Schedule.
    iterations: int  # steps of the generator
    # steps: the rate times `decay` at each milestone; cosine: to zero; trapezoid: constant, then linear to zero
    schedule: Literal["steps", "cosine", "trapezoid"]
    milestones: tuple[int, ...]
    decay: float
    anneal: float  # share of the run, at its end, in which a trapezoid's rate falls
    warmup: int  # steps in which the rate rises linearly from 0; a tenth of the run at most
    horizon: Literal["iterations", "time"]  # time: the schedule ends with the time limit, where there is one
    # Stage irn-plus.
    discriminator_alone: int  # steps before the generator's first
    discriminator_lr: float
    discriminator_beta1: float
    discriminator_beta2: float
    # The average of the weights, which is what is validated and exported.
    average: float  # its decay a step
    # Guard.
    jump: float  # a loss this many times its running level is skipped
    jump_after: int  # but only after so many steps: a fresh network's loss is wild by nature
    patience: int  # skipped steps in a row until the run returns to its last good state
    setback: float  # what the rate is multiplied by on such a return
    # Execution and records.
    recompute: bool  # recompute each block's activations in the backward pass: less memory, more time
    term_norms: bool  # log each loss term's gradient norm (one extra backward pass a term in each row)
    log_every: int  # steps between rows of the log
    save_every: int  # steps between checkpoints
    validate_every: int  # steps between validations
    validation: int  # pictures held out of the training data where no validation directory is given
    seed: int

    def __post_init__(self) -> None:  # noqa: C901  # one check after another
        positive = ("batch", "accumulate", "patch", "blocks", "growth", "clamp", "lr", "clip", "iterations", "jump",
                    "patience", "setback", "anneal", "log_every", "save_every", "validate_every", "feature_scale",
                    "discriminator_lr")  # fmt: skip
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{field.name} must be a finite number, not {value}")
            if isinstance(value, int | float) and value >= _MOST and field.name != "seed":
                raise UsageError(f"{field.name} must be below {_MOST:.0e}, not {value}")
            if field.name in positive and value <= 0:
                raise UsageError(f"{field.name} must be greater than 0, not {value}")
            if isinstance(value, int | float) and value < 0:
                raise UsageError(f"{field.name} must not be negative, not {value}")
        for name in ("momentum", "beta1", "beta2", "discriminator_beta1", "discriminator_beta2", "average"):
            if getattr(self, name) >= 1:
                raise UsageError(f"{name} must be below 1, not {getattr(self, name)}")
        if len(self.temperature) != 2 or not 0 <= self.temperature[0] <= self.temperature[1] < math.inf:
            raise UsageError(f"temperature must be a range such as [0.0, 1.0], not {list(self.temperature)}")
        if self.scale not in (2, 4, 8):
            raise UsageError(f"scale must be 2, 4 or 8, not {self.scale}")
        if self.patch % self.scale or self.patch < 2 * self.scale:
            raise UsageError(f"patch must be a multiple of the scale {self.scale}, at least twice it, not {self.patch}")
        if max(self.grain, self.panels, self.stripes, self.anneal) > 1 or self.setback >= 1:
            raise UsageError("grain, panels, stripes and anneal are shares of at most 1, and setback must be below 1")

    @property
    def steps(self) -> int:
        """Steps of the whole run: those of the discriminator alone, then the generator's."""
        return self.iterations + (self.discriminator_alone if self.stage == "irn-plus" else 0)

    def rate(self, step: int, progress: float) -> float:
        """The generator's learning rate at a step of the run.

        Args:
            step: the step, from 0; those of the discriminator alone count too.
            progress: how much of the run has passed, 0 to 1.
        """
        step -= self.steps - self.iterations
        # In a run that is short for its warm-up, the rate has risen after a tenth of it.
        rate = self.lr * min(1.0, max((step + 1) / self.warmup, 10 * progress)) if self.warmup else self.lr
        if self.schedule == "cosine":
            return rate * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        if self.schedule == "trapezoid":
            return rate * min(1.0, (1 - progress) / self.anneal)
        return rate * self.decay ** sum(step >= milestone for milestone in self.milestones)


def load_recipe(name: str, scale: int | None = None) -> Recipe:
    """Read one of the package's recipes.

    Args:
        name: `irn`, `irn-plus` or `irn-shipped`.
        scale: the recipe's own where None. What differs at 2x stands in the file's table `[x2]`, and so on.

    Raises:
        UsageError: there is no such recipe.
    """
    file = resources.files("irn_cli.train") / "recipes" / f"{name}.toml"
    if name not in recipe_names():
        raise UsageError(f"no recipe {name!r}; there are: {', '.join(recipe_names())}")
    values = tomllib.loads(file.read_text(encoding="utf-8"))
    tables = {key: values.pop(key) for key in list(values) if isinstance(values[key], dict)}
    values["scale"] = scale or values["scale"]
    return Recipe(**_checked(values | tables.get(f"x{values['scale']}", {}), name))


def read_config(path: Path) -> dict[str, Any]:
    """Read a TOML file with any of a recipe's keys.

    Raises:
        InputError: the file cannot be read or is not TOML.
        UsageError: it has an unknown key or a value of the wrong kind.
    """
    try:
        with open_file(path) as stream:
            given = tomllib.load(stream)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    return _checked(given, str(path))


def recipe_from(values: Mapping[str, Any], source: str) -> Recipe:
    """Make a recipe of stored values, as a checkpoint holds them.

    Raises:
        UsageError: a key or value that this version does not know, or one that is missing.
    """
    checked = _checked({**_BEFORE, **values}, source)
    if missing := {field.name for field in fields(Recipe)} - set(checked):
        raise UsageError(f"{source}: its recipe lacks {', '.join(sorted(missing))}")
    return Recipe(**checked)


def recipe_names() -> list[str]:
    """The recipes in the package."""
    directory = resources.files("irn_cli.train") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in directory.iterdir() if entry.name.endswith(".toml"))


def recipe_toml(recipe: Recipe) -> str:
    """Write a recipe as TOML that `load_recipe` reads back as the same."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in asdict(recipe).items())


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return str(list(value)) if isinstance(value, tuple) else repr(value)


def _checked(given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check keys and kinds of values; whole numbers may stand where fractions can."""
    kinds = get_type_hints(Recipe)
    checked = {}
    for key, value in given.items():
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{source}: a recipe has no {key!r}{hint}")
        checked[key] = _convert(value, kinds[key], f"{source}: {key}")
    return checked


def _convert(value: Any, kind: Any, where: str) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{where} must be one of {', '.join(get_args(kind))}, not {value!r}")
        return value
    if get_origin(kind) is tuple:
        number, numbers = (float, "numbers") if get_args(kind)[0] is float else (int, "whole numbers")
        if not isinstance(value, list | tuple) or not all(type(entry) in (int, number) for entry in value):
            raise UsageError(f"{where} must be a list of {numbers}, not {value!r}")
        return tuple(map(number, value))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", bool: "true or false"}
        raise UsageError(f"{where} must be {words[kind]}, not {value!r}")
    return value
