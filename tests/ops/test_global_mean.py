"""The mean of a finished map against the plain one, forward and backward."""

import jax
import numpy as np

from jaxdistill.ops.global_mean import of_finished, plain


def test_the_mean_of_a_finished_map_is_the_plain_one() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, 5, 7, 3))

    def both_ways(form, x):
        y, pull = jax.vjp(lambda x: form(jax.nn.silu(x)), x)
        return y, *pull(jax.random.normal(keys[1], y.shape))

    found, expected = (jax.jit(both_ways, static_argnums=0)(f, x) for f in (of_finished, plain))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
