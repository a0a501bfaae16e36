"""The lock of a run folder: one process writes into it at a time."""

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import RunError
from jaxdistill.runtime.text import format_duration, printable

log = logging.getLogger(__name__)

LOCK_FILE = "lock"
"""Name of the locked file in a run folder. It stays there when the lock is released."""
OWNER_FILE = "lock.json"
"""Name of the file that names the owner: `pid`, `host` and `since` (seconds since 1970)."""
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds the lock of a run folder inside the `with` block.

    The operating system releases the lock when the process ends, however it ends. On a file system
    without locks a warning is logged and the block runs unprotected.

    Args:
      run: The run folder; it must exist.

    Raises:
      RunError: Another process holds the lock (`run-locked`; the message names the process, its
        host and since when), or the lock file cannot be opened (`run-not-writable`).
    """
    lock = FileLock(run / LOCK_FILE, blocking=False, thread_local=False)
    with contextlib.ExitStack() as held:
        try:
            files.retry_io(lambda: lock.acquire())
            held.callback(_released, lock)
        except Timeout:
            raise RunError(
                f"{run}: {_owner(run / OWNER_FILE)} is writing into this run; wait for it, stop "
                f"it, or choose another folder with run=OTHER",
                code="run-locked",
            ) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise RunError(
                    f"{run / LOCK_FILE}: cannot be locked: {error.strerror}; make the run folder "
                    f"writable, or choose another folder with run=OTHER",
                    code="run-not-writable",
                ) from None
            _warn(run)
        except NotImplementedError:  # filelock raises it instead of ENOSYS
            _warn(run)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        _note(run / OWNER_FILE, json.dumps(owner))
        held.callback(_forget, run / OWNER_FILE)
        yield


def _note(path: Path, owner: str) -> None:
    # It only makes a message clearer.
    with contextlib.suppress(OSError):
        files.retry_io(lambda: files.write_atomic(path, owner, durable=False))


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _released(lock: FileLock) -> None:
    with contextlib.suppress(OSError):  # else the end of the process releases it
        lock.release()


def _warn(run: Path) -> None:
    log.warning("%s: this file system has no locks; make sure that no other run uses it", run)


def _owner(path: Path) -> str:
    """Returns a description of the process that holds the lock, as far as it is known."""
    try:
        owner = json.loads(files.read(path, 2**16))
        age = format_duration(max(time.time() - float(owner["since"]), 0))
        return printable(f"process {owner['pid']} on {owner['host']} (for {age})")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process"
