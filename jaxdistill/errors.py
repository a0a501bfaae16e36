"""Errors that a user can mend, and how a command line tells them."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message is one line: what, where, what was expected, what to do."""


def command(main: Callable[[], int | None]) -> int:
    """Runs a command line; a `UserError` becomes one line on stderr and exit code 2."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
