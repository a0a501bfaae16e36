"""Exponential moving average (EMA) of the weights, as part of the train state.

The average is of the trained parameters and of the BatchNorm statistics that training updates, one
value for each of their paths. Validation and the best checkpoint take it in place of them.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdistill import config
from jaxdistill.types import TrainState, Variables


def begin(
    settings: config.Ema | None, params: Variables, batch_stats: Variables
) -> Variables | None:
    """Returns the average before the first step: the values themselves.

    Args:
      settings: `training.ema`; None: there is no average.
      params: Trained parameters.
      batch_stats: Running statistics that training updates.

    Returns:
      The average by path; None without one.
    """
    return None if settings is None else {**params, **batch_stats}


def decay_after(settings: config.Ema, count: Int[Array, ""]) -> Float[Array, ""]:
    """Returns the share of the average that a step keeps.

    The formula of the warm-up is that of TensorFlow's `ExponentialMovingAverage`.

    Args:
      settings: `decay`, and whether it is smaller at first.
      count: Number of steps before this one that changed the weights.
    """
    decay = jnp.float32(settings.decay)
    return jnp.minimum(decay, (1 + count) / (10 + count)) if settings.warmup else decay


def update(
    settings: config.Ema | None,
    average: Variables | None,
    params: Variables,
    batch_stats: Variables,
    count: Int[Array, ""],
) -> Variables | None:
    """Returns the average after a step.

    Args:
      settings: `training.ema`; None: there is no average.
      average: The average before the step.
      params: Trained parameters after the step.
      batch_stats: Running statistics after the step.
      count: See `decay_after`.
    """
    if settings is None or average is None:
        return None
    share = 1 - decay_after(settings, count)
    values = {**params, **batch_stats}
    return {path: old + share * (values[path] - old) for path, old in average.items()}


def join(average: Variables | None, params: Variables, batch_stats: Variables) -> Variables | None:
    """Returns the average where more variables are trained than before.

    Args:
      average: The average of those that were trained before; None: there is none.
      params: All trained parameters.
      batch_stats: All running statistics that training updates.

    Returns:
      The average; that of a variable which joins starts from its value.
    """
    if average is None:
        return None
    # Copied: a step takes the buffers of its state, and must not be given one twice.
    return {
        path: average[path] if path in average else jnp.array(value)
        for path, value in {**params, **batch_stats}.items()
    }


def averaged(state: TrainState) -> tuple[Variables, Variables]:
    """Returns the parameters and statistics that are evaluated: the averages, where there are any.

    Args:
      state: The train state.
    """
    if state.ema is None:
        return state.params, state.batch_stats
    params = {path: state.ema[path] for path in state.params}
    return params, {path: state.ema[path] for path in state.batch_stats}
