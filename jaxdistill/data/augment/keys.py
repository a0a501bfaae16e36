"""Random keys of augmentation: all randomness comes from (seed, step)."""

import jax
from jaxtyping import Array, Key

FLIP, PHOTOMETRIC, CROP = 0, 1, 2
"""What the key of a step is folded with for each use, so that the draws are independent."""


def step_key(seed: int, step: int) -> Key[Array, ""]:
    """Returns the key from which everything random in a step is drawn.

    Args:
      seed: The seed of the run.
      step: The step, counted from 0 over the whole run.
    """
    return jax.random.fold_in(jax.random.key(seed), step)


def fold(key: Key[Array, ""], use: int) -> Key[Array, ""]:
    """Returns the key of one use.

    Args:
      key: The key of the step.
      use: `FLIP`, `PHOTOMETRIC` or `CROP`.
    """
    return jax.random.fold_in(key, use)
