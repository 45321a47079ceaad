"""The readers of what strangers send, with broken files, each in a process of its own: a crash is a failure too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import TARGETS


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_whatever_comes_is_read_or_refused(target: str, tmp_path: Path) -> None:
    code = "import sys; from tests import fuzz; sys.exit(fuzz.main(*sys.argv[1:]))"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, target, "20"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert min(told["read"], told["refused"]) > 10
