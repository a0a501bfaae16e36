"""The fast form of a depthwise convolution against the plain one, forward and backward."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdistill.ops.depthwise import on_gpu, plain, shifted, shifted_on_cpu
from jaxdistill.ops.padding import PaddingKind, resolve_padding


@settings(max_examples=5)  # each compiles anew
@given(
    st.integers(1, 2),
    st.integers(5, 11),
    st.integers(5, 11),
    st.integers(1, 4),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2]),
    st.sampled_from(get_args(PaddingKind)),
)
def test_shifted_equals_plain(batch, height, width, channels, size, stride, kind) -> None:
    """For the paddings of the models; XLA on a CPU computes others wrong, see ops/padding.py."""
    rows, columns = (resolve_padding(kind, size, stride, side) for side in (height, width))
    keys = jax.random.split(jax.random.key(height * 16 + width), 3)
    x = jax.random.normal(keys[0], (batch, height, width, channels))
    kernel = jax.random.normal(keys[1], (size, size, 1, channels))

    def both_ways(form, x, kernel):
        y, pull = jax.vjp(lambda x, kernel: form(x, kernel, stride, (rows, columns)), x, kernel)
        return y, *pull(jax.random.normal(keys[2], y.shape))

    compiled = jax.jit(both_ways, static_argnums=0)
    expected = compiled(plain, x, kernel)

    def on_cpu(x, kernel, stride, padding):
        return shifted_on_cpu(stride, padding, x, kernel)

    for form in (shifted, on_cpu):
        for one, other in zip(compiled(form, x, kernel), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (1, 2), (2, 2), (3, 1)])
def test_the_gradient_of_a_map_smaller_than_the_kernel(side: int, stride: int) -> None:
    padding = (resolve_padding("same", 5, stride, side),) * 2
    x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    kernel = jax.random.normal(jax.random.key(1), (5, 5, 1, 3))

    def gradients(form):
        y, pull = jax.vjp(form, x, kernel)
        return pull(jnp.cos(y))

    expected = gradients(lambda x, kernel: plain(x, kernel, stride, padding))
    found = gradients(lambda x, kernel: shifted_on_cpu(stride, padding, x, kernel))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_on_a_gpu_is_the_plain_form_of_the_same_values(size: int, stride: int) -> None:
    padding = (resolve_padding("symmetric", size, stride, 12),) * 2
    keys = jax.random.split(jax.random.key(size), 2)
    x = jax.random.normal(keys[0], (2, 12, 12, 4), jnp.bfloat16)
    kernel = jax.random.normal(keys[1], (size, size, 1, 4), jnp.bfloat16)
    found = on_gpu(x, kernel, stride, padding)
    assert found.dtype == jnp.bfloat16
    wide = (x.astype(jnp.float32), kernel.astype(jnp.float32))
    expected = plain(*wide, stride, padding)
    # bfloat16 keeps 8 bits, and each of the terms is rounded.
    error = jnp.linalg.norm(found.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)
    assert error < size * 2**-8
