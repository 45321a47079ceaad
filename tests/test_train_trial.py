"""The trial that anyone can run: `examples/trial.toml`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from irn_cli.cli import irn
from irn_cli.evaluation.dataset import find_data_set
from irn_cli.evaluation.evaluate import evaluate
from irn_cli.evaluation.methods import Baseline
from irn_cli.evaluation.scores import Score
from irn_cli.train.recipe import read_config
from irn_cli.train.records import read_log

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_its_file_is_read() -> None:
    assert read_config(EXAMPLES / "trial.toml")["horizon"] == "iterations"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_from_nothing_it_passes_bicubic(tmp_path: Path) -> None:
    for name in ("data", "val"):
        (tmp_path / name).mkdir()
    for photo in (EXAMPLES / "photos").glob("*.??g"):
        place = "val" if photo.stem == "astronaut" else "data"
        (tmp_path / place / photo.name).symlink_to(photo)
    options = ["--recipe", "irn-shipped", "--config", str(EXAMPLES / "trial.toml"), "-o", str(tmp_path / "run"), "-q"]
    arguments = ["train", "--data", str(tmp_path / "data"), "--val", str(tmp_path / "val"), *options]
    result = CliRunner().invoke(irn, arguments, standalone_mode=False)
    assert result.return_value == 0, result.exception
    (bicubic,) = evaluate([Baseline("bicubic", 4)], [find_data_set(tmp_path / "val")])
    assert isinstance(bicubic, Score)
    scores = [row["val_psnr_y"] for row in read_log(tmp_path / "run" / "log.jsonl") if "val_psnr_y" in row]
    assert scores[-1] > bicubic.psnr_y
