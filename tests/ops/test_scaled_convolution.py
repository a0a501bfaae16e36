"""The convolution with a kernel for each image against the plain one, forward and backward."""

import jax
import numpy as np

from jaxdistill.ops import scaled_convolution as ops


def test_a_kernel_for_each_image_equals_the_scaled_map() -> None:
    keys = jax.random.split(jax.random.key(3), 4)
    x = jax.random.normal(keys[0], (3, 5, 4, 6))
    factor = jax.random.uniform(keys[1], (3, 1, 1, 6))
    kernel = jax.random.normal(keys[2], (1, 1, 6, 2))

    def both_ways(form):
        y, pull = jax.vjp(form, x, factor, kernel)
        return y, *pull(jax.random.normal(keys[3], y.shape))

    expected = both_ways(ops.plain)
    for form in (ops.by_image, ops.scaled_convolve):
        for one, other in zip(both_ways(form), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
