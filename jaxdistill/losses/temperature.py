"""Temperature schedules over the epochs of a run."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxdistill import config


def temperature_at(
    temperature: float | config.Temperature, epoch: int | Array, epochs: int
) -> Array:
    """Returns the temperature of an epoch.

    With progress p = epoch / (epochs - 1), or 1 if there is one epoch only, a schedule goes from T0
    to T1 by T0 + (T1 - T0) p (`linear`), T1 + (T0 - T1) (1 + cos(pi p)) / 2 (`cosine`), or
    T0 (T1 / T0)^p (`exponential`).

    Args:
      temperature: A number, or a schedule.
      epoch: The epoch, counted from 0; a number or a traced array.
      epochs: Number of epochs of the run.

    Returns:
      The temperature, a scalar.
    """
    if not isinstance(temperature, config.Temperature):
        return jnp.asarray(float(temperature))
    first, last = temperature.initial, temperature.final
    progress = jnp.where(epochs > 1, epoch / max(epochs - 1, 1), 1.0)
    match temperature.schedule:
        case "linear":
            return first + (last - first) * progress
        case "cosine":
            return last + (first - last) * (1 + jnp.cos(jnp.pi * progress)) / 2
        case "exponential":
            return first * (last / first) ** progress
