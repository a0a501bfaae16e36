"""What a step is compiled for, built from a configuration, and the state before the first step."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from jaxdistill import config
from jaxdistill.losses.base import Loss
from jaxdistill.models import unfreezing
from jaxdistill.models.parameters import Partition
from jaxdistill.models.student import Student
from jaxdistill.training import ema
from jaxdistill.training.anchor import anchored_groups
from jaxdistill.training.optimizer import (
    build_optimizer,
    group_factors,
    learning_rate_schedule,
)
from jaxdistill.types import TrainState


class StepSpec(NamedTuple):
    """What a step is compiled for; it does not change while a phase of the training lasts."""

    graphdef: nnx.GraphDef
    """The student's structure, without its arrays."""
    losses: Mapping[str, Loss]
    """The terms of the objective, by name."""
    optimizer: optax.GradientTransformation
    """Clipping, AdamW and the learning-rate schedule."""
    learning_rate: Callable[[Array], Array]
    """The schedule by step, for logging; the optimizer holds it too."""
    steps_per_epoch: int
    epochs: int
    seed: int = 0
    """Seed of the masks that `mgd` draws."""
    accumulate: int = 1
    """In how many parts a step processes its batch, one after the other."""
    ema: config.Ema | None = None
    """The moving average of the weights; None without one."""
    factors: Mapping[str, float] = MappingProxyType({})
    """Factors of the learning rate by parameter group, for logging."""


def step_spec(
    settings: config.Config,
    student: Student,
    graphdef: nnx.GraphDef,
    losses: Mapping[str, Loss],
    steps_per_epoch: int,
) -> StepSpec:
    """Builds what a step is compiled for from a configuration.

    Args:
      settings: Learning rate, clipping, epochs, accumulation, seed, and the unfreezing plan.
      student: The student; its encoder says which stages join the training.
      graphdef: The student's structure in the present phase of the unfreezing.
      losses: The terms of the objective, by name.
      steps_per_epoch: Steps in an epoch.
    """
    training = settings.training
    schedule = learning_rate_schedule(training, steps_per_epoch)
    optimizer = build_optimizer(
        training,
        schedule,
        unfreeze=settings.student.unfreeze,
        stage_of=lambda params: unfreezing.stage_of(params, unfreezing.encoder_stages(student)),
        anchored=anchored_groups(settings.student),
    )
    return StepSpec(
        graphdef,
        losses,
        optimizer,
        schedule,
        steps_per_epoch,
        training.epochs,
        settings.seed,
        training.accumulate,
        training.ema,
        group_factors(training, settings.student.unfreeze),
    )


def initial_state(spec: StepSpec, partition: Partition) -> TrainState:
    """Returns the state before the first step, on the host.

    It holds copies: the first step takes the buffers of the state that is made of it, and the
    student of the caller is to stay usable.

    Args:
      spec: What the step is compiled for.
      partition: The student, taken apart.
    """
    opt_state = jax.jit(spec.optimizer.init)(partition.params)
    params, batch_stats = partition.params, partition.batch_stats
    average = ema.begin(spec.ema, params, batch_stats)
    state = TrainState(jax.device_put(np.int32(0)), params, batch_stats, opt_state, average)
    copied: TrainState = jax.tree.map(np.array, state)
    return copied
