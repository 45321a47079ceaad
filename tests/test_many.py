"""Many mixed files in one run; `python -m tests.many` does the same with ten thousand."""

from pathlib import Path

import pytest

from tests.many import check


@pytest.mark.slow
def test_mixed_files_are_all_accounted_for_whatever_ends_a_run(tmp_path: Path) -> None:
    assert len(list(check(400, tmp_path))) == 8
