"""Errors that a user can mend, and how a command line tells them."""

import errno
import sys
from collections.abc import Callable

from jaxdistill.runtime.text import printable

_LONGEST = 2000  # characters of a message: names in it may come from anywhere
_OF_OTHERS = 300  # of what other libraries say
_OF_MEMORY = ("RESOURCE_EXHAUSTED: Out of memory", "Failed to allocate memory")
"""What JAX and onnxruntime say: their exceptions are of no type of their own."""
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)


class UserError(Exception):
    """An error that the user can mend; a command prints it as one line and ends with exit code 2.

    Raise one of the subclasses, which say what kind of input is wrong.

    Args:
      message: One line: what is wrong, where (file, key), what was expected, what to do.
      code: A short identifier of this situation in kebab case, such as `unknown-key`. It is stable:
        tests and the troubleshooting page refer to it.
    """

    def __init__(self, message: str, *, code: str = "error") -> None:
        short = message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ..."
        super().__init__(printable(short))
        self.code = code


class ConfigError(UserError):
    """A configuration or a command-line argument is wrong."""


class DataError(UserError):
    """A data set, an annotation file or an image cannot be used."""


class NetworkError(UserError):
    """An ONNX file cannot be read or run, or does not fit its use."""


class WeightsError(UserError):
    """A weights file cannot be read, or belongs to another network."""


class RunError(UserError):
    """A run folder or a checkpoint is missing, damaged, locked, or belongs to other settings."""


class CacheError(UserError):
    """A target cache cannot be read or written."""


class TrainingError(UserError):
    """Training cannot go on, such as after a loss that is not finite."""


class ExportError(UserError):
    """An exported model differs from the student, or cannot be written."""


class DistributedError(UserError):
    """The processes of a run cannot find each other, or were started differently."""


class OutputError(UserError):
    """A result cannot be written."""


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
        print(f"error: {error} [{error.code}]", file=sys.stderr)
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
