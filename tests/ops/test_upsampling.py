"""The convolution over an upsampled map, by phases and transposed, against the plain one."""

import jax
import numpy as np
import pytest

from jaxdistill.ops import upsampling


@pytest.mark.parametrize("skip_channels", [0, 3])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (3, 5), (1, 1)])
def test_the_forms_equal_the_plain_one(height: int, width: int, skip_channels: int) -> None:
    keys = jax.random.split(jax.random.key(height), 4)
    x = jax.random.normal(keys[0], (2, height, width, 4))
    skip = jax.random.normal(keys[1], (2, 2 * height, 2 * width, skip_channels))
    skip = skip if skip_channels else None
    kernel = jax.random.normal(keys[2], (3, 3, 4 + skip_channels, 5))

    def both_ways(form, *arguments):
        y, pull = jax.vjp(form, *arguments)
        return jax.tree.leaves((y, pull(jax.random.normal(keys[3], y.shape))))

    forms = (
        upsampling.by_phases,
        upsampling.transposed,
        upsampling.by_copies,
        upsampling.upsampled_convolve,
    )
    expected, *found = (
        jax.jit(both_ways, static_argnums=0)(form, x, skip, kernel)
        for form in (upsampling.plain, *forms)
    )
    for values in found:
        for one, other in zip(values, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_copies_make_the_same_map_as_repeating() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    expected = np.repeat(np.repeat(x, 2, 1), 2, 2)
    for form in (upsampling.repeated, upsampling.copied, upsampling.nearest):
        np.testing.assert_array_equal(form(x), expected)
