"""Batch normalisation by the batch's own statistics, with ReLU behind it, and its gradient.

Both are bound by memory: at 640x640 every pass over a map costs as much as a small convolution.
Differentiated by rule they keep three maps for the way back (the difference from the mean, the
product, the mask); by the formula one is enough, the input, and fewer passes are made.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Map = Float[Array, "b h w c"]
PerChannel = Float[Array, " c"]
_AXES = (0, 1, 2)
_Saved = tuple[Map, PerChannel, PerChannel, PerChannel, PerChannel, PerChannel]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: Map, scale: PerChannel, bias: PerChannel, eps: float, rectify: bool
) -> tuple[Map, PerChannel, PerChannel]:
    """Normalised over batch, height and width, scaled and shifted; then ReLU if `rectify`.

    Returns:
      The map, and the batch's mean and (biased) variance in float32, which carry no gradient.
    """
    mean, var = measure(x)
    return apply(x, scale, bias, mean, lax.rsqrt(var + eps), rectify), mean, var


def plain(
    x: Map, scale: PerChannel, bias: PerChannel, eps: float, rectify: bool
) -> tuple[Map, PerChannel, PerChannel]:
    """The reference: the same, differentiated by rule."""
    mean, var = measure(x)
    y = apply(x, scale, bias, mean, lax.rsqrt(var + eps), rectify)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def measure(x: Map) -> tuple[PerChannel, PerChannel]:
    """Mean and biased variance per channel, in float32 at least."""
    wide = _widened(x)
    mean = wide.mean(_AXES)
    return mean, jnp.square(wide - mean).mean(_AXES)


def _widened(x: Map) -> Map:
    """At least float32: sums over a map need it."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def apply(
    x: Map,
    scale: PerChannel,
    bias: PerChannel,
    mean: PerChannel,
    deviation: PerChannel,
    rectify: bool,
) -> Map:
    """One multiplication and one addition per value; `deviation` is the standard one's inverse."""
    factor = scale * deviation
    y = x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)
    return jax.nn.relu(y) if rectify else y


def _forward(
    x: Map, scale: PerChannel, bias: PerChannel, eps: float, rectify: bool
) -> tuple[tuple[Map, PerChannel, PerChannel], _Saved]:
    y, mean, var = batch_norm(x, scale, bias, eps, rectify)
    # The mean is rounded: without what it lacks, the gradient would not quite sum to zero.
    rest = (_widened(x) - mean).mean(_AXES)
    return (y, mean, var), (x, scale, bias, mean, rest, lax.rsqrt(var + eps))


def _backward(
    eps: float, rectify: bool, saved: _Saved, gradients: tuple[Map, PerChannel, PerChannel]
) -> tuple[Map, PerChannel, PerChannel]:
    x, scale, bias, mean, rest, deviation = saved
    dy = gradients[0]
    if rectify:
        dy = jnp.where(apply(x, scale, bias, mean, deviation, rectify=False) > 0, dy, 0)
    wide = _widened(dy)
    normalised = (_widened(x) - mean - rest) * deviation
    dbias = wide.sum(_AXES)
    dscale = (wide * normalised).sum(_AXES)
    count = x.size // x.shape[-1]
    dx = scale * deviation * (wide - dbias / count - normalised * (dscale / count))
    return dx.astype(x.dtype), dscale, dbias


batch_norm.defvjp(_forward, _backward)
