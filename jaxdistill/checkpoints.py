"""Checkpoints of a run: what is saved, which are kept, and what comes back.

A checkpoint holds what training changes: step, trained parameters, their statistics, optimizer
moments; and a record of numbers. Frozen variables are named by fingerprint, not stored: they come
from the same weights file, or the same seed, again.
"""

import hashlib
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from jaxdistill import config
from jaxdistill.errors import UserError
from jaxdistill.models import student
from jaxdistill.models.student import Student, Variables
from jaxdistill.update import TrainState

Record = dict[str, Any]
KEPT = 2  # the latest ones, next to the best


class Checkpoints:
    """The `checkpoints` folder of a run. As a context it waits for what is being written.

    Args:
      run: the run's folder.
      frozen: the student's frozen variables, by which a checkpoint knows its encoder again.
    """

    def __init__(self, run: Path, frozen: Variables) -> None:
        self._frozen = fingerprint(frozen)
        self._manager = _manager(run)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, state: TrainState, record: Record) -> None:
        """Writes in the background; the validation's `student_miou` decides which is best."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                record=ocp.args.JsonSave({**record, "frozen": self._frozen}),
            ),
            metrics={"student_miou": record["validation"]["student_miou"]},
        )

    def latest(self, like: TrainState) -> tuple[TrainState, Record] | None:
        """The state to go on from, shaped like `like`; None if nothing was saved yet.

        Raises:
          UserError: the checkpoint belongs to another network or another encoder.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        record = _record(self._manager, step)
        if record["frozen"] != self._frozen:
            raise UserError(
                f"{_folder(self._manager, step)}: trained on another frozen encoder than "
                f"student.encoder_weights gives now; restore that file, or start another run"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            )
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{_folder(self._manager, step)} does not fit this configuration: "
                f"{str(error).splitlines()[0]}"
            ) from None
        return TrainState(**restored["state"]), record


class Best(NamedTuple):
    """What a run has come to: its best student, without projectors."""

    settings: config.Config
    student: Student
    step: int
    record: Record


def best(run: Path) -> Best:
    """The student of the run's best checkpoint, by validation mIoU.

    Raises:
      UserError: there is no run, no checkpoint, or the encoder's weights file is not what it was.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run.absolute()} is not a run: it has no config.yaml")
    settings = config.load(run / "config.yaml")
    if not (run / "checkpoints").is_dir():
        raise UserError(f"{run.absolute()} has no checkpoint yet: train for an epoch first")
    manager = _manager(run, read_only=True)
    step = manager.best_step() or manager.latest_step()
    if step is None:
        raise UserError(f"{run.absolute()} has no checkpoint yet: train for an epoch first")
    record = _record(manager, step)
    split = student.freeze(
        student.build(settings.student, seed=settings.seed), settings.student.frozen
    )
    if fingerprint(split.frozen) != record["frozen"]:
        raise UserError(
            f"{run}: the frozen encoder is not the one it was trained on; restore "
            f"{settings.student.encoder_weights or 'student.encoder_weights'}"
        )
    wanted = {"parameters": split.parameters, "statistics": split.statistics}
    trained = manager.restore(step, args=ocp.args.Composite(state=_as_numpy(wanted)))["state"]
    variables = {**split.frozen, **trained["parameters"], **trained["statistics"]}
    return Best(settings, student.assemble(split.graph, variables), step, record)


def fingerprint(variables: Variables) -> str:
    """A digest of names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(variables):
        digest.update(name.encode())
        digest.update(np.asarray(variables[name]).tobytes())
    return digest.hexdigest()


def _manager(run: Path, *, read_only: bool = False) -> ocp.CheckpointManager:
    logging.getLogger("absl").setLevel(logging.ERROR)
    best_first = BestN(get_metric_fn=lambda metrics: metrics["student_miou"], n=1)
    options = ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics["student_miou"],
        preservation_policy=AnyPreservationPolicy([LatestN(n=KEPT), best_first]),
        read_only=read_only,
        create=not read_only,
    )
    return ocp.CheckpointManager((run / "checkpoints").absolute(), options=options)


def _record(manager: ocp.CheckpointManager, step: int) -> Record:
    return manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]


def _as_numpy(wanted: dict[str, Variables]) -> ocp.args.PyTreeRestore:
    """A part of a checkpoint, on any machine: not onto the devices that it was saved from."""
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    return ocp.args.PyTreeRestore(wanted, restore_args=arguments, partial_restore=True)


def _folder(manager: ocp.CheckpointManager, step: int) -> Path:
    return Path(manager.directory) / str(step)
