"""The files of one checkpoint: metadata and arrays, read back and checked against their digests."""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import RunError, first_line
from jaxdistill.runtime.files import retry_io
from jaxdistill.types import Variables

T = TypeVar("T")
Metadata = dict[str, Any]
"""Plain values that a checkpoint holds beside its arrays, as JSON keeps them."""
Parts = Mapping[str, Variables]
"""Arrays by name, of `params`, `batch_stats` and `opt_state`."""

METADATA_ITEM, STATE_ITEM = "metadata", "state"
"""Folders of a checkpoint."""
_DIGEST = "digest"  # the key under which the metadata keeps a digest of itself
_MAX_UNKNOWN = 2**28  # values beyond those that are known: projectors, where the student is read
_MAX_METADATA = 2**26  # bytes
_REPLACED = ".replaced"
# Errors that prove that a file is not what was written. Any other OSError proves nothing: the disk,
# the network or a permission may be at fault.
_STRUCTURE_ERRORS = (
    errno.EFBIG,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
)
_OS_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")  # in a message of TensorStore


class DamagedError(Exception):
    """A checkpoint whose files are not what was written."""


class MisfitError(DamagedError):
    """A checkpoint whose arrays are those of another network."""


def newest_first(checkpoints: Path) -> Iterator[Path]:
    """Yields the folders of the checkpoints that were written completely, the newest first.

    One that was being replaced when its process died is in a folder `STEP.replaced`.

    Args:
      checkpoints: The folder of a run's checkpoints.
    """
    by_step: dict[int, Path] = {}
    for path in checkpoints.glob("*"):
        if path.name.isdecimal():
            by_step[int(path.name)] = path
        elif path.name.removesuffix(_REPLACED).isdecimal():
            by_step.setdefault(step_of(path), path)
    for step in sorted(by_step, reverse=True):
        yield by_step[step]


def step_of(folder: Path) -> int:
    """Returns the step after which a checkpoint was saved.

    Args:
      folder: One of the folders that `newest_first` yields.
    """
    return int(folder.name.removesuffix(_REPLACED))


def replaced_path(folder: Path) -> Path:
    """Returns where a checkpoint is kept until another one of the same step has been written.

    Args:
      folder: The folder of the checkpoint.
    """
    return folder.with_name(folder.name + _REPLACED)


def with_digest(metadata: Metadata) -> Metadata:
    """Returns metadata with a digest of itself, which `read_metadata` checks.

    Args:
      metadata: Plain values.
    """
    return {**metadata, _DIGEST: _digest(metadata)}


