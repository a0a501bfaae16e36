"""Checks of errors by class and code."""

import contextlib
from collections.abc import Iterator

import pytest

from jaxdistill.runtime.errors import UserError


@contextlib.contextmanager
def refused(
    kind: type[UserError], code: str, names: str = ""
) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expects an error of exactly this class and code, of one line that names something.

    Args:
      kind: The class.
      code: The code.
      names: What the message must contain: a file, a key, a number.
    """
    with pytest.raises(UserError) as raised:
        yield raised
    assert (type(raised.value), raised.value.code) == (kind, code), raised.value
    assert "\n" not in str(raised.value)
    assert names in str(raised.value)
