"""Checkpoints of a run: what is saved, which are kept, and what comes back.

A checkpoint holds what training changes: trained parameters, their statistics, optimizer moments;
and a record of plain values, with digests of those arrays and of itself. Frozen variables are named
by fingerprint, not stored: they come from the same weights file, or the same seed, again. It
appears in its folder whole or not at all; one that was damaged later is known by its digests.
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
    Damaged,
    Misfit,
    Parts,
    Record,
    fingerprint,
    newest_first,
    read_parts,
    read_record,
    sealed,
)
from jaxdistill.models import student, unfreezing, weights
from jaxdistill.models.parameters import merge
from jaxdistill.models.student import Student
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import UserError, first_line
from jaxdistill.runtime.sharding import put
from jaxdistill.types import TrainState

FOLDER = "checkpoints"
logging.getLogger("absl").setLevel(logging.CRITICAL)  # what Orbax has to say, it raises
_MARGIN = 2**20  # bytes of a checkpoint beside its arrays, and of the report


class Checkpoints:
    """Writes into the `checkpoints` folder of a run. As a context it waits for the last one.

    Raises:
      UserError: from any method, when a checkpoint cannot be written.
    """

    def __init__(self, run: Path, settings: config.Checkpoints) -> None:
        self._folder = run / FOLDER
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
                raise (
                    error if distributed.from_other_process(error) else self._unwritten(error)
                ) from None

    def save(self, state: TrainState, record: Record, score: float | None = None) -> None:
        """Writes in the background; one of the same step gives way.

        Args:
          score: the highest one is the best; None for a checkpoint within an epoch.
        """
        step, parts = int(state.step), _parts(state)
        digests = {name: fingerprint(arrays) for name, arrays in parts.items()}
        whole = sealed({**record, "score": score, "digests": digests})
        try:
            self._manager.wait_until_finished()
            self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(parts)))
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(parts),
                    record=ocp.args.JsonSave(whole),
                ),
                metrics=None if score is None else {"score": score},
                force=True,
            )
        except Exception as error:  # Orbax and TensorStore have no exceptions of their own
            raise (
                error if distributed.from_other_process(error) else self._unwritten(error)
            ) from None

    def _check_room(self, size: int) -> None:
        """Before anything is written: Orbax's threads have much to say when a disk gets full."""
        free = shutil.disk_usage(self._folder).free
        if free < size + _MARGIN:
            raise OSError(errno.ENOSPC, f"No space left, {free / 1e6:.1f} MB")

    def _unwritten(self, error: Exception) -> UserError:
        reason = first_line(error)
        if "No space left" in reason or "RESOURCE_EXHAUSTED" in reason:
            reason = "no space left on the disk"
        return UserError(
            f"{self._folder}: a checkpoint could not be written: {reason}; "
            f"the ones before it stand: mend this, and go on with --resume"
        )


class Restored(NamedTuple):
    """What a run can go on from."""

    state: TrainState
    record: Record
    damaged: list[str]
    """Later checkpoints that could not be used, and why."""


def newest_record(run: Path) -> Record | None:
    """The plain values of the newest checkpoint where they can be read; None if there is none."""
    for folder in newest_first(run / FOLDER):
        try:
            return read_record(folder)
        except Damaged:
            continue
    return None


