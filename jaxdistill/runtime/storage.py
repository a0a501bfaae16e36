"""What stays on disk between runs: prepared data sets and target caches, found, measured, removed.

Each is a folder whose name has a digest of what it depends on, so that one which nothing needs any
more is never overwritten. A file `about.json` in it says what it is; its modification time is when
the folder was last opened.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxdistill.runtime import files

ABOUT = "about.json"
"""File in each folder; a JSON object."""
PREPARED, CACHE = "prepared data", "target cache"
"""Kinds of folders."""
_NAMES = {
    PREPARED: re.compile("[0-9a-f]{32}"),
    CACHE: re.compile("(encoder|features|logits)-[0-9a-f]{16}"),
}
_REMOVED = ".removed"  # of a folder that is being removed
_LARGEST = 2**20  # bytes of about.json


class Stored(NamedTuple):
    """A prepared data set, or a part of a target cache."""

    path: Path
    kind: str
    about: Mapping[str, Any]
    """Content of its `about.json`; empty without one."""
    size: int
    """Bytes of all its files."""
    used: float
    """When it was last opened, in seconds since 1970."""


def find(roots: Iterable[Path]) -> list[Stored]:
    """Returns what is directly below some folders, the longest unused first.

    Args:
      roots: Folders such as `data.prepared` and `targets.cache`. One that does not exist is empty.

    Raises:
      OSError: A folder cannot be read.
    """
    found = []
    for root in dict.fromkeys(root.resolve() for root in roots):
        for path in sorted(root.iterdir()) if root.is_dir() else []:
            kind = _kind(path)
            if kind is not None:
                found.append(Stored(path, kind, _about(path), size_of(path), _used(path)))
    return sorted(found, key=lambda stored: stored.used)


def remove(stored: Stored) -> None:
    """Removes a folder with all its files; a reader finds it whole or not at all.

    Args:
      stored: One that `find` returned.

    Raises:
      OSError: It cannot be removed.
    """
    removed = stored.path
    if not removed.name.endswith(_REMOVED):
        removed = stored.path.with_name(stored.path.name + _REMOVED)
        stored.path.rename(removed)
    shutil.rmtree(removed)


def mark(folder: Path, about: Mapping[str, Any]) -> None:
    """Notes that a folder was opened, and what it is.

    Args:
      folder: The folder. Where it is not ours to write, nothing happens.
      about: Plain values, which are written once.
    """
    with contextlib.suppress(OSError):
        if (folder / ABOUT).exists():
            os.utime(folder / ABOUT)
        else:
            files.write_atomic(folder / ABOUT, json.dumps(about, sort_keys=True, indent=1))


def size_of(folder: Path) -> int:
    """Returns the bytes of all files in a folder and below.

    Args:
      folder: The folder.
    """
    return sum(_sizes(folder))


def describe_size(size: int) -> str:
    """Returns a number of bytes as text, such as `1.2 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def _sizes(folder: Path) -> Iterator[int]:
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # another process may remove or replace it
                yield Path(path, name).lstat().st_size


def _kind(path: Path) -> str | None:
    name = path.name.removesuffix(_REMOVED)
    if path.is_symlink() or not path.is_dir():
        return None
    return next((kind for kind, names in _NAMES.items() if names.fullmatch(name)), None)


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(files.read(path / ABOUT, _LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _used(path: Path) -> float:
    about = path / ABOUT
    return (about if about.is_file() else path).stat().st_mtime
