"""Random keys of augmentation: all randomness comes from (seed, step)."""

import jax
import numpy as np
from jaxtyping import Array, Key, UInt32

FLIP, PHOTOMETRIC, CROP = 0, 1, 2
"""What the key of a step is folded with for each use, so that the draws are independent."""


def step_key(seed: int, step: int) -> Key[Array, ""]:
    """Returns the key from which everything random in a step is drawn.

    Args:
      seed: The seed of the run, below 2**32.
      step: The step, counted from 0 over the whole run.
    """
    return _step_key(np.uint32(seed), np.uint32(step))


def fold(key: Key[Array, ""], use: int) -> Key[Array, ""]:
    """Returns the key of one use.

    Args:
      key: The key of the step.
      use: `FLIP`, `PHOTOMETRIC` or `CROP`.
    """
    return jax.random.fold_in(key, use)


@jax.jit
def _step_key(seed: UInt32[Array, ""], step: UInt32[Array, ""]) -> Key[Array, ""]:
    """One program; outside of `jax.jit` each of the three operations would be one."""
    return jax.random.fold_in(jax.random.key(seed), step)
