"""Digests of files' contents, remembered by size and modification time.

A prepared data set is found by the content of its images, wherever they are and whenever they were
copied. Reading all of them takes minutes for a large data set, so that it is done once: later, a
file whose size and modification time are as before is not read.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import rich.console
import rich.progress

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError

_READERS = 8  # files read at once
_BLOCK = 2**20  # bytes
_MANY = 1000  # files, of which a progress bar is shown
_LARGEST = 2**30  # bytes of remembered digests

_Known = dict[str, list[Any]]  # size, modification time and digest, by name


def digest_files(
    digest: "hashlib._Hash", paths: Sequence[Path], root: Path, memory: Path | None = None
) -> None:
    """Adds names and contents of files to a digest.

    Args:
      digest: A digest of `hashlib`.
      paths: The files, in a fixed order.
      root: The folder that the names are relative to.
      memory: Folder in which the digests of single files are remembered; None reads all files.

    Raises:
      DataError: A file cannot be read (`unreadable-file`).
    """
    kept = None if memory is None else memory / f"{_short(str(root.absolute()))}.json"
    known = _read_known(kept)
    names = [os.fsencode(path.relative_to(root)) for path in paths]
    keys = [name.decode(errors="backslashreplace") for name in names]
    states = [_state(path) for path in paths]
    unread = [
        index
        for index, (key, state) in enumerate(zip(keys, states, strict=True))
        if state is not None and known.get(key, [])[:2] != list(state)
    ]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="digests") as readers:
        for index, found in zip(
            unread,
            rich.progress.track(
                readers.map(lambda index: _digest(paths[index]), unread),
                f"reading {root}",
                total=len(unread),
                console=rich.console.Console(stderr=True),
                transient=True,
                disable=len(unread) < _MANY,
            ),
            strict=True,
        ):
            known[keys[index]] = [*(states[index] or ()), found]
    present = {key: known[key] for key, state in zip(keys, states, strict=True) if state}
    for name, key in zip(names, keys, strict=True):
        digest.update(name + b"\0" + str(present.get(key, [""])[-1]).encode() + b"\0")
    if kept is not None and unread:
        with contextlib.suppress(OSError):  # then they are read again
            kept.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomic(kept, json.dumps(present))


def fingerprint(
    paths: Sequence[Path], root: Path, memory: Path | None = None, about: str = ""
) -> str:
    """Returns 32 hexadecimal digits that change with names and contents of files.

    Args:
      paths: See `digest_files`.
      root: See `digest_files`.
      memory: See `digest_files`.
      about: Settings on which the meaning of the files depends.

    Raises:
      DataError: A file cannot be read (`unreadable-file`).
    """
    digest = hashlib.sha256(about.encode())
    digest_files(digest, paths, root, memory)
    return digest.hexdigest()[:32]


def _state(path: Path) -> tuple[int, int] | None:
    """Returns size and modification time of a file; None for what is no file."""
    try:
        status = files.retry_io(path.stat)
    except FileNotFoundError:  # a link that leads nowhere
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _digest(path: Path) -> str:
    def read() -> str:
        found = hashlib.blake2b(digest_size=16)
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
        return found.hexdigest()

    try:
        return files.retry_io(read)
    except OSError as error:
        raise _unreadable(path, error) from None


def _read_known(kept: Path | None) -> _Known:
    try:
        known = json.loads(files.read(kept, _LARGEST)) if kept is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    sound = isinstance(known, dict) and all(
        isinstance(entry, list) and [type(value) for value in entry] == [int, int, str]
        for entry in known.values()
    )
    return known if sound else {}


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read: {error.strerror}", code="unreadable-file")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
