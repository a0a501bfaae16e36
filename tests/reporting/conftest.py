"""A run to report on."""

from pathlib import Path

import pytest
from made_run import PROVENANCE, line, make


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make(tmp_path / "night", [line(e) for e in (1, 2, 3)], provenance=PROVENANCE)
