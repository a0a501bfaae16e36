"""The fast weight gradient of a convolution against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxdistill.ops import convolution as ops

SAME = ((1, 1), (1, 1))


def arrays(batch, height, width, inputs, outputs, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(height * 64 + width), 3)
    x = jax.random.normal(keys[0], (batch, height, width, inputs), dtype)
    kernel = jax.random.normal(keys[1], (3, 3, inputs, outputs), dtype)
    return x, kernel, jax.random.normal(keys[2], (batch, height, width, outputs), dtype)


@settings(max_examples=5)  # each compiles anew
@given(*(st.integers(1, most) for most in (2, 11, 11, 4, 4)), st.integers(1, 600))
def test_rows_at_a_time_equal_the_whole(batch, height, width, inputs, outputs, cache) -> None:
    x, _, dy = arrays(batch, height, width, inputs, outputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_PATCH_FLOATS", cache)  # from one row at a time to all of them
        found = ops.gradient_by_rows(x, dy, SAME)
    np.testing.assert_allclose(found, ops.plain_gradient(x, dy, SAME), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (1, 4), (4, 1)])
def test_value_and_gradients_are_those_of_the_plain_form(inputs, outputs) -> None:
    x, kernel, dy = arrays(2, 6, 8, inputs, outputs)
    y, pull = jax.vjp(lambda x, kernel: ops.convolve(x, kernel, SAME), x, kernel)
    expected, pull_plain = jax.vjp(lambda x, kernel: ops.plain(x, kernel, SAME), x, kernel)
    for found, wanted in zip((y, *pull(dy)), (expected, *pull_plain(dy)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_the_numerical_one() -> None:
    x, kernel, _ = arrays(1, 4, 5, 2, 2)
    check_grads(
        lambda x, kernel: ops.convolve(x, kernel, SAME),
        (x, kernel),
        order=1,
        modes=["rev"],
        rtol=1e-2,
    )


def test_sums_of_bfloat16_are_kept_in_float32() -> None:
    x, _, dy = arrays(1, 64, 64, 2, 2, jnp.bfloat16)
    exact = ops.plain_gradient(x.astype(jnp.float32), dy.astype(jnp.float32), SAME)
    found = ops.gradient_by_rows(x, dy, SAME).astype(jnp.float32)
    np.testing.assert_allclose(found, exact, rtol=1e-2, atol=0.3)


@pytest.mark.parametrize(
    ("size", "padding"),
    [
        (1, ((0, 0), (0, 0))),
        (2, ((1, 0), (0, 1))),
        (3, ((1, 0), (0, 1))),
        (3, ((0, 0), (0, 0))),
        (3, ((2, 1), (1, 2))),
    ],
)
@pytest.mark.parametrize("outputs", [4, 2])
def test_any_kernel_with_padding_below_its_size(outputs, size, padding) -> None:
    x, _, _ = arrays(2, 6, 7, 3, 4)
    like = jax.ShapeDtypeStruct((size, size, 3, outputs), x.dtype)
    shape = jax.eval_shape(lambda x, k: ops.plain(x, k, padding), x, like).shape
    dy = jax.random.normal(jax.random.key(9), shape)
    found = ops.gradient_by_rows(x, dy, padding)
    np.testing.assert_allclose(found, ops.plain_gradient(x, dy, padding), rtol=1e-4, atol=1e-4)


def test_a_convolution_of_1x1_is_a_matrix_product() -> None:
    keys = jax.random.split(jax.random.key(2), 3)
    x, dy = (jax.random.normal(key, (2, 5, 3, c)) for key, c in zip(keys, (4, 6), strict=False))
    kernel = jax.random.normal(keys[2], (1, 1, 4, 6))
    none = ((0, 0), (0, 0))
    y, pull = jax.vjp(lambda x, kernel: ops.convolve(x, kernel, none), x, kernel)
    expected, pull_plain = jax.vjp(lambda x, kernel: ops.plain(x, kernel, none), x, kernel)
    for found, wanted in zip((y, *pull(dy)), (expected, *pull_plain(dy)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
