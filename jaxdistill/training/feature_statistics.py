"""The targets' statistics, for the pairs that standardise them."""

from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdistill import config
from jaxdistill.runtime.errors import UserError
from jaxdistill.types import Variables

PICTURES = 64  # that the statistics are measured on
_DEAD = 1e-4  # of the largest deviation among the channels: below it a channel says nothing

Maps = Sequence[Float[Array, "b _ _ _"]]


def measure(features: Sequence[config.Feature], batches: Iterable[Maps]) -> Variables:
    """Mean and factor of every pair that is standardised, by the names that the student has.

    Args:
      batches: the targets of all pairs, batch by batch, each of the same size.

    Raises:
      UserError: a tensor is the same on all pictures.
    """
    wanted = [index for index, feature in enumerate(features) if feature.standardize]
    moments = [[_moments(maps[index]) for index in wanted] for maps in batches]
    measured: Variables = {}
    for index, each in zip(wanted, zip(*moments, strict=True), strict=True):
        means, variances = (np.asarray(part, np.float64) for part in zip(*each, strict=True))
        deviation = np.sqrt(variances.mean(0) + means.var(0))
        live = deviation > _DEAD * deviation.max()
        if not live.any():
            raise UserError(
                f"features.{index}.standardize: {features[index].tensor!r} is the same everywhere "
                f"on the pictures that were measured; name another tensor"
            )
        factor = np.where(live, 1 / np.where(live, deviation, 1), 0)
        place = f"projectors.{index}.statistics"
        measured[f"{place}.mean"] = jnp.asarray(means.mean(0), jnp.float32)
        measured[f"{place}.factor"] = jnp.asarray(factor, jnp.float32)
    return measured


def describe(measured: Variables) -> Iterator[str]:
    """A line for each pair."""
    for name, factor in measured.items():
        if name.endswith(".factor"):
            dead = int((factor == 0).sum())
            yield (
                f"features.{name.split('.')[1]}: standardised; {dead} of {len(factor)} channels "
                f"never change and do not count"
            )


@jax.jit
def _moments(target: Float[Array, "b h w c"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    wide = target.astype(jnp.float32)
    return wide.mean((0, 1, 2)), wide.var((0, 1, 2))
