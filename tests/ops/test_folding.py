"""The convolution of folded columns against XLA's convolution of the map as it is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdistill.ops import convolution, folding

SAME = ((1, 1), (1, 1))


def plain(x, kernel, *, stride, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=dimensions
    )


def both_ways(form, x, kernel):
    y, pull = jax.vjp(form, x, kernel)
    return (y, *pull(jax.random.normal(jax.random.key(1), y.shape)))


@pytest.mark.parametrize(
    ("size", "stride", "left", "columns"),
    [
        (3, 1, 1, 2),
        (3, 1, 1, 8),
        (2, 1, 0, 4),
        (4, 1, 3, 2),
        (4, 2, 1, 2),
        (4, 2, 1, 4),
        (3, 2, 0, 2),
    ],
)
def test_values_and_gradients_are_those_of_the_plain_form(size, stride, left, columns) -> None:
    width = 16
    right = (width // stride - 1) * stride + size - width - left  # the map keeps its columns
    keys = jax.random.split(jax.random.key(size), 2)
    x = jax.random.normal(keys[0], (2, 5, width, 3))
    kernel = jax.random.normal(keys[1], (3, size, 3, 4))
    given = {"stride": stride, "padding": ((1, 1), (left, right))}
    fold = folding.fold_of(columns, size, stride, left)
    found = both_ways(partial(folding.folded_by, fold=fold, **given), x, kernel)
    expected = both_ways(partial(plain, **given), x, kernel)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "size", "stride", "width", "columns"),
    [
        ((16, 16), 3, 1, 640, 4),
        ((32, 32), 3, 1, 320, None),
        ((16, 1), 3, 1, 640, 8),
        ((1, 16), 3, 1, 640, 8),
        ((16, 32), 4, 2, 640, 2),
        ((16, 16), 3, 1, 6, 2),  # as far as the width allows
        ((64, 64), 3, 1, 160, None),
        ((32, 64), 4, 2, 320, None),
        ((16, 16), 1, 1, 640, None),  # nothing is read twice
        ((16, 16), 3, 1, 7, None),
        ((16, 16), 3, 2, 7, None),
    ],
)
def test_as_many_columns_as_fill_the_channels(channels, size, stride, width, columns) -> None:
    padding = ((1, 1), (1, 1)) if size > 1 else ((0, 0), (0, 0))
    shape = (2, width, width, channels[0])
    fold = folding.find_fold(shape, (size, size, *channels), stride, padding)
    assert (fold and fold.columns) == columns


def test_the_weight_gradient_is_folded_with_more_channels() -> None:
    shape, kernel = (2, 320, 320, 32), (3, 3, 32, 32)
    fold = folding.find_fold(shape, kernel, 1, SAME, folding.MAX_CHANNELS_OF_WEIGHTS)
    assert fold.columns == 2


def test_a_map_that_shrinks_is_not_folded() -> None:
    assert folding.find_fold((1, 64, 64, 16), (3, 3, 16, 16), 1, ((0, 0), (0, 0))) is None


def test_the_kernel_s_weights_are_kept_as_they_are() -> None:
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 16, 16))
    fold = folding.find_fold((1, 8, 64, 16), kernel.shape, 1, SAME)
    wide = np.asarray(folding.widened(kernel, fold, 1, 1))
    assert set(np.unique(wide)) == {*np.unique(kernel), 0}
    assert np.count_nonzero(wide) == fold.columns * kernel.size


def test_the_weight_gradient_on_a_gpu_is_the_plain_one() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 16))
    dy = jax.random.normal(jax.random.key(1), (2, 6, 8, 16))
    fold = folding.find_fold(x.shape, (3, 3, 16, 16), 1, SAME)
    found = convolution.folded_gradient(x, dy, fold, SAME)
    expected = convolution.plain_gradient(x, dy, SAME)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_bfloat16() -> None:
    x, kernel = (jnp.ones(shape, jnp.bfloat16) for shape in ((1, 4, 16, 16), (3, 3, 16, 16)))
    fold = folding.find_fold(x.shape, kernel.shape, 1, SAME)
    assert folding.folded_by(x, kernel, fold=fold, padding=SAME).dtype == x.dtype