def latest(
    run: Path, like: Callable[[int], TrainState], *, changed: bool = False
) -> Restored | None:
    """The newest sound checkpoint; None if nothing was saved yet.

    Later ones, which are damaged, are removed.

    Args:
      like: a state of a phase of `unfreezing`, by which a checkpoint's arrays are checked, typed
        and placed.
      changed: the settings are not those that the run was trained with: a checkpoint that does not
        fit them is not damaged.

    Raises:
      UserError: there are checkpoints, but none that is sound; or one does not fit what changed.
    """
    problems: dict[Path, str] = {}
    for folder in newest_first(run / FOLDER):
        try:
            record = read_record(folder)
            state = like(record["progress"]["phase"])
            parts = read_parts(folder, _parts(state), record)
        except Damaged as damage:
            if changed and isinstance(damage, Misfit):
                raise UserError(
                    f"{damage}; the settings that have changed make another network: give those "
                    f"that the run was trained with, or start another one"
                ) from None
            problems[folder] = str(damage)
            continue
        if distributed.is_main_process():
            for damaged in problems:
                shutil.rmtree(damaged)
        distributed.barrier("damaged checkpoints removed")
        return Restored(_state(state, int(folder.name), parts), record, list(problems.values()))
    if problems:
        raise UserError(f"no checkpoint can be used: {'; '.join(problems.values())}")
    return None


class Best(NamedTuple):
    """What a run has come to: its best student, without projectors."""

    settings: config.Config
    student: Student
    step: int
    record: Record


def best(run: Path) -> Best:
    """The student of the run's best sound checkpoint.

    Raises:
      UserError: there is no run, no checkpoint, or the encoder's weights file is not what it was.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run.absolute()} is not a run: it has no config.yaml")
    settings = config.load(run / "config.yaml")
    records, problems = _records(run)
    network = student.build(settings.student, seed=settings.seed)
    first = fingerprint(unfreezing.partition_in_phase(network, settings.student, phase=0).frozen)
    for folder, record in records:
        if record["frozen"] != first:
            problems.append(
                f"{folder}: the frozen encoder is not the one it was trained on; restore "
                f"{settings.student.encoder_weights or 'student.encoder_weights'}"
            )
            continue
        trained_on = weights.parse_normalization(record.get("normalization"), folder)
        network.normalization = trained_on or network.normalization
        split = unfreezing.partition_in_phase(network, settings.student, record["progress"]["phase"])
        wanted = {"params": split.params, "batch_stats": split.batch_stats}
        try:
            parts = read_parts(folder, wanted, record, partly=True)
        except Damaged as damage:
            problems.append(str(damage))
            continue
        for problem in problems:
            logging.getLogger(__name__).warning("damaged, and left out: %s", problem)
        variables = {**split.frozen, **parts["params"], **parts["batch_stats"]}
        return Best(settings, merge(split.graphdef, variables), int(folder.name), record)
    if problems:
        raise UserError(f"no checkpoint can be used: {'; '.join(problems)}")
    raise UserError(f"{run.absolute()} has no checkpoint yet: train for an epoch first")


def _records(run: Path) -> tuple[list[tuple[Path, Record]], list[str]]:
    """Checkpoints whose record is sound, the best first, then the newest; and what is wrong."""
    records, problems = [], []
    for folder in newest_first(run / FOLDER):
        try:
            records.append((folder, read_record(folder)))
        except Damaged as damage:
            problems.append(str(damage))
    return sorted(records, key=lambda pair: _score(pair[1]), reverse=True), problems


def _score(record: Record) -> float:
    return -math.inf if record["score"] is None else record["score"]


def _parts(state: TrainState) -> Parts:
    moments, _ = jax.tree_util.tree_flatten_with_path(state.opt_state)
    return {
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": {
            jax.tree_util.keystr(path, simple=True, separator=":"): leaf for path, leaf in moments
        },
    }


def _state(like: TrainState, step: int, parts: Parts) -> TrainState:
    """Parts as a state again, placed and typed as `like` is."""
    placed = {
        part: {name: _place(parts[part][name], leaf) for name, leaf in arrays.items()}
        for part, arrays in _parts(like).items()
    }
    moments = list(placed["opt_state"].values())
    return TrainState(
        _place(step, like.step),
        placed["params"],
        placed["batch_stats"],
        jax.tree.unflatten(jax.tree.structure(like.opt_state), moments),
    )


def _place(value: Any, like: jax.Array) -> jax.Array:
    return put(np.asarray(value, like.dtype), like.sharding)


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
