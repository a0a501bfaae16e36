"""A plugin of pytest: records each failed test at once, since a run may be stopped at any time."""

import os

import pytest
import results


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Records a failure, in the process that collects what the workers of pytest-xdist report."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
        message = " ".join(line[1:].strip() for line in lines[:3]) or str(report.longrepr)[-300:]
        results.append_here("failed test", name=report.nodeid, message=message[:300])
