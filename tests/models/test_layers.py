"""Layers compute PyTorch's and TensorFlow's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdistill.models.layers import BatchNorm, Conv, conv_norm


@pytest.mark.parametrize("length", [7, 8, 9])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_same_padding_equals_xla_s(length: int, size: int, stride: int) -> None:
    conv = Conv(2, 3, size, stride=stride, padding="same", rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, length, length, 2))
    expected = jax.lax.conv_general_dilated(
        x, conv.kernel[...], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(conv(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_norm_equals_convolution_then_norm(bias: bool) -> None:
    rng = np.random.default_rng(0)
    conv, norm = Conv(4, 6, 3, bias=bias, rngs=nnx.Rngs(0)), BatchNorm(6, eps=1e-3)
    norm.mean[...] = jnp.asarray(rng.normal(size=6), jnp.float32)
    norm.var[...] = jnp.asarray(rng.uniform(0.5, 2, 6), jnp.float32)
    norm.scale[...] = jnp.asarray(rng.normal(size=6), jnp.float32)
    if bias:
        conv.bias[...] = jnp.asarray(rng.normal(size=6), jnp.float32)
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32)
    folded = conv_norm(conv, norm, x, train=False)
    np.testing.assert_allclose(folded, norm(conv(x), train=False), rtol=1e-5, atol=1e-5)


def test_batch_norm_keeps_the_unbiased_variance() -> None:
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 5)).astype(np.float32)
    norm = BatchNorm(5)
    y = norm(jnp.asarray(x), train=True)
    flat = x.reshape(-1, 5)
    np.testing.assert_allclose(y.mean((0, 1, 2)), np.zeros(5), atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
