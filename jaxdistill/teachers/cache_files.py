"""Files of the target cache: one safetensors file per image, in float16, with a checksum.

A folder holds entries of one kind. Its name has a digest of all that the values depend on, so that
an entry is never outdated, only absent. Files appear completely or not at all, so any number of
processes may read and write one cache at the same time.
"""

import contextlib
import errno
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float16
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxdistill.runtime import files, storage
from jaxdistill.runtime.errors import CacheError
from jaxdistill.runtime.text import printable
from jaxdistill.teachers.base import Shape

FORMAT = 2
"""Part of the digest: entries written in another way are in another folder."""
_HEADER = 2**16  # bytes, at most, beside an entry's values
_NOT_A_FILE = (errno.EFBIG, errno.EINVAL)  # as `files.read` reports it
_PLAIN_KEY = re.compile("[0-9a-z][0-9a-z_-]{1,127}")

Entry = tuple[Float16[np.ndarray, "h w c"], ...]
"""The arrays that are kept for one image."""
T = TypeVar("T")


class DamagedEntryError(Exception):
    """An entry exists, but is not as it was written."""


class CacheFolder:
    """Entries of one kind, such as the logits of one teacher.

    Args:
      root: The cache directory.
      kind: What the entries are; it begins the folder's name.
      provenance: All that the values depend on, beside the image itself; plain values.
      shapes: (h, w, C) of the arrays of an entry.

    Raises:
      CacheError: The folder cannot be made (`cache-write`).
    """

    def __init__(
        self, root: Path, kind: str, provenance: Mapping[str, Any], shapes: Sequence[Shape]
    ) -> None:
        about = {"format": FORMAT, **provenance}
        text = json.dumps(about, sort_keys=True, indent=1)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path = root.absolute() / f"{kind}-{digest}"
        self.shapes = tuple(shapes)
        with self._writing():
            files.retry_io(lambda: self.path.mkdir(parents=True, exist_ok=True))
            storage.mark(self.path, about)

    @property
    def entry_bytes(self) -> int:
        """Size of the arrays of one entry."""
        return 2 * sum(h * w * c for h, w, c in self.shapes)

    def contains(self, key: str, flipped: bool) -> bool:
        """Returns whether an entry exists; only `read` finds out whether it is intact.

        Args:
          key: Identifies the content of the image.
          flipped: Whether the image is flipped left to right.

        Raises:
          CacheError: The disk reports an error (`cache-io`).
        """
        path = self.entry_path(key, flipped)
        return self._reading(lambda: files.retry_io(path.exists))

    def read(self, key: str, flipped: bool) -> Entry | None:
        """Returns an entry, or None where there is none.

        Args:
          key: Identifies the content of the image.
          flipped: Whether the image is flipped left to right.

        Raises:
          DamagedEntryError: The entry is not what was written.
          CacheError: It belongs to somebody else and may not be read (`cache-permission`), or the
            disk reports an error several times (`cache-io`).
        """
        path = self.entry_path(key, flipped)
        try:
            content = self._reading(lambda: files.read(path, self.entry_bytes + _HEADER))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedEntryError(f"{path}: {error.strerror}") from None
        try:
            tensors = load(content)
            entry = tuple(tensors[str(index)] for index in range(len(self.shapes)))
            checksum = _metadata(content)["crc32"]
        except (SafetensorError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise DamagedEntryError(printable(f"{path}: {error}")) from None
        if [array.shape for array in entry] != list(self.shapes) or checksum != _checksum(entry):
            raise DamagedEntryError(f"{path}: its checksum is not that of its values")
        return entry

    def write(self, key: str, flipped: bool, arrays: Sequence[np.ndarray]) -> Entry:
        """Writes an entry in float16.

        Args:
          key: Identifies the content of the image.
          flipped: Whether the image is flipped left to right.
          arrays: One array (h, w, C) for each of `shapes`.

        Returns:
          The arrays as they were written.

        Raises:
          CacheError: A value is not finite in float16 (`cache-not-finite`), an array has another
            shape (`cache-shape`), or the disk does not take the entry (`cache-write`).
        """
        with np.errstate(over="ignore"):
            entry = tuple(np.ascontiguousarray(array, np.float16) for array in arrays)
        if (found := tuple(array.shape for array in entry)) != self.shapes:
            raise CacheError(
                f"{self.path.name}: expected outputs of shape {self.shapes}, but the teacher "
                f"returned {found}; a teacher's output_shapes must be those of its outputs",
                code="cache-shape",
            )
        if not all(np.isfinite(array).all() for array in entry):
            raise CacheError(
                f"{self.path.name}: image {key} has outputs that float16 cannot hold (not finite, "
                f"or beyond 65504); use no cache, targets.cache=null",
                code="cache-not-finite",
            )
        named = {str(index): array for index, array in enumerate(entry)}
        content = save(named, {"crc32": _checksum(entry)})
        path = self.entry_path(key, flipped)
        with self._writing():
            files.retry_io(lambda: _write(path, content))
        return entry

    def set_aside(self, key: str, flipped: bool) -> None:
        """Renames a damaged entry to `NAME.damaged`, so that it can be looked at and written again.

        Args:
          key: Identifies the content of the image.
          flipped: Whether the image is flipped left to right.
        """
        path = self.entry_path(key, flipped)
        # Another process may have been faster; where renaming is refused, writing reports it.
        with contextlib.suppress(OSError):
            path.replace(path.with_name(f"{path.name}.damaged"))

    def entry_path(self, key: str, flipped: bool) -> Path:
        """Returns where an entry is, or would be.

        Args:
          key: Identifies the content of the image; one that is no plain file name is hashed.
          flipped: Whether the image is flipped left to right.
        """
        if not _PLAIN_KEY.fullmatch(key):
            key = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        # Some file systems are slow with many files in a folder.
        return self.path / key[:2] / f"{key}{'-flipped' if flipped else ''}.safetensors"

    def _reading(self, function: Callable[[], T]) -> T:
        """Calls a function that reads, and reports what is no damage as a `CacheError`."""
        try:
            return function()
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise CacheError(
                f"{error.filename or self.path}: you may not read this entry of the target cache; "
                f"ask its owner to run chmod -R a+rX {self.path}, or choose another folder as "
                f"targets.cache",
                code="cache-permission",
            ) from None
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                raise
            raise CacheError(
                f"{error.filename or self.path}: cannot read the target cache: {error.strerror}; "
                f"check the disk, or choose another folder as targets.cache",
                code="cache-io",
            ) from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CacheError(
                f"{self.path}: cannot write to the target cache: {error.strerror}; make room, "
                f"choose another folder as targets.cache, or set it to null",
                code="cache-write",
            ) from None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    # The checksum tells what a power failure leaves half written.
    files.write_atomic(path, content, durable=False)


def _checksum(entry: Entry) -> str:
    total = 0
    for array in entry:
        total = zlib.crc32(np.ascontiguousarray(array).data.cast("B"), total)
    return f"{total:08x}"


def _metadata(content: bytes) -> Mapping[str, Any]:
    """Returns the metadata of a safetensors file, whose header `load` has checked."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]
