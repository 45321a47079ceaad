"""Where material for the tests lies that the repository does not carry: golden vectors and test sets."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("IRN_SHARED", Path(__file__).parents[2] / "shared"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared test material at {SHARED}")
