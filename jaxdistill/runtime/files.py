"""Files in folders that anybody may have filled: read within bounds, written in their own place."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def read(path: Path, most: int) -> bytes:
    """A file's bytes.

    Args:
      most: bytes that a file of its kind has at most.

    Raises:
      OSError: also for what is no regular file, such as a pipe or a device, which might never end,
        and for what is larger than `most`. It has a `strerror`.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))
    if status.st_size > most:
        raise OSError(errno.EFBIG, f"larger than {most / 1e6:.3g} MB", str(path))
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    """Whole or not at all; whoever reads meanwhile sees the file before.

    Never through a link: in a folder that somebody else filled it may lead to any file.
    """
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with partial.open("xb") as file:
        file.write(content)
    partial.replace(path)


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, also into folders that are links, each folder once."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = Path(folder)
        status = place.stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield place, folders, names


def printable(text: str) -> str:
    """For a terminal: names from files may hold line breaks, and codes that steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
