"""Fixtures that many tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Callable[..., Path]:
    """`shared("data", "people")`: a path in the folder of real material beside the project."""

    def path(*parts: str) -> Path:
        found = SHARED.joinpath(*parts)
        if not found.exists():
            pytest.skip(f"needs ../shared/{'/'.join(parts)}, which is not part of the project")
        return found

    return path
