"""Seeds without compilation have the bits of `nnx.Rngs`."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxdistill.models.seeds import make_rngs


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 + 7, 2**32 - 1])
def test_keys_equal_those_of_nnx(seed: int) -> None:
    ours, theirs = make_rngs(seed), nnx.Rngs(seed)
    for stream in ("params", "params", "dropout", "params"):
        one, other = (np.asarray(jax.random.key_data(r[stream]())) for r in (ours, theirs))
        np.testing.assert_array_equal(one, other)


def test_other_layers_of_flax_can_use_them() -> None:
    ours, theirs = (nnx.Linear(2, 3, rngs=rngs) for rngs in (make_rngs(3), nnx.Rngs(3)))
    np.testing.assert_array_equal(ours.kernel[...], theirs.kernel[...])
