"""Restoring of checkpoints: the newest intact one, and damaged ones set aside.

Damage is found by the digests in a checkpoint's metadata. Nothing is deleted on suspicion: a
damaged folder is renamed to `STEP.damaged`, and an I/O error is not damage.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdistill.checkpoint import folders, scores
from jaxdistill.checkpoint.integrity import (
    DamagedError,
    Metadata,
    MisfitError,
    Parts,
    read_metadata,
    read_parts,
)
from jaxdistill.checkpoint.manager import to_parts
from jaxdistill.runtime import distributed, files
from jaxdistill.runtime.errors import RunError
from jaxdistill.runtime.run_layout import CHECKPOINTS
from jaxdistill.runtime.sharding import put
from jaxdistill.types import TrainState


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
    for folder in folders.newest_first(run / CHECKPOINTS):
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
        files.retry_io(lambda: folders.recover(run / CHECKPOINTS))
    distributed.barrier("replaced checkpoints recovered")
    problems: dict[Path, str] = {}
    for folder in folders.newest_first(run / CHECKPOINTS):
        restored = None
        try:
            metadata = read_metadata(folder)
            state = like(metadata["progress"]["phase"])
            parts = read_parts(folder, _stored(to_parts(state), metadata), metadata)
            restored = _to_state(state, folders.step_of(folder), parts)
        except DamagedError as damage:
            if changed and isinstance(damage, MisfitError):
                raise RunError(
                    f"{damage}; the changed settings make another network, or another optimizer "
                    f"(as student.unfreeze and training.anchor do, where they are added or taken "
                    f"away): use those that the run was trained with, or start another run",
                    code="checkpoint-misfit",
                ) from None
            problems[folder] = str(damage)
        _check_agreement(folder, restored is None)
        if restored is not None:
            folders.rename_damaged(problems)
            return Restored(restored, metadata, list(problems.values()))
    if problems:
        raise RunError(
            f"no checkpoint is intact: {'; '.join(problems.values())}", code="no-intact-checkpoint"
        )
    return None


def by_score(run: Path) -> tuple[list[tuple[Path, Metadata]], list[str]]:
    """Returns the checkpoints whose metadata are intact: the best first, then the newest.

    See `scores.best_first` for those that come as the best.

    Args:
      run: The run's folder.

    Returns:
      Folders with their metadata, and what is wrong with the others.
    """
    found: dict[int, tuple[Path, Metadata]] = {}
    problems = []
    for folder in folders.newest_first(run / CHECKPOINTS):
        try:
            found[folders.step_of(folder)] = folder, read_metadata(folder)
        except DamagedError as damage:
            problems.append(str(damage))
    best = scores.best_first({step: scores.score_of(each) for step, (_, each) in found.items()})
    return [found[step] for step in dict.fromkeys([*best, *found])], problems


def _stored(parts: Parts, metadata: Metadata) -> Parts:
    """Leaves the average out where the run had none when the checkpoint was saved."""
    stored = metadata["digests"]
    return {part: own for part, own in parts.items() if part != "ema" or part in stored}


def _to_state(like: TrainState, step: int, parts: Parts) -> TrainState:
    def placed(value: Any, leaf: jax.Array) -> jax.Array:
        return put(np.array(value, leaf.dtype), leaf.sharding)

    parts = {"ema": {**parts["params"], **parts["batch_stats"]}, **parts}
    arrays = {
        part: {name: placed(parts[part][name], leaf) for name, leaf in own.items()}
        for part, own in to_parts(like).items()
    }
    opt_state = jax.tree.unflatten(
        jax.tree.structure(like.opt_state), list(arrays["opt_state"].values())
    )
    return TrainState(
        placed(step, like.step),
        arrays["params"],
        arrays["batch_stats"],
        opt_state,
        arrays.get("ema"),
    )


def _check_agreement(folder: Path, damaged: bool) -> None:
    found = distributed.all_gather(np.asarray([damaged]))
    if found.any() != found.all():
        others = ", ".join(str(index) for index in np.flatnonzero(found))
        raise RunError(
            f"{folder}: damaged for the processes {others} and intact for the others; see that all "
            f"read the same files",
            code="checkpoint-differs",
        )
