"""What changes from epoch to epoch. Epochs count from 0; both numbers and traced arrays will do."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxdistill import config


def temperature(settings: config.Temperature, epoch: int | Array, epochs: int) -> Array:
    """Of the KL loss; the final value if there is one epoch only."""
    first, last = settings.initial, settings.final
    progress = jnp.where(epochs > 1, epoch / max(epochs - 1, 1), 1.0)
    match settings.schedule:
        case "linear":
            return first + (last - first) * progress
        case "cosine":
            return last + (first - last) * (1 + jnp.cos(jnp.pi * progress)) / 2
        case "exponential":
            return first * (last / first) ** progress


def learning_rate(settings: config.Training, epoch: int | Array) -> Array:
    """Cosine from the first epoch's rate to where the last one would be followed by the final rate.

    As PyTorch's `CosineAnnealingLR` with `T_max` epochs, stepped after each epoch.
    """
    first, last = settings.learning_rate, settings.final_learning_rate
    progress = epoch / settings.epochs
    return last + (first - last) * (1 + jnp.cos(jnp.pi * jnp.asarray(progress))) / 2
