"""Progressive unfreezing: the encoder's stages join the training one by one, deepest first.

A phase is the number of stages that have joined. The arrays of a train state and the compiled step
depend on the phase, which changes between epochs only.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxdistill import config
from jaxdistill.models.parameters import Partition, is_frozen, partition

Stages = Sequence[Sequence[str]]
"""Paths of each stage below the student, such as `encoder.blocks.6`, deepest stage first."""


def encoder_stages(student: Any) -> Stages:
    """Returns the stages in which a student's encoder can join the training.

    Args:
      student: The student.

    Returns:
      The paths of every stage, deepest first; empty if the encoder describes no stages.
    """
    return [_below_encoder(stage) for stage in student.encoder.stages]


def phase(settings: config.Student, epoch: int, stages: Stages) -> int:
    """Returns the phase of an epoch.

    Args:
      settings: `unfreeze` holds the plan.
      epoch: Number of the epoch, counted from 0.
      stages: From `encoder_stages`; there are no more phases than stages.

    Returns:
      The number of stages that have joined the training.
    """
    plan = settings.unfreeze
    if plan is None or epoch + 1 < plan.from_epoch:
        return 0
    most = len(stages) if plan.stages is None else min(plan.stages, len(stages))
    return min(most, 1 + (epoch + 1 - plan.from_epoch) // plan.every)


def partition_in_phase(student: Any, settings: config.Student, phase: int) -> Partition:
    """Splits a student by what is trained in a phase; the encoder's unused layers never are.

    Args:
      student: The student. Its BatchNorms' `frozen` attributes are changed.
      settings: `frozen` and `unfreeze`.
      phase: The number of stages that have joined.

    Returns:
      The parts.

    Raises:
      ConfigError: See `parameters.partition`.
    """
    unused = _below_encoder(student.encoder.unused)
    if not phase:
        return partition(student, [*settings.frozen, *unused])
    others = [path for path in settings.frozen if path != "encoder"]
    waiting = [path for stage in encoder_stages(student)[phase:] for path in stage]
    plan = settings.unfreeze
    fixed = [] if plan is None or plan.batch_norm else ["encoder"]
    return partition(student, [*others, *unused, *waiting], fixed)


def stage_of(paths: Iterable[str], stages: Stages) -> dict[str, str]:
    """Returns for each parameter the stage that it joined the training with.

    Args:
      paths: Dotted paths of parameters.
      stages: From `encoder_stages`.

    Returns:
      By path the first path of the stage; empty text for parameters outside the stages.
    """
    return {
        path: next((stage[0] for stage in stages if is_frozen(path, stage)), "") for path in paths
    }


def _below_encoder(paths: Iterable[str]) -> list[str]:
    return [f"encoder.{path}" for path in paths]
