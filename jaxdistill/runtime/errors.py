"""Errors that a user can correct, and how a command line reports them."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path

from jaxdistill.runtime.files import TRANSIENT_ERRORS
from jaxdistill.runtime.text import printable

_LONGEST = 2000  # characters of a message: names in it may come from anywhere
_LONGEST_FOREIGN = 300  # characters taken from the message of another library
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED: Out of memory", "Failed to allocate memory")
_DISK_ERRORS = {*TRANSIENT_ERRORS, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


class UserError(Exception):
    """An error that the user can correct; a command prints one line and exits with code 2.

    Raise one of the subclasses; each stands for a kind of input.

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


def unwritable(path: Path, error: OSError) -> OutputError:
    """Returns the error of a result that cannot be written.

    Args:
      path: The file or folder.
      error: What writing raised.
    """
    return OutputError(f"cannot write {path}: {error.strerror}", code="output-unwritable")


def out_of_memory(error: BaseException) -> bool:
    """Returns whether JAX or onnxruntime lacked memory, for which neither has an exception."""
    return any(words in str(error) for words in _OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its type's name if it has none.

    Args:
      error: An exception of another library, whose message may have many lines.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:_LONGEST_FOREIGN] if lines else type(error).__name__


def command(main: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code.

    A `UserError`, a name that is too long, a lack of memory and a disk error become one line on
    stderr and exit code 2; Ctrl-C becomes one line and exit code 130, as in shells.

    Args:
      main: The command; it returns its exit code, or None for 0.
    """
    try:
        return main() or 0
    except BaseException as error:
        code = report(error)
        if code is None:
            raise
        return code


def report(error: BaseException) -> int | None:
    """Prints one line about an error that the user can correct, and returns the exit code.

    Args:
      error: Any exception.

    Returns:
      The exit code, or None for an exception that deserves a traceback; nothing is printed then.
    """
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        error = ConfigError(
            f"{error.filename}: {error.strerror}; expected names of at most 255 bytes",
            code="name-too-long",
        )
    if isinstance(error, UserError):
        print(f"error: {error} [{error.code}]", file=sys.stderr)
        return 2
    if out_of_memory(error):
        print(
            f"error: out of memory ({first_line(error)}); lower training.batch_size or "
            f"data.image_size, or raise training.accumulate [out-of-memory]",
            file=sys.stderr,
        )
        return 2
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        name = error.filename or "a file"
        print(f"error: {printable(str(name))}: {error.strerror} [disk-error]", file=sys.stderr)
        return 2
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    return None
