"""Errors that a user can mend, and how a command line tells them."""

import errno
import sys
from collections.abc import Callable

from jaxdistill.runtime.files import printable

_LONGEST = 2000  # characters of a message: names in it may come from anywhere
_OF_OTHERS = 300  # of what other libraries say
_OF_MEMORY = ("RESOURCE_EXHAUSTED: Out of memory", "Failed to allocate memory")
"""What JAX and onnxruntime say: their exceptions are of no type of their own."""
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)


class UserError(Exception):
    """Bad input. The message is one line: what, where, what was expected, what to do."""

    def __init__(self, message: str) -> None:
        short = message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ..."
        super().__init__(printable(short))


def first_line(error: BaseException) -> str:
    """Of what it says; the name of its type if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:_OF_OTHERS] if lines else type(error).__name__


def command(main: Callable[[], int | None]) -> int:
    """Runs a command line, and returns its exit code.

    A `UserError`, or what the system has to say of a disk, becomes one line on stderr and code 2;
    Ctrl-C one line and code 130, as shells have it.
    """
    try:
        return main() or 0
    except BaseException as error:
        code = tell(error)
        if code is None:
            raise
        return code


def tell(error: BaseException) -> int | None:
    """Prints the line that an error deserves, and gives its exit code; None: it is none of ours."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    if any(words in str(error) for words in _OF_MEMORY):
        print(
            f"error: out of memory ({first_line(error)}); lower training.batch_size or "
            f"data.image_size, or take the batch in parts, training.accumulate",
            file=sys.stderr,
        )
        return 2
    if isinstance(error, OSError) and error.errno in _OF_DISKS:
        print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    return None
