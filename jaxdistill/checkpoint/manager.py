"""Checkpoints of a run: saved in the background, kept by recency and score, restored when intact.

A checkpoint holds what training changes, i.e. trained parameters, BatchNorm statistics and the
optimizer's state, and metadata with digests of those arrays and of themselves. Frozen variables are
saved once for the run (`checkpoint.best`). A checkpoint appears completely or not at all; damage
that comes later is found by the digests. Nothing is deleted on suspicion: a damaged folder is
renamed to `NAME.damaged`.
"""

import errno
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from jaxdistill import config
from jaxdistill.checkpoint.integrity import (
    METADATA_ITEM,
    STATE_ITEM,
    DamagedError,
    Metadata,
    MisfitError,
    Parts,
    fingerprint,
    newest_first,
    read_metadata,
    read_parts,
    replaced_path,
    step_of,
    with_digest,
)
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import RunError, first_line
from jaxdistill.runtime.sharding import put
from jaxdistill.types import TrainState

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Name of the folder below the run's."""
_MARGIN = 2**20  # bytes of a checkpoint beside its arrays, and of the report
_DAMAGED = ".damaged"


class Checkpoints:
    """Writes checkpoints of a run; a context that waits for the last one.

    Args:
      run: The run's folder.
      settings: How many are kept.

    Raises:
      RunError: From any method, when a checkpoint cannot be written (`checkpoint-not-written`).
    """

    def __init__(self, run: Path, settings: config.Checkpoints) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it also raises
        self._folder = run / CHECKPOINTS
        if distributed.is_main_process():
            _recover_replaced(self._folder)
        distributed.barrier("replaced checkpoints recovered")
        self._manager = _manager(self._folder, settings.keep)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except Exception as error:
            if kind is None:
                raise self._explained(error) from None

    def save(self, state: TrainState, metadata: Metadata, score: float | None = None) -> None:
        """Saves in the background; a checkpoint of the same step is replaced.

        Args:
          state: The state after a step.
          metadata: Plain values.
          score: The checkpoint with the highest score is kept; None within an epoch.
        """
        step, parts = int(state.step), to_parts(state)
        digests = {name: fingerprint(arrays) for name, arrays in parts.items()}
        whole = with_digest({**metadata, "score": score, "digests": digests})
        try:
            self._manager.wait_until_finished()
            self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(parts)))
            replaced = self._set_aside(step) if step in self._manager.all_steps() else None
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        STATE_ITEM: ocp.args.StandardSave(parts),
                        METADATA_ITEM: ocp.args.JsonSave(whole),
                    }
                ),
                metrics=None if score is None else {"score": score},
                force=True,
            )
            if replaced is not None:
                self._manager.wait_until_finished()
                if distributed.is_main_process():
                    shutil.rmtree(replaced)
        except Exception as error:  # Orbax and TensorStore have no exceptions of their own
            raise self._explained(error) from None

    def _set_aside(self, step: int) -> Path:
        """Renames a checkpoint that is to be written again, so that one of both always exists."""
        folder = self._folder / str(step)
        replaced = replaced_path(folder)
        if distributed.is_main_process():
            folder.rename(replaced)
        distributed.barrier("checkpoint set aside")
        self._manager.reload()
        return replaced

    def _check_room(self, size: int) -> None:
        """Checks the disk before anything is written: Orbax logs much when it gets full."""
        free = shutil.disk_usage(self._folder).free
        if free < size + _MARGIN:
            raise OSError(errno.ENOSPC, f"No space left, {free / 1e6:.1f} MB")

    def _explained(self, error: Exception) -> Exception:
        if distributed.from_other_process(error):
            return error
        reason = first_line(error)
        if "No space left" in reason or "RESOURCE_EXHAUSTED" in reason:
            reason = "no space left on the disk"
        return RunError(
            f"{self._folder}: a checkpoint could not be written: {reason}; the checkpoints before "
            f"it are intact: solve this, and go on with --resume",
            code="checkpoint-not-written",
        )


class Restored(NamedTuple):
    """What a run goes on from."""

    state: TrainState
    metadata: Metadata
    damaged: list[str]
    """Newer checkpoints that were damaged and set aside, and why."""


def newest_metadata(run: Path) -> Metadata | None:
    """Returns the metadata of the newest checkpoint where they are intact; None if there are none.

    Args:
      run: The run's folder.

    Raises:
      RunError: They cannot be read at the moment (`checkpoint-io`).
    """
    for folder in newest_first(run / CHECKPOINTS):
        try:
            return read_metadata(folder)
        except DamagedError:
            continue
    return None


