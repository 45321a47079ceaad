"""Where the golden vectors and test pictures lie, which are not part of the repository."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("IRN_SHARED") or Path(__file__).parents[2] / "shared")

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared test data in {SHARED} (set IRN_SHARED)")
