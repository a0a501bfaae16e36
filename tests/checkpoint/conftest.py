"""Retried I/O in these tests takes no time."""

import pytest

from jaxdistill.runtime import files


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_WAITS", (0.0,))
