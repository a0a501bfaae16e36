"""The report callback: each kind of failure is a warning, once, and none ends a run."""

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from jaxdistill.runtime.errors import OutputError
from jaxdistill.training.callbacks import Report


def not_written(what: str) -> OutputError:
    return OutputError(f"{what}: the report cannot be written", code="report-not-written")


def warnings_of(caplog: pytest.LogCaptureFixture, failures: Sequence[Exception]) -> list[str]:
    report = Report()
    for failure in failures:

        def close(failure: Exception = failure) -> None:
            raise failure

        trainer: Any = SimpleNamespace(writer=SimpleNamespace(close=close))
        with caplog.at_level(logging.WARNING, logger="jaxdistill"):
            report.on_fit_end(trainer)
    return [record.getMessage() for record in caplog.records]


def test_another_failure_is_another_warning(caplog: pytest.LogCaptureFixture) -> None:
    grid, page = not_written("epoch_001.png"), not_written("report.html")
    warnings = warnings_of(caplog, [grid, not_written("epoch_002.png"), page, grid, page])
    assert len(warnings) == 2
    assert "epoch_001.png" in warnings[0]
    assert "report.html" in warnings[1]


def test_a_failure_beside_one_that_lasts_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    grid, page = not_written("epoch_001.png"), not_written("report.html")
    assert len(warnings_of(caplog, [grid, ExceptionGroup("both", [grid, page])])) == 2


def test_an_error_of_any_class_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    failures = [ValueError("object at 0x7f01"), ValueError("object at 0x8e02"), KeyError("a")]
    assert len(warnings_of(caplog, failures)) == 2
