"""Recipes: complete, checked, overridden key by key."""

import tomllib
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from irn_cli.errors import InputError, UsageError
from irn_cli.train.recipe import Recipe, load_recipe, read_config, recipe_from, recipe_names, recipe_toml


@pytest.mark.parametrize("name", ["irn", "irn-plus", "irn-shipped"])
def test_every_recipe_gives_every_value_and_survives_toml(name: str) -> None:
    recipe = load_recipe(name)
    assert name in recipe_names()
    assert recipe_from(tomllib.loads(recipe_toml(recipe)), name) == recipe
    assert set(tomllib.loads(recipe_toml(recipe))) == {field.name for field in fields(Recipe)}


def test_a_recipe_may_differ_by_scale() -> None:
    two, four = load_recipe("irn-shipped", 2), load_recipe("irn-shipped")
    assert (two.scale, two.guide, two.guide_chroma, two.momentum) == (2, 4, 4, 0.9)
    assert (four.scale, four.guide, four.guide_chroma) == (4, 16, 4)
    assert replace(two, scale=4, guide=16.0) == four
    assert load_recipe("irn", 2) == replace(load_recipe("irn"), scale=2)


def test_the_papers_numbers() -> None:
    one, two = load_recipe("irn"), load_recipe("irn-plus")
    assert (one.reconstruction, one.guide, one.distribution, one.batch, one.patch, one.clip) == (1, 16, 1, 16, 144, 10)
    assert (one.beta1, one.beta2, one.weight_decay, one.grain) == (0.9, 0.999, 1e-5, 0)
    rates = [one.rate(step, 0.0) for step in (0, 9_999, 10_000, 20_000, 30_000, 40_000, 49_999)]
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 5e-5, 2.5e-5, 1.25e-5, 1.25e-5])
    assert one.steps == 50_000
    assert (two.reconstruction, two.guide, two.distribution, two.perceptual) == (0.01, 16, 1, 0.01)
    assert two.steps == 25_000
    rates = [two.rate(step, 0.0) for step in (5_000, 9_999, 10_000, 15_000)]  # the first 5,000 are the discriminator's
    assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 2.5e-5])


def test_a_cosine_starts_after_warming_up_and_ends_at_zero() -> None:
    recipe = replace(load_recipe("irn-shipped"), schedule="cosine")
    assert recipe.rate(0, 0.0) == pytest.approx(recipe.lr / recipe.warmup)
    assert recipe.rate(recipe.warmup, 0.5) == pytest.approx(recipe.lr / 2)
    assert recipe.rate(10**6, 1.0) == 0.0
    assert recipe.rate(3, 0.1) > 0.9 * recipe.lr  # a run of some 40 steps in all
    assert recipe.grain > 0


def test_a_trapezoid_is_constant_and_then_falls_to_zero() -> None:
    recipe = replace(load_recipe("irn"), schedule="trapezoid", anneal=0.25, lr=1e-3, warmup=100)
    rates = [recipe.rate(50_000, progress) for progress in (0.1, 0.5, 0.75, 0.875, 1.0)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4, 0.0])
    assert recipe.rate(49, 0.001) == pytest.approx(5e-4)
    assert recipe.rate(4, 0.05) == pytest.approx(5e-4), "a run of 100 steps has warmed up after 10 of them"


def test_a_users_file_overrides_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("guide = 40\nmilestones = [1, 2]\n")
    recipe = replace(load_recipe("irn"), **read_config(path))
    assert (recipe.guide, recipe.milestones) == (40.0, (1, 2))
    assert asdict(recipe).items() - {"milestones": 0}.items() >= {("lr", 2e-4), ("scale", 4)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gide = 1", "no 'gide'; did you mean 'guide'"),
        ("iteration = 1", "did you mean 'iterations'"),
        ("xyzzy = 1", "no 'xyzzy'$"),
        ("batch = 1.5", "batch must be a whole number, not 1.5"),
        ("batch = true", "batch must be a whole number"),
        ("lr = 'fast'", "lr must be a number"),
        ("flips = 1", "flips must be true or false"),
        ("milestones = [1.5]", "milestones must be a list of whole numbers"),
        ("temperature = 1.0", "temperature must be a list of numbers"),
        ("optimiser = 'sgd'", "optimiser must be one of adam, muon"),
        ("schedule = 'linear'", "schedule must be one of steps, cosine, trapezoid, not 'linear'"),
    ],
)
def test_what_a_file_cannot_say(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch must be greater than 0"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"lr": 1e39}, "lr must be below 1e\\+12"),
        ({"batch": 10**30}, "batch must be below 1e\\+12"),
        ({"guide": -1.0}, "guide must not be negative"),
        ({"scale": 3}, "scale must be 2, 4 or 8, not 3"),
        ({"patch": 145}, "patch must be a multiple of the scale 4, at least twice it, not 145"),
        ({"patch": 4}, "patch must be a multiple of the scale 4, at least twice it, not 4"),
        ({"beta2": 1.0}, "beta2 must be below 1"),
        ({"grain": 1.5}, "grain, panels, stripes and anneal are shares"),
        ({"panels": 1.5}, "grain, panels, stripes and anneal are shares"),
        ({"stripes": 1.5}, "grain, panels, stripes and anneal are shares"),
        ({"anneal": 1.5}, "grain, panels, stripes and anneal are shares"),
        ({"momentum": 1.0}, "momentum must be below 1"),
        ({"temperature": (1.0, 0.5)}, r"temperature must be a range such as \[0.0, 1.0\], not \[1.0, 0.5\]"),
        ({"temperature": (1.0,)}, "temperature must be a range"),
    ],
)
def test_values_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(load_recipe("irn"), **change)  # type: ignore[arg-type]


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe 'best'; there are: irn, irn-plus, irn-shipped"):
        load_recipe("best")
    with pytest.raises(InputError, match="cannot read"):
        read_config(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("= 1")
    with pytest.raises(InputError, match="is not TOML"):
        read_config(tmp_path / "bad.toml")
    stored = asdict(load_recipe("irn"))
    for key in ("accumulate", "optimiser", "momentum", "temperature", "guide_chroma", "anneal"):
        del stored[key]
    assert recipe_from(stored, "of an earlier version") == load_recipe("irn")
    with pytest.raises(UsageError, match="lacks batch"):
        recipe_from({key: value for key, value in asdict(load_recipe("irn")).items() if key != "batch"}, "old")
