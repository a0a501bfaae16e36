"""The files of one checkpoint: metadata and arrays, read back and checked against their digests."""

import errno
import hashlib
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
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
"""Arrays by name, of `params`, `batch_stats` and `opt_state`, and `ema` where there is one."""

METADATA_ITEM, STATE_ITEM = "metadata", "state"
"""Folders of a checkpoint."""
_DIGEST = "digest"  # the key under which the metadata keeps a digest of itself
_MAX_UNKNOWN = 2**28  # values beyond those that are known: projectors, where the student is read
_MAX_METADATA = 2**26  # bytes


class DamagedError(Exception):
    """A checkpoint whose files are not what was written."""


class MisfitError(DamagedError):
    """A checkpoint whose arrays are those of another network."""


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
        metadata = dict(json.loads(reading(path, lambda: files.read(path, _MAX_METADATA))))
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
    parts = reading(folder, lambda: retry_io(lambda: _restore(folder, like, partly)))
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


def reading(path: Path, function: Callable[[], T]) -> T:
    """Calls a function that reads files, and tells damage from I/O errors.

    Args:
      path: What is read, for messages.
      function: Retries transient errors itself.

    Raises:
      DamagedError: A file is missing, or is no file.
      RunError: It cannot be read at the moment (`checkpoint-io`).
    """
    try:
        return function()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)  # Orbax raises some without an errno
        if missing or error.errno in files.STRUCTURE_ERRORS:
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
        quiet_event_loops()
        return handler.restore(
            path,
            args=ocp.args.PyTreeRestore(blank, restore_args=restore_args, partial_restore=True),
        )
    except FileNotFoundError as error:
        raise _confirmed(folder, error) from None
    except (DamagedError, OSError, MemoryError):
        raise
    except Exception as error:  # Orbax and TensorStore have no exceptions of their own
        if (of_system := files.os_error(error)) is not None:
            raise of_system from None
        raise DamagedError(f"{folder}: its arrays cannot be read ({first_line(error)})") from None


def _confirmed(folder: Path, error: FileNotFoundError) -> OSError:
    """Returns the error, if a file is missing indeed.

    Orbax takes a file for missing when the system could not look it up, whatever the reason.

    Raises:
      OSError: It cannot be looked up.
    """
    if error.errno is not None:
        return error
    for path in (folder, folder / STATE_ITEM, folder / STATE_ITEM / "_METADATA"):
        path.stat()
    return OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # it is there: read it again


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


def quiet_event_loops() -> None:
    """Silences what Orbax leaves pending after one array could not be read or written.

    Each of these operations prints a traceback when it finds its event loop closed, or a warning
    when it was never started, also a little later, so that the hook stays.
    """
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
    before = sys.unraisablehook
    if getattr(before, "quiet_event_loops", False):
        return

    def hook(raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            before(raised)

    hook.quiet_event_loops = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook
