"""Folders that TFDS writes a data set into before it gives them their name.

One that is left over was being written when its process was killed.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_NAMES, _LOCK = "incomplete.*", ".lock"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keeps other processes from taking a folder for left over, inside the `with` block.

    Args:
      folder: The folder; the lock is a file beside it, since the folder itself is renamed.

    Raises:
      OSError: Another process is removing the folder.
    """
    lock = _lock(folder)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):  # without locks, nothing is removed either
        pass
    try:
        yield
    finally:
        _release(lock)


def remove_left_over(parent: Path) -> None:
    """Removes the folders that no process writes any more; errors are ignored.

    Args:
      parent: The folder that they are in.
    """
    for name in {path.name.removesuffix(_LOCK) for path in parent.glob(_NAMES)}:
        lock = _lock(parent / name)
        with contextlib.suppress(OSError, NotImplementedError):
            lock.acquire()
            shutil.rmtree(parent / name, ignore_errors=True)
            _release(lock)


def _lock(folder: Path) -> FileLock:
    path = folder.with_name(folder.name + _LOCK)
    return FileLock(path, blocking=False, thread_local=False)


def _release(lock: FileLock) -> None:
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
