"""One record of all comparisons; `PARITY_TABLE=1` writes it into the README."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparison import Parity

README = Path(__file__).with_name("README.md")
TABLE_STARTS = "<!-- The table, written by the command above: -->\n"


@pytest.fixture(scope="session")
def parity() -> Iterator[Parity]:
    if os.environ.get("PARITY_TABLE") and os.environ.get("PYTEST_XDIST_WORKER"):
        pytest.exit("a process of several sees a part of the table: PARITY_TABLE goes without -n")
    record = Parity()
    yield record
    if os.environ.get("PARITY_TABLE"):
        explanation, _, _ = README.read_text().partition(TABLE_STARTS)
        README.write_text(explanation + TABLE_STARTS + "\n" + record.table())