def read_metadata(folder: Path) -> Metadata:
    """Reads the metadata of a checkpoint.

    Args:
      folder: The folder of the checkpoint.

    Raises:
      DamagedError: They are missing, or are not what was written.
      RunError: They cannot be read at the moment (`checkpoint-io`).
    """
    path = folder / METADATA_ITEM / "metadata"
    try:
        metadata = dict(json.loads(_read(path, lambda: files.read(path, _MAX_METADATA))))
        if metadata.pop(_DIGEST) != _digest(metadata):
            raise DamagedError(f"{folder}: its metadata are not what was written")
        if not isinstance(metadata["digests"], dict) or not isinstance(metadata["frozen"], str):
            raise TypeError("digests")
        phase = metadata["progress"]["phase"]
        if not isinstance(phase, int) or phase < 0:
            raise ValueError("phase")
        if metadata["score"] is not None and not math.isfinite(float(metadata["score"])):
            raise ValueError("score")
        return metadata
    except (ArithmeticError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedError(f"{folder}: its metadata cannot be read ({first_line(error)})") from None


def read_parts(
    folder: Path, like: Parts, metadata: Metadata, *, partly: bool = False
) -> dict[str, Variables]:
    """Reads arrays to the host, whatever devices they were saved from, and checks their digests.

    Args:
      folder: The folder of the checkpoint.
      like: The parts to read, with arrays of the expected shapes.
      metadata: From `read_metadata`.
      partly: Whether a part may hold arrays besides the expected ones.

    Returns:
      The parts.

    Raises:
      MisfitError: Names or shapes are not the expected ones.
      DamagedError: The bytes are not those that were written.
      RunError: They cannot be read at the moment (`checkpoint-io`).
    """
    parts = _read(folder, lambda: _restore(folder, like, partly))
    for part, arrays in parts.items():
        if fingerprint(arrays) != metadata["digests"].get(part):
            raise DamagedError(f"{folder}: its {part} are not what was written")
    return {part: {name: parts[part][name] for name in like[part]} for part in like}


def fingerprint(variables: Mapping[str, Any]) -> str:
    """Returns a SHA-256 of names and bytes.

    Args:
      variables: Arrays by name.
    """
    digest = hashlib.sha256()
    for name in sorted(variables):
        digest.update(name.encode())
        digest.update(np.asarray(variables[name]).tobytes())
    return digest.hexdigest()


def _digest(metadata: Metadata) -> str:
    as_read = json.loads(json.dumps(metadata))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def _read(path: Path, function: Callable[[], T]) -> T:
    """Calls a function that reads files, with retries, and tells damage from I/O errors."""
    try:
        return retry_io(function)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)  # Orbax raises some without an errno
        if missing or error.errno in _STRUCTURE_ERRORS:
            raise DamagedError(f"{path}: cannot be read ({first_line(error)})") from None
        raise RunError(
            f"{path}: cannot be read at the moment ({error.strerror or first_line(error)}); "
            f"nothing was changed: check the disk, the network and the permissions, and try again",
            code="checkpoint-io",
        ) from None


def _restore(folder: Path, like: Parts, partly: bool) -> dict[str, Variables]:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it also raises
    # Not a Checkpointer, which waits for all processes: one alone may find damage.
    handler = ocp.PyTreeCheckpointHandler()
    path = epath.Path((folder / STATE_ITEM).absolute())
    try:
        stored = handler.metadata(path).tree
        shapes = {part: {n: tuple(m.shape) for n, m in stored[part].items()} for part in like}
        _check_shapes(folder, like, shapes, partly)
        # The whole part is read, for its digest.
        blank = {part: dict.fromkeys(shapes[part], 0) for part in like}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), blank)
        with _quiet_event_loops():
            return handler.restore(
                path,
                args=ocp.args.PyTreeRestore(blank, restore_args=restore_args, partial_restore=True),
            )
    except (DamagedError, OSError, MemoryError):
        raise
    except Exception as error:  # Orbax and TensorStore have no exceptions of their own
        if code := _OS_ERROR_CODE.search(str(error)):
            number = int(code[1])
            raise OSError(number, os.strerror(number)) from None
        raise DamagedError(f"{folder}: its arrays cannot be read ({first_line(error)})") from None


def _check_shapes(
    folder: Path, like: Parts, shapes: Mapping[str, Mapping[str, Any]], partly: bool
) -> None:
    for part, arrays in like.items():
        for name in arrays.keys() | (set() if partly else shapes[part].keys()):
            expected, found = arrays.get(name), shapes[part].get(name)
            if expected is None or found != expected.shape:
                wanted = "nothing" if expected is None else str(expected.shape)
                raise MisfitError(f"{folder}: {name} is {found or 'missing'}, expected {wanted}")
    declared = sum(math.prod(shape) for part in shapes.values() for shape in part.values())
    known = sum(array.size for arrays in like.values() for array in arrays.values())
    if declared > _MAX_UNKNOWN + known:
        raise DamagedError(f"{folder}: it declares {declared} values, where {known} are known")


@contextlib.contextmanager
def _quiet_event_loops() -> Iterator[None]:
    """Silences Orbax's pending reads after one array could not be read.

    Each would print a traceback when it finds its event loop closed, also a little later, so that
    the hook stays.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if str(value) != "Event loop is closed":
            before(kind, value, trace)

    try:
        yield
    except Exception:
        sys.excepthook = hook
        raise
