"""Batch normalisation and its own gradient, against the same differentiated by rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdistill.ops import normalization as ops

EPS = 1e-5


def arrays(shape=(2, 5, 7, 3), dtype=jnp.float32, mean=0.0):
    keys = jax.random.split(jax.random.key(1), 4)
    x = mean + jax.random.normal(keys[0], shape) * jnp.arange(1.0, shape[-1] + 1)
    scale = jax.random.uniform(keys[1], shape[-1:], minval=-2, maxval=2)
    bias = jax.random.normal(keys[2], shape[-1:])
    return (x.astype(dtype), scale, bias), jax.random.normal(keys[3], shape).astype(dtype)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4), (3, 1, 2, 1)])
def test_value_and_gradient_are_those_of_the_plain_form(shape, mean, rectify) -> None:
    """The gradient's in float64: in float32, by rule, it is off by what the mean was rounded."""
    given, dy = arrays(shape, mean=mean)

    def both_ways(form, *given):
        about = jnp.full_like(given[1], mean)
        outputs, pull = jax.vjp(lambda *given: form(*given, about, EPS, rectify), *given)
        return outputs, pull((dy.astype(given[0].dtype), *map(jnp.zeros_like, outputs[1:])))

    found, gradients = both_ways(ops.batch_norm, *given)
    expected, _ = both_ways(ops.plain, *given)
    with jax.enable_x64(True):
        _, exact = both_ways(ops.plain, *(jnp.asarray(array, jnp.float64) for array in given))
    on_cpu = jax.default_backend() == "cpu"  # a GPU has a form of its own for the statistics
    for one, other in zip(found, expected, strict=True):
        digits = 0 if on_cpu else 1e-4
        np.testing.assert_allclose(one, other, rtol=digits, atol=digits * (1 + np.abs(other).max()))
    for one, other in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * (1 + np.abs(other).max()))


def test_the_gradient_is_the_numerical_one() -> None:
    with jax.enable_x64(True):
        given, _ = arrays((2, 3, 4, 2))
        given = jax.tree.map(lambda array: array.astype(jnp.float64), given)
        normalise = lambda *given: ops.batch_norm(*given, given[2], EPS, False)[0]  # noqa: E731
        check_grads(normalise, given, order=1, modes=["rev"], rtol=1e-4, atol=1e-4)


def test_statistics_and_sums_of_bfloat16_are_float32() -> None:
    given, dy = arrays((2, 32, 32, 3), jnp.bfloat16, mean=2.0)
    wide = jax.tree.map(lambda array: array.astype(jnp.float32), given)
    (y, mean, var), pull = jax.vjp(
        lambda *given: ops.batch_norm(*given, given[2], EPS, True), *given
    )
    (_, exact_mean, exact_var), exact_pull = jax.vjp(
        lambda *given: ops.batch_norm(*given, given[2], EPS, True), *wide
    )
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_array_equal(mean, exact_mean)
    np.testing.assert_array_equal(var, exact_var)
    zeros = jnp.zeros_like(mean), jnp.zeros_like(var)
    dx, *sums = pull((dy, *zeros))
    _, *exact = exact_pull((dy.astype(jnp.float32), *zeros))
    assert dx.dtype == jnp.bfloat16
    for one, other in zip(sums, exact, strict=True):
        # Where bfloat16 moves a value over zero, ReLU lets another gradient through.
        np.testing.assert_allclose(one, other, rtol=0.02, atol=1.0)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(("mean", "about"), [(0.0, 0.0), (300.0, 299.0)])
def test_one_pass_equals_two(mean, about, rectify, monkeypatch) -> None:
    """The form for GPUs; with the running mean far away it may lose digits, but not its sign."""
    given, dy = arrays(mean=mean)
    about = jnp.full_like(given[1], about)

    def both_ways(*given):
        outputs, pull = jax.vjp(lambda *given: ops.batch_norm(*given, about, EPS, rectify), *given)
        return outputs, pull((dy, *map(jnp.zeros_like, outputs[1:])))

    expected, expected_gradients = both_ways(*given)
    monkeypatch.setattr(ops, "_statistics", ops.one_pass)
    found, gradients = both_ways(*given)
    for one, other in zip((*found, *gradients), (*expected, *expected_gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4 * (1 + np.abs(other).max()))


def test_one_pass_far_from_the_mean() -> None:
    x = 300 + jnp.zeros((2, 8, 8, 3))
    mean, var, rest = ops.one_pass(x, jnp.zeros(3))
    np.testing.assert_array_equal(mean + rest, 300)
    assert (var >= 0).all()


def test_one_pass_keeps_what_rounding_took_from_the_mean() -> None:
    given, _ = arrays(mean=300.0)
    mean, _, rest = ops.one_pass(given[0], jnp.full(3, 299.0))
    exact = np.asarray(given[0], np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(np.float64(mean) + np.float64(rest), exact, rtol=0, atol=2e-6)
