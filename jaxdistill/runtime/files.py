"""Bounded reading, atomic writing, and retries of transient I/O errors."""

import contextlib
import errno
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jaxdistill.runtime.run_layout import CHECKPOINTS, CONFIG

T = TypeVar("T")

PARTIAL = ".partial"
"""Suffix of a temporary file. One that is left over was being written when its process died."""

TRANSIENT_ERRORS = frozenset(
    {
        errno.EAGAIN,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.ESTALE,
        errno.ETIMEDOUT,
        getattr(errno, "EREMOTEIO", errno.EIO),  # of Linux
    }
)
"""Error numbers after which the same call may succeed: network file systems raise them while a
server restarts. A missing file, a full disk and a refused permission are not among them."""

RETRY_WAITS = (0.1, 0.5, 2.0)
"""Seconds that `retry_io` waits before each further attempt."""

STRUCTURE_ERRORS = frozenset(
    {
        errno.EFBIG,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
    }
)
"""Error numbers which prove that a file is not what was written. Any other one proves nothing: the
disk, the network or a permission may be at fault."""

_LOST = "lost+found"
# How a library of another language reports an error of the system: TensorStore and safetensors with
# its number, array_record with its text alone.
_NUMBER_IN_MESSAGE = re.compile(r"os_error_code='(\d+)'|\(os error (\d+)\)")
_NO_DAMAGE = (errno.EACCES, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EPERM)


def read(path: Path, most: int) -> bytes:
    """Returns the bytes of a regular file of limited size; transient errors are retried.

    Args:
      path: The file.
      most: The largest size in bytes that a file of this kind has.

    Raises:
      OSError: The file cannot be read, is not a regular file (a pipe or a device may never end), or
        is larger than `most`. The error has a `strerror`.
    """
    return retry_io(lambda: _read(path, most))


def _read(path: Path, most: int) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))
    if status.st_size > most:
        raise OSError(errno.EFBIG, f"larger than {most / 1e6:.3g} MB", str(path))
    return path.read_bytes()


def is_file(path: Path) -> bool:
    """Returns whether there is such a file. A name that is too long for one is that of none.

    Args:
      path: A path, such as one that a file of unknown origin names.

    Raises:
      OSError: It cannot be found out at the moment.
    """
    try:
        return path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def write_atomic(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Writes a file completely or not at all; a concurrent reader sees the old file or the new one.

    The content is written to a temporary file in the same folder, which then replaces `path`. The
    temporary file has a unique name, so that several processes may write the same path, and is
    opened exclusively, so that a link which somebody else placed is never followed; a link at
    `path` itself is replaced. After a failure the temporary file is removed.

    Args:
      path: The file to write. Its folder must exist.
      content: The whole content; text is encoded as UTF-8.
      durable: Whether to wait until file and folder have reached the disk, so that the file is
        complete even after a power failure. Pass False for many small files whose content is
        checked when it is read.

    Raises:
      OSError: The file cannot be written.
    """
    # Part of the name helps a person who finds the file; the whole name could become too long.
    partial = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                _sync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Makes a folder that appears when all of it is written, and not at all after an error.

    Args:
      path: The folder, which must not exist or be empty.

    Yields:
      The folder to write to, beside it.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        yield partial
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, have reached the disk, where that is possible.

    Args:
      path: A file, or the folder in which a file was created, renamed or removed.

    Raises:
      OSError: The disk reports an error.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def retry_io(function: Callable[[], T]) -> T:
    """Returns the result of a function that reads or writes files, retrying transient I/O errors.

    Args:
      function: A function that may be called several times.

    Raises:
      OSError: The function raised an error that is not one of `TRANSIENT_ERRORS`, or raised one of
        these at every attempt.
    """
    for wait in RETRY_WAITS:
        try:
            return function()
        except OSError as error:
            if error.errno not in TRANSIENT_ERRORS:
                raise
        time.sleep(wait)
    return function()


def with_os_errors(function: Callable[[], T]) -> T:
    """Calls a function of another library, and raises an error of the system as an `OSError`.

    Args:
      function: A function; what it raises is raised, except where `os_error` knows better.
    """
    try:
        return function()
    except Exception as error:
        if (of_system := os_error(error)) is not None:
            raise of_system from None
        raise


def os_error(error: BaseException) -> OSError | None:
    """Returns the error of the operating system that another library's exception stands for.

    Args:
      error: An exception, such as the `ValueError` of TensorStore or of array_record, or one that
        was raised because of such an exception.

    Returns:
      An `OSError` with its number; None where neither the exception nor its causes name one.
    """
    cause: BaseException | None = error
    while cause is not None:
        if found := _numbered(cause):
            return found
        cause = cause.__cause__
    return None


def _numbered(error: BaseException) -> OSError | None:
    """Returns the error of the system that an exception names by itself."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    message = str(error)
    if found := _NUMBER_IN_MESSAGE.search(message):
        number = int(found[1] or found[2])
        return OSError(number, os.strerror(number))
    for number in (*TRANSIENT_ERRORS, *_NO_DAMAGE):
        if os.strerror(number) in message:
            return OSError(number, os.strerror(number))
    return None


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yields what `os.walk` yields, following links to folders and visiting each folder once.

    `lost+found`, which belongs to the file system, is passed over, and so are the folders of runs:
    samples of a run are no images of the data that it lies among.

    Args:
      root: The folder to start from; nothing is yielded if there is none.

    Raises:
      OSError: A folder cannot be listed. `os.walk` would take it for an empty one.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    seen = set()
    for folder, folders, names in os.walk(root, onerror=fail, followlinks=True):
        if _LOST in folders:
            folders.remove(_LOST)
        path = Path(folder)
        status = path.stat()
        is_run = path != root and CONFIG in names and CHECKPOINTS in folders
        if is_run or (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield path, folders, names
