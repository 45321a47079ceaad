"""What changed between two evaluations."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from irn_cli.errors import InputError
from irn_cli.evaluation.changes import bootstrap, compare, read_results, show


def found(psnr: dict[str, float | None], method: str = "m", **told: Any) -> dict[str, Any]:
    """What `irn eval --json` writes, as far as comparing needs it."""
    metrics = [
        {"key": "psnr_y", "label": "PSNR Y", "digits": 2, "higher_is_better": True},
        {"key": "lpips", "label": "LPIPS", "digits": 4, "higher_is_better": False},
    ]
    rows = [
        {"method": method, "dataset": "Set5", "name": name, "psnr_y": value, "lpips": 0.1, "bits_per_pixel": 1.0}
        for name, value in psnr.items()
    ]
    protocol = {"scale": 4, "seed": 0, "metrics": metrics, "methods": [{"name": method, "weights_hash": "aa"}], **told}
    return {"protocol": protocol, "pictures": rows}


def test_differences_are_taken_picture_by_picture() -> None:
    before = found({"a": 30.0, "b": 20.0, "c": 25.0, "only": 1.0, "same": None})
    after = found({"c": 25.0, "b": 20.5, "a": 31.0, "same": None})
    for row in after["pictures"]:
        row["lpips"] = 0.05
    psnr, lpips, bits = compare(before, after).changes
    assert (psnr.metric, psnr.pictures, psnr.before, psnr.after) == ("psnr_y", 3, 25.0, 25.5)
    assert psnr.difference == pytest.approx(0.5)
    assert (psnr.better, psnr.worse) == (2, 0)
    assert psnr.low is not None
    assert psnr.high is not None
    assert 0 <= psnr.low < 0.5 < psnr.high <= 1
    assert (lpips.metric, lpips.better, lpips.worse) == ("lpips", 4, 0)  # lower is better
    assert (bits.metric, bits.difference, bits.better, bits.worse) == ("bits_per_pixel", 0, 0, 0)


def test_single_methods_of_other_names_are_compared() -> None:
    (change, *_) = compare(found({"a": 1.0}, "one"), found({"a": 2.0}, "two")).changes
    assert (change.method, change.other, change.difference, change.low) == ("one", "two", 1.0, None)


def test_accents_may_be_written_in_either_way() -> None:
    comparison = compare(found({"caf\u00e9.png": 1.0}), found({"cafe\u0301.png": 2.0}))
    assert comparison.changes[0].difference == 1.0
    assert comparison.remarks == ()


def test_what_else_differs_is_told() -> None:
    after = found({"a": 1.0, "z": 2.0}, seed=7, versions={"torch": "2.13"})
    after["protocol"]["methods"] = [{"name": "m", "weights_hash": "bb"}, {"name": "n"}]
    assert compare(found({"a": 1.0}, versions={"torch": "2.11"}), after).remarks == (
        "seed: 0 before, 7 after",
        "torch: 2.11 before, 2.13 after",
        "m: weights aa before, bb after",
        "n: only after",
        "pictures only after: 1, the first Set5/z",
    )
    same = found({"a": 1.0})
    assert compare(same, copy.deepcopy(same)).remarks == ()


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(50):
        low, high = bootstrap(list(random.normal(0.3, 1, 30)))
        covered += low <= 0.3 <= high
    assert 43 <= covered <= 49
    assert bootstrap([1.0, 2.0, 4.0]) == bootstrap([1.0, 2.0, 4.0])


def test_the_interval_of_many_pictures_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(2).normal(0, 2, 1_000)
    low, high = bootstrap(list(values))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_the_table() -> None:
    stream = io.StringIO()
    names = [f"p{k}" for k in range(9)]
    before, after = (
        found(dict.fromkeys(names, 30.0)),
        found({name: 31.0 + k / 10 for k, name in enumerate(names)}, seed=1),
    )
    show(compare(before, after), Console(file=stream, width=120))
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert lines[1].startswith("Set5 m PSNR Y 30.00 31.40 +1.400 +1.2")
    assert lines[1].endswith(" 9/0/0")
    assert lines[-1] == "seed: 0 before, 1 after"
    show(compare(found({"a": 1.0}), found({"b": 1.0})), Console(file=stream, width=120))
    assert "nothing in common to compare" in stream.getvalue()


def damaged() -> dict[str, dict[str, Any]]:
    """Results in which one thing is of another kind, by a name for it."""
    whole = found({"a": 30.0, "b": 31.0}, versions={"irn": "1"})
    row, protocol = whole["pictures"][0], whole["protocol"]
    metric, method = protocol["metrics"][0], protocol["methods"][0]
    parts = [
        *((row, key, value) for key, value in [("psnr_y", "30"), ("name", ["a"]), ("dataset", 5), ("method", None)]),
        *((metric, key, value) for key, value in [("digits", "2"), ("key", 1), ("label", None)]),
        *((protocol, key, value) for key, value in [("versions", [1]), ("methods", ["m"]), ("metrics", {"a": 1})]),
        (method, "weights_hash", 5),
        (whole, "pictures", [["m", "Set5", "a"]]),
        (whole, "protocol", "4x"),
    ]
    results = {}
    for part, key, value in parts:
        before, part[key] = part[key], value
        results[f"{key}={value}"] = copy.deepcopy(whole)
        part[key] = before
    return results


@pytest.mark.parametrize("text", [
    "", "no json", "[]", "3", '{"pictures": [{}]}', '{"pictures": [], "protocol": {}}',
    *(pytest.param(json.dumps(results), id=name) for name, results in damaged().items()),
])  # fmt: skip
def test_files_of_another_kind_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json is not what irn eval --json writes$"):
        read_results(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read_results(tmp_path / "absent.json")
    (tmp_path / "a.json").write_text(json.dumps(found({"a": 1.0})))
    assert read_results(tmp_path / "a.json") == found({"a": 1.0})
