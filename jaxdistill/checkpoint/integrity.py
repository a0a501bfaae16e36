"""The files of one checkpoint: plain values and arrays, read back and checked.

Whoever wrote them, and whatever happened to them since: they are what a run wrote, or `Damaged`.
"""

import contextlib
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdistill.runtime.errors import first_line
from jaxdistill.types import Variables

Record = dict[str, Any]
Parts = Mapping[str, Variables]
"""`parameters`, `statistics`, `optimizer`: arrays by name."""
SEAL = "digest"
_MOST_BESIDE = 2**28  # values of projectors, which are not known to who wants the student alone


class Damaged(Exception):
    """A checkpoint that is there, but not as it was written."""


class Misfit(Damaged):
    """One whose arrays are not those of this network; of the same settings, it is damaged."""


def newest_first(checkpoints: Path) -> Iterator[Path]:
    """The folders of the checkpoints that were written to their end."""
    folders = [path for path in checkpoints.glob("*") if path.name.isdecimal()]
    yield from sorted(folders, key=lambda path: -int(path.name))


def sealed(record: Record) -> Record:
    """The record with a digest of itself, by which `read_record` knows that nothing changed."""
    return {**record, SEAL: _seal(record)}


def _seal(record: Record) -> str:
    as_read = json.loads(json.dumps(record))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> Record:
    """The plain values of one checkpoint.

    Raises:
      Damaged: there are none, or they are not what a run wrote.
    """
    try:
        text = (folder / "record" / "metadata").read_text(encoding="utf-8")
        record = dict(json.loads(text))
        if record.pop(SEAL) != _seal(record):
            raise Damaged(f"{folder}: its record is not what was written")
        if not isinstance(record["digests"], dict) or not isinstance(record["frozen"], str):
            raise TypeError("digests")
        phase = record["progress"]["phase"]
        if not isinstance(phase, int) or isinstance(phase, bool) or phase < 0:
            raise ValueError("phase")
        if record["score"] is not None and not math.isfinite(float(record["score"])):
            raise ValueError("score")
        return record
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Damaged(f"{folder}: its record cannot be read ({first_line(error)})") from None


def read_parts(
    folder: Path, wanted: Parts, record: Record, *, partly: bool = False
) -> dict[str, Variables]:
    """The arrays of the wanted parts, on the host, whatever devices they were saved from.

    Args:
      partly: a part may hold more than is wanted of it.

    Raises:
      Misfit: their names or shapes are not as wanted.
      Damaged: their bytes are not as they were written.
    """
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    path = (folder / "state").absolute()
    try:
        stored = checkpointer.metadata(path).item_metadata.tree
        shapes = {part: {n: tuple(m.shape) for n, m in stored[part].items()} for part in wanted}
        _check_shapes(folder, wanted, shapes, partly)
        # All of a part is read, for its digest.
        blank = {part: dict.fromkeys(shapes[part], 0) for part in wanted}
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), blank)
        with _quiet_loops():
            parts = checkpointer.restore(
                path,
                args=ocp.args.PyTreeRestore(blank, restore_args=arguments, partial_restore=True),
            )
    except Damaged:
        raise
    except Exception as error:  # as in `save`
        raise Damaged(f"{folder}: its arrays cannot be read ({first_line(error)})") from None
    for part, arrays in parts.items():
        if fingerprint(arrays) != record["digests"].get(part):
            raise Damaged(f"{folder}: its {part} are not what was written")
    return {part: {name: parts[part][name] for name in wanted[part]} for part in wanted}


def _check_shapes(
    folder: Path, wanted: Parts, shapes: Mapping[str, Mapping[str, Any]], partly: bool
) -> None:
    for part, arrays in wanted.items():
        for name in arrays.keys() | (set() if partly else shapes[part].keys()):
            here, there = arrays.get(name), shapes[part].get(name)
            if here is None or there != here.shape:
                own = "nothing" if here is None else str(here.shape)
                raise Misfit(f"{folder}: {name} is {there or 'not there'}, expected {own}")
    declared = sum(math.prod(shape) for part in shapes.values() for shape in part.values())
    known = sum(array.size for arrays in wanted.values() for array in arrays.values())
    if declared > _MOST_BESIDE + known:
        raise Damaged(f"{folder}: it declares {declared} values, where {known} are known")


@contextlib.contextmanager
def _quiet_loops() -> Iterator[None]:
    """When one array cannot be read, those that are being read find nobody to tell any more.

    Each would print a traceback, also a little later: the hook stays.
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


def fingerprint(variables: Mapping[str, Any]) -> str:
    """A digest of names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(variables):
        digest.update(name.encode())
        digest.update(np.asarray(variables[name]).tobytes())
    return digest.hexdigest()
