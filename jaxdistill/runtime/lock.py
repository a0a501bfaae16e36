"""One process to a run: the lock of a run's folder."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from jaxdistill.runtime.errors import UserError
from jaxdistill.runtime.text import format_duration

log = logging.getLogger(__name__)

NAME = "lock"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # a link could lead to any file


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds the folder's lock, which the system lets go of when the process ends, however it ends.

    Raises:
      UserError: another process holds it; names that process and since when.
    """
    # The file stays when the lock is given up: whoever removed it could remove another's.
    with os.fdopen(os.open(run / NAME, _FLAGS, 0o644), "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{run}: {_owner(run / NAME)} is writing there; wait for it, stop it, or choose "
                f"another folder with run=OTHER"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
            log.warning("%s: this file system has no locks; see that no other run uses it", run)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _owner(path: Path) -> str:
    """Who holds the lock, as far as its file tells."""
    try:
        owner, written = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
        age = format_duration(max(time.time() - written, 0))
        return f"process {owner['pid']} on {owner['host']}, for {age} now,"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
