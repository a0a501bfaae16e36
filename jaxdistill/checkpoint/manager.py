"""Checkpoints of a run: saved in the background, and kept by recency and score.

A checkpoint holds what training changes, i.e. trained parameters, BatchNorm statistics and the
optimizer's state, and metadata with digests of those arrays and of themselves. Frozen variables are
saved once for the run (`checkpoint.best`). A checkpoint appears completely or not at all; damage
that comes later is found by the digests (`checkpoint.restore`).
"""

import contextlib
import errno
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdistill import config
from jaxdistill.checkpoint import folders
from jaxdistill.checkpoint.integrity import (
    METADATA_ITEM,
    STATE_ITEM,
    DamagedError,
    Metadata,
    Parts,
    fingerprint,
    quiet_event_loops,
    read_metadata,
    with_digest,
)
from jaxdistill.checkpoint.scores import Score, best_first, score_of
from jaxdistill.runtime import distributed, files
from jaxdistill.runtime.errors import RunError, first_line
from jaxdistill.runtime.run_layout import CHECKPOINTS
from jaxdistill.types import TrainState

log = logging.getLogger(__name__)

_MARGIN = 2**20  # bytes of a checkpoint beside its arrays, and of the report

T = TypeVar("T")


class _Pending(NamedTuple):
    """A checkpoint that is being written."""

    step: int
    parts: Parts
    """Arrays on the host, which the training does not change."""
    metadata: Metadata


class Checkpoints:
    """Writes checkpoints of a run; a context that waits for the last one.

    A checkpoint is written in the background, while the training goes on. A transient I/O error is
    retried, with one process. An older checkpoint is removed only when the new one has reached the
    disk.

    Args:
      run: The run's folder.
      settings: How many are kept.

    Raises:
      RunError: From any method, when a checkpoint cannot be written (`checkpoint-not-written`).
    """

    def __init__(self, run: Path, settings: config.Checkpoints) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it also raises
        quiet_event_loops()
        self._folder, self._keep = run / CHECKPOINTS, settings.keep
        self._pending: _Pending | None = None
        if distributed.is_main_process():
            files.retry_io(lambda: folders.recover(self._folder))
        distributed.barrier("replaced checkpoints recovered")
        with self._explained():
            self._manager = files.retry_io(lambda: files.with_os_errors(self._open))
            self._scores = _scores(self._folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with self._explained():
                self._finish()
                self._manager.close()
        except Exception:
            if kind is None:
                raise

    def save(self, state: TrainState, metadata: Metadata, score: float | None = None) -> None:
        """Saves in the background; a checkpoint of the same step is replaced.

        Args:
          state: The state after a step.
          metadata: Plain values.
          score: The checkpoint with the highest score is kept; None within an epoch.
        """
        # Copied, since the next step reuses the memory of this one's state.
        parts = jax.tree.map(np.array, to_parts(state))
        digests = {name: fingerprint(arrays) for name, arrays in parts.items()}
        whole = with_digest({**metadata, "score": score, "digests": digests})
        with self._explained():
            self._finish()
            self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(parts)))
            self._pending = _Pending(int(state.step), parts, whole)
            replaces = self._pending.step in self._manager.all_steps()
            self._retried(self._start)
            if replaces:
                self._finish()

    def _finish(self) -> None:
        """Waits for the checkpoint that is being written, and removes what it makes superfluous."""
        if self._pending is None:
            return
        self._retried(self._manager.wait_until_finished)
        written, self._pending = self._pending, None
        folder = self._folder / str(written.step)
        if distributed.is_main_process():
            files.retry_io(lambda: folders.sync(folder))  # fails if it does not exist
            folders.remove(folders.replaced_path(folder))
        self._scores[written.step] = score_of(written.metadata)
        self._remove_superfluous()

    def _start(self) -> None:
        assert self._pending is not None
        step, parts, metadata = self._pending
        if step in self._manager.all_steps():
            self._set_aside(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    STATE_ITEM: ocp.args.StandardSave(parts),
                    METADATA_ITEM: ocp.args.JsonSave(metadata),
                }
            ),
            force=True,
        )

    def _retried(self, function: Callable[[], None]) -> None:
        """Calls a function; after a transient error writes the pending checkpoint once more.

        Several processes would have to agree on that: there, the error ends the run. After an error
        that stays, no checkpoint is pending any more, so that no older one is removed for it.
        """
        attempts = itertools.chain([function], itertools.repeat(self._write_again))
        try:
            if jax.process_count() > 1:
                function()
            else:
                files.retry_io(lambda: files.with_os_errors(next(attempts)))
        except Exception:
            self._pending = None
            raise

    def _write_again(self) -> None:
        with contextlib.suppress(Exception):
            self._manager.close()
        self._manager = self._open()
        self._start()
        self._manager.wait_until_finished()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True)
        return ocp.CheckpointManager(self._folder.absolute(), options=options)

    def _set_aside(self, step: int) -> None:
        """Renames a checkpoint that is to be written again, so that one of both always exists."""
        folder = self._folder / str(step)
        replaced = folders.replaced_path(folder)
        if distributed.is_main_process():
            if replaced.exists():  # after an error: what is at `folder` may not be complete
                folders.remove(folder)
            else:
                folder.rename(replaced)
        distributed.barrier("checkpoint set aside")
        self._manager.reload()

    def _remove_superfluous(self) -> None:
        """Keeps the newest checkpoints, and the one with the highest score."""
        steps = sorted(self._scores)
        kept = {*steps[-self._keep :], *best_first(self._scores)[:1]}
        for step in steps:
            if step not in kept:
                del self._scores[step]
                if distributed.is_main_process():
                    folders.remove(self._folder / str(step))

    def _check_room(self, size: int) -> None:
        """Checks the disk before anything is written: Orbax logs much when it gets full."""
        free = shutil.disk_usage(self._folder).free
        if free < size + _MARGIN:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises any error as a `RunError`."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore have no exceptions of their own
            if isinstance(error, RunError) or distributed.from_other_process(error):
                raise
            of_system = files.os_error(error)
            reason = first_line(error) if of_system is None else of_system.strerror
            if of_system is not None and of_system.errno in (errno.ENOSPC, errno.EDQUOT):
                reason = "no space left on the disk"
            raise RunError(
                f"{self._folder}: a checkpoint could not be written: {reason}; the checkpoints "
                f"before it are intact: solve this, and go on with --resume",
                code="checkpoint-not-written",
            ) from None


def to_parts(state: TrainState) -> Parts:
    """Returns the arrays of a state by part and name.

    Args:
      state: The state.

    Returns:
      `params`, `batch_stats`, `opt_state`, and `ema` where the state has one.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.opt_state)
    return {
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": {
            jax.tree_util.keystr(path, simple=True, separator=":"): leaf for path, leaf in leaves
        },
        **({} if state.ema is None else {"ema": state.ema}),
    }


def _scores(checkpoints: Path) -> dict[int, Score]:
    """Returns the score of each checkpoint; that of one that cannot be read is None."""
    scores: dict[int, Score] = {}
    for folder in folders.newest_first(checkpoints):
        scores[folders.step_of(folder)] = Score(None, None)
        with contextlib.suppress(DamagedError):
            scores[folders.step_of(folder)] = score_of(read_metadata(folder))
    return scores
