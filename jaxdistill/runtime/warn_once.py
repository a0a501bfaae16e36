"""Warnings that are logged once for each kind of failure."""

import logging
import re
from collections.abc import Hashable

_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{32}|\d+")  # addresses, unique names, numbers


class WarnOnce:
    """Logs the first failure of each kind, so that one which comes back fills no log.

    Args:
      log: Where to log.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._kinds: set[Hashable] = set()

    def __call__(self, kind: Hashable, message: str) -> None:
        """Logs a warning, unless one of the same kind was logged before.

        Args:
          kind: What makes two failures the same.
          message: The warning.
        """
        if kind not in self._kinds:
            self._log.warning("%s", message)
        self._kinds.add(kind)


def kind_of(error: BaseException) -> str:
    """Returns an error's type and message without what varies from one epoch to the next.

    Args:
      error: The error.
    """
    return f"{type(error).__name__}: {_VARYING.sub('', str(error))}"
