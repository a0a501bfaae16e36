"""Messages that cannot be printed never end a run."""

import errno
import io
import logging

import pytest

from jaxdistill.reporting.console import UnfailingConsole


class Broken(io.StringIO):
    """A terminal that takes nothing."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, "cannot be written")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EPIPE])
def test_a_failure_is_logged_once(number: int, caplog: pytest.LogCaptureFixture) -> None:
    console = UnfailingConsole(file=Broken(number))
    with caplog.at_level(logging.WARNING, logger="jaxdistill"):
        console.print("one")
        console.print("two")
    assert len(caplog.records) == 1
