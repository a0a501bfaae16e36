"""Normalisation by the moments of the input against normalisation of the output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.ops import pointwise_norm as ops

EPS = 1e-5


def arrays(mean: float, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(5), 6)
    x = mean + jax.random.normal(keys[0], (3, 8, 9, 4)) * jnp.array([1.0, 2.0, 0.5, 0.1])
    kernel = jax.random.normal(keys[1], (1, 1, 4, 16))
    offset, bias = (jax.random.normal(key, (16,)) for key in keys[2:4])
    scale = jax.random.uniform(keys[4], (16,), minval=-2, maxval=2)
    dy = jax.random.normal(keys[5], (3, 8, 9, 16))
    return (x.astype(dtype), kernel, offset, scale, bias), dy.astype(dtype)


def both_ways(form, given, dy, rectify):
    def result(x, *weights):
        parameters = ops.Parameters(*weights, about=jnp.zeros(16))
        return form(x, parameters, eps=EPS, rectify=rectify)

    outputs, pull = jax.vjp(result, *given)
    return (*outputs, *pull((dy, *map(jnp.zeros_like, outputs[1:]))))


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_moments_of_the_input_give_those_of_the_output(mean: float, rectify: bool) -> None:
    """Against the plain form in float64; the gradient of the offset is 0 up to rounding."""
    given, dy = arrays(mean)
    with jax.enable_x64(True):
        wide = [jnp.asarray(array, jnp.float64) for array in (*given, dy)]
        exact = both_ways(ops.plain, wide[:-1], wide[-1], rectify)
    for form in (ops.by_moments, ops.plain):
        for one, other in zip(both_ways(form, given, dy, rectify), exact, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4 * (1 + np.abs(other).max()))


def test_the_form_is_chosen_by_platform() -> None:
    given, dy = arrays(0.0)
    chosen = both_ways(ops.pointwise_batch_norm, given, dy, True)
    for one, other in zip(chosen, both_ways(ops.plain, given, dy, True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_statistics_of_bfloat16_are_float32() -> None:
    given, dy = arrays(1.0, jnp.bfloat16)
    found = both_ways(ops.by_moments, given, dy, True)
    wide = [array.astype(jnp.float32) for array in (*given, dy)]
    exact = both_ways(ops.plain, wide[:-1], wide[-1], True)
    assert [array.dtype for array in found[:3]] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(found[1], exact[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[2], exact[2], rtol=1e-4)
    np.testing.assert_allclose(found[0].astype(jnp.float32), exact[0], rtol=0.05, atol=0.05)


def test_a_channel_that_never_changes_has_variance_zero() -> None:
    given, dy = arrays(0.0)
    x = jnp.full_like(given[0], 7.0)
    found = both_ways(ops.by_moments, (x, *given[1:]), dy, True)
    assert all(bool(jnp.isfinite(array).all()) for array in found)
    np.testing.assert_allclose(found[2], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "stride", "expected"),
    [((1, 1, 40, 768), 1, True), ((1, 1, 40, 80), 1, False), ((3, 3, 4, 64), 1, False)],
)
def test_what_it_is_for(kernel: tuple[int, ...], stride: int, expected: bool) -> None:
    assert ops.is_worthwhile(kernel, stride) == expected