def restore_latest(
    run: Path, like: Callable[[int], TrainState], *, changed: bool = False
) -> Restored | None:
    """Restores the newest intact checkpoint, and sets damaged newer ones aside.

    All processes of a run call it, and read every checkpoint; nothing is renamed unless all find
    the same damage.

    Args:
      run: The run's folder.
      like: Returns a state of a phase of the unfreezing; the arrays are checked, typed and placed
        as there.
      changed: Whether the settings differ from those that the run was trained with. A checkpoint
        that does not fit them is then not damaged.

    Returns:
      What to go on from; None if nothing was saved yet.

    Raises:
      RunError: No checkpoint is intact (`no-intact-checkpoint`), one does not fit the changed
        settings (`checkpoint-misfit`), the processes read different contents
        (`checkpoint-differs`), or a file cannot be read at the moment (`checkpoint-io`).
    """
    if distributed.is_main_process():
        _recover_replaced(run / CHECKPOINTS)
    distributed.barrier("replaced checkpoints recovered")
    problems: dict[Path, str] = {}
    for folder in newest_first(run / CHECKPOINTS):
        restored = None
        try:
            metadata = read_metadata(folder)
            state = like(metadata["progress"]["phase"])
            parts = read_parts(folder, to_parts(state), metadata)
            restored = _to_state(state, step_of(folder), parts)
        except DamagedError as damage:
            if changed and isinstance(damage, MisfitError):
                raise RunError(
                    f"{damage}; the changed settings make another network: use those that the run "
                    f"was trained with, or start another run",
                    code="checkpoint-misfit",
                ) from None
            problems[folder] = str(damage)
        _check_agreement(folder, restored is None)
        if restored is not None:
            _rename_damaged(problems)
            return Restored(restored, metadata, list(problems.values()))
    if problems:
        raise RunError(
            f"no checkpoint is intact: {'; '.join(problems.values())}", code="no-intact-checkpoint"
        )
    return None


def to_parts(state: TrainState) -> Parts:
    """Returns the arrays of a state by part and name.

    Args:
      state: The state.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.opt_state)
    return {
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": {
            jax.tree_util.keystr(path, simple=True, separator=":"): leaf for path, leaf in leaves
        },
    }


def _to_state(like: TrainState, step: int, parts: Parts) -> TrainState:
    def placed(value: Any, leaf: jax.Array) -> jax.Array:
        return put(np.asarray(value, leaf.dtype), leaf.sharding)

    arrays = {
        part: {name: placed(parts[part][name], leaf) for name, leaf in own.items()}
        for part, own in to_parts(like).items()
    }
    opt_state = jax.tree.unflatten(
        jax.tree.structure(like.opt_state), list(arrays["opt_state"].values())
    )
    return TrainState(placed(step, like.step), arrays["params"], arrays["batch_stats"], opt_state)


def _check_agreement(folder: Path, damaged: bool) -> None:
    found = distributed.all_gather(np.asarray([damaged]))
    if found.any() != found.all():
        others = ", ".join(str(index) for index in np.flatnonzero(found))
        raise RunError(
            f"{folder}: damaged for the processes {others} and intact for the others; see that all "
            f"read the same files",
            code="checkpoint-differs",
        )


def _rename_damaged(problems: dict[Path, str]) -> None:
    if distributed.is_main_process():
        for folder in problems:
            target = folder.with_name(folder.name + _DAMAGED)
            number = 1
            while target.exists():
                number += 1
                target = folder.with_name(f"{folder.name}{_DAMAGED}-{number}")
            folder.rename(target)
    distributed.barrier("damaged checkpoints renamed")


def _recover_replaced(checkpoints: Path) -> None:
    """Undoes or completes a replacement that was interrupted."""
    for replaced in checkpoints.glob(replaced_path(Path("*")).name):
        folder = replaced.with_name(str(step_of(replaced)))
        if folder.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(folder)


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    def score(metrics: Any) -> float:
        return metrics["score"]

    best_first = BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        best_fn=score,
        preservation_policy=AnyPreservationPolicy([LatestN(n=keep), best_first]),
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def by_score(run: Path) -> tuple[list[tuple[Path, Metadata]], list[str]]:
    """Returns the checkpoints whose metadata are intact, the best first, then the newest.

    Args:
      run: The run's folder.

    Returns:
      Folders with their metadata, and what is wrong with the others.
    """
    found, problems = [], []
    for folder in newest_first(run / CHECKPOINTS):
        try:
            found.append((folder, read_metadata(folder)))
        except DamagedError as damage:
            problems.append(str(damage))
    return sorted(found, key=lambda pair: _score(pair[1]), reverse=True), problems


def _score(metadata: Metadata) -> float:
    return -math.inf if metadata["score"] is None else metadata["score"]
