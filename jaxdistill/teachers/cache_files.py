"""Arrays kept on disk, one file for each picture: made once, read in every epoch.

A shelf is a folder for one kind of arrays, named by a digest of all that their values depend on; so
a shelf is never wrong, only absent. Entries are safetensors files in float16 with a checksum in
them. They appear whole or not at all, so any number of runs may read and write one store at once.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxdistill.runtime.errors import UserError
from jaxdistill.runtime.text import printable

FORMAT = 1  # part of the digest: another way to write entries is another shelf
_ABANDONED = 24 * 3600  # seconds after which an unfinished file is nobody's

Entry = tuple[Float16[np.ndarray, "h w c"], ...]
Shapes = Sequence[tuple[int, int, int]]


class Damaged(Exception):
    """An entry that is there, but not as it was written."""


class Shelf:
    """Entries of one kind.

    Args:
      root: the store's folder.
      kind: what the entries are, for people: it begins the shelf's name.
      identity: all that their values depend on, as far as JSON can say it.
      shapes: (h, w, C) of the arrays of an entry.
    """

    def __init__(self, root: Path, kind: str, identity: Mapping[str, Any], shapes: Shapes) -> None:
        about = json.dumps({"format": FORMAT, **identity}, sort_keys=True, indent=1)
        digest = hashlib.sha256(about.encode()).hexdigest()[:16]
        self.folder = root.absolute() / f"{kind}-{digest}"
        self.shapes = tuple(shapes)
        self._partial = self.folder / "partial"
        with _written_to(self.folder):
            self._partial.mkdir(parents=True, exist_ok=True)
            _sweep(self._partial)
            self._replace(self.folder / "about.json", about.encode())

    @property
    def entry_bytes(self) -> int:
        """Of one entry's arrays."""
        return 2 * sum(h * w * c for h, w, c in self.shapes)

    def holds(self, picture: int, flipped: bool) -> bool:
        """Whether there is an entry; `read` alone knows whether it is sound."""
        return self._path(picture, flipped).exists()

    def read(self, picture: int, flipped: bool) -> Entry | None:
        """An entry, or None where there is none.

        Raises:
          Damaged: it is not what was written.
          UserError: it is somebody else's, and may not be read.
        """
        path = self._path(picture, flipped)
        try:
            with safe_open(path, framework="numpy") as file:
                checksum = (file.metadata() or {}).get("crc32")
                entry = tuple(file.get_tensor(str(i)) for i in range(len(self.shapes)))
        except FileNotFoundError:  # also where it may not be read
            if path.exists() and not os.access(path, os.R_OK):
                raise UserError(
                    f"{path} may not be read by you; let who wrote it say chmod -R a+rX "
                    f"{self.folder}, or choose another folder as targets.cache"
                ) from None
            return None
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise Damaged(printable(f"{path}: {error}")) from None
        if [array.shape for array in entry] != list(self.shapes) or checksum != _checksum(entry):
            raise Damaged(f"{path}: its checksum is not that of its bytes")
        return entry

    def write(self, picture: int, flipped: bool, arrays: Sequence[np.ndarray]) -> Entry:
        """Keeps the arrays in float16; gives them back as they were kept.

        Raises:
          UserError: a value is not finite in float16; the disk does not take them.
        """
        with np.errstate(over="ignore"):
            entry = tuple(np.ascontiguousarray(array, np.float16) for array in arrays)
        if not all(np.isfinite(array).all() for array in entry):
            raise UserError(
                f"{self.folder.name}: picture {picture} has values that float16 cannot hold (not "
                f"finite, or beyond 65504); set targets.cache to null"
            )
        named = {str(index): array for index, array in enumerate(entry)}
        with _written_to(self.folder):
            self._replace(self._path(picture, flipped), save(named, {"crc32": _checksum(entry)}))
        return entry

    def _path(self, picture: int, flipped: bool) -> Path:
        # A few thousand files to a folder: some file systems are slow with more.
        name = f"{picture}{'-flipped' if flipped else ''}.safetensors"
        return self.folder / f"{picture % 1000:03}" / name

    def _replace(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        partial = self._partial / uuid.uuid4().hex
        try:
            with partial.open("xb") as file:  # as the umask says: others may share the store
                file.write(content)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _checksum(entry: Entry) -> str:
    total = 0
    for array in entry:
        total = zlib.crc32(np.ascontiguousarray(array).data.cast("B"), total)
    return f"{total:08x}"


def _sweep(folder: Path) -> None:
    """Removes what processes left that were killed while writing."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


@contextlib.contextmanager
def _written_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the target store {folder}: {error.strerror}; make room, choose "
            f"another folder as targets.cache, or set it to null"
        ) from None
