"""Phases of a training: which parameters it trains, and its state as more of them join.

A phase is the number of the encoder's stages that have joined the training (`models.unfreezing`).
"""

from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxdistill.models import unfreezing
from jaxdistill.models.parameters import Partition, merge
from jaxdistill.training import ema
from jaxdistill.training.optimizer import migrate_opt_state
from jaxdistill.types import TrainState

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


def phase_of(trainer: "Trainer", epoch: int) -> int:
    """Returns how many of the encoder's stages are trained in an epoch.

    Args:
      trainer: The trainer.
      epoch: The epoch, counted from 0.
    """
    stages = unfreezing.encoder_stages(trainer.model)
    return unfreezing.phase(trainer.settings.student, epoch, stages)


def in_phase(trainer: "Trainer", phase: int) -> tuple[Partition, TrainState]:
    """Returns partition and state of a phase; parameters that join have fresh moments.

    Args:
      trainer: The trainer, in this phase or an earlier one.
      phase: Number of the encoder's stages that are trained.
    """
    if phase == trainer.progress.phase:
        return trainer.partition, trainer.state
    student = merge(trainer.partition.graphdef, trainer.variables())
    partition = unfreezing.partition_in_phase(student, trainer.settings.student, phase)
    opt_state = jax.jit(trainer.spec.optimizer.init)(partition.params)
    state = TrainState(
        trainer.state.step,
        partition.params,
        partition.batch_stats,
        migrate_opt_state(trainer.state.opt_state, opt_state),
        ema.join(trainer.state.ema, partition.params, partition.batch_stats),
    )
    # Copies: a step takes the buffers of its state, and `trainer.initial_partition` is to stay.
    return partition, trainer.mesh.replicate(jax.tree.map(np.array, state))
