"""Batch normalisation by the statistics of the batch, followed by a ReLU, and its gradient.

Both are limited by memory bandwidth: at 640x640 a pass over a map costs as much as a small
convolution. Automatic differentiation keeps three maps for the backward pass (the difference from
the mean, the product, the ReLU's mask). The gradient here is computed by the formula of Ioffe and
Szegedy (2015, arXiv:1502.03167), which needs the input only, and fewer passes.

Mean and variance take two passes, because a sum of squares minus the square of a sum loses digits
where the mean is far from 0. On a GPU one pass gives both, from sums of differences from the
running mean: close to the mean, little is lost.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops.forms import choose

Map = Float[Array, "b h w c"]
PerChannel = Float[Array, " c"]
_AXES = (0, 1, 2)
_Saved = tuple[Map, PerChannel, PerChannel, PerChannel, PerChannel, PerChannel, PerChannel]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def batch_norm(
    x: Map, scale: PerChannel, bias: PerChannel, about: PerChannel, eps: float, rectify: bool
) -> tuple[Map, PerChannel, PerChannel]:
    """Normalises over batch, height and width, scales and shifts.

    Args:
      x: The map.
      scale: Factor of each channel.
      bias: Added to each channel.
      about: A value of each channel that is close to its mean, such as the running mean. It changes
        the rounding only.
      eps: Added to the variance.
      rectify: Whether a ReLU follows.

    Returns:
      The map, and the mean and (biased) variance of the batch in float32, without gradient.
    """
    mean, var, _ = _statistics(x, about)
    return apply(x, scale, bias, mean, lax.rsqrt(var + eps), rectify), mean, var


def plain(
    x: Map, scale: PerChannel, bias: PerChannel, about: PerChannel, eps: float, rectify: bool
) -> tuple[Map, PerChannel, PerChannel]:
    """Computes the same with automatic differentiation, the reference; see `batch_norm`."""
    del about
    mean, var = measure(x)
    y = apply(x, scale, bias, mean, lax.rsqrt(var + eps), rectify)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def measure(x: Map) -> tuple[PerChannel, PerChannel]:
    """Computes mean and biased variance of each channel, at least in float32.

    Args:
      x: The map.

    Returns:
      Mean and variance.
    """
    wide = _widened(x)
    mean = wide.mean(_AXES)
    return mean, jnp.square(wide - mean).mean(_AXES)


def two_passes(x: Map, about: PerChannel) -> tuple[PerChannel, PerChannel, PerChannel]:
    """Computes mean, variance, and by how much the mean was rounded, the reference.

    Args:
      x: The map.
      about: Not used.

    Returns:
      Mean, variance, and the mean's difference from the rounded one.
    """
    del about
    mean, var = measure(x)
    return mean, var, (_widened(x) - mean).mean(_AXES)


def one_pass(x: Map, about: PerChannel) -> tuple[PerChannel, PerChannel, PerChannel]:
    """Computes the same from one reading of the map; see `two_passes`.

    The variance loses as many digits as the square of (mean - about) / deviation has.
    """
    difference = _widened(x) - about
    first, second = difference.mean(_AXES), jnp.square(difference).mean(_AXES)
    mean = about + first
    return mean, jnp.maximum(second - jnp.square(first), 0), first - (mean - about)


def _statistics(x: Map, about: PerChannel) -> tuple[PerChannel, PerChannel, PerChannel]:
    return choose("statistics", x, about, plain=two_passes, gpu=one_pass)


def _widened(x: Map) -> Map:
    """Converts a map to float32 or wider, which sums over a map need."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def apply(
    x: Map,
    scale: PerChannel,
    bias: PerChannel,
    mean: PerChannel,
    deviation: PerChannel,
    rectify: bool,
) -> Map:
    """Normalises by given statistics, with one multiplication and one addition per value.

    Args:
      x: The map.
      scale: Factor of each channel.
      bias: Added to each channel.
      mean: Mean of each channel.
      deviation: Inverse of the standard deviation of each channel.
      rectify: Whether a ReLU follows.

    Returns:
      The normalised map.
    """
    factor = scale * deviation
    y = x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)
    return jax.nn.relu(y) if rectify else y


def _forward(
    x: Map, scale: PerChannel, bias: PerChannel, about: PerChannel, eps: float, rectify: bool
) -> tuple[tuple[Map, PerChannel, PerChannel], _Saved]:
    # The mean is rounded. Its error is subtracted too, so that the gradient sums to zero.
    mean, var, rest = _statistics(x, about)
    deviation = lax.rsqrt(var + eps)
    y = apply(x, scale, bias, mean, deviation, rectify)
    return (y, mean, var), (x, scale, bias, about, mean, rest, deviation)


def _backward(
    eps: float, rectify: bool, saved: _Saved, gradients: tuple[Map, PerChannel, PerChannel]
) -> tuple[Map, PerChannel, PerChannel, PerChannel]:
    x, scale, bias, about, mean, rest, deviation = saved
    dy = gradients[0]
    if rectify:
        dy = jnp.where(apply(x, scale, bias, mean, deviation, rectify=False) > 0, dy, 0)
    wide = _widened(dy)
    normalised = (_widened(x) - mean - rest) * deviation
    dbias = wide.sum(_AXES)
    dscale = (wide * normalised).sum(_AXES)
    count = x.size // x.shape[-1]
    dx = scale * deviation * (wide - dbias / count - normalised * (dscale / count))
    return dx.astype(x.dtype), dscale, dbias, jnp.zeros_like(about)


batch_norm.defvjp(_forward, _backward)
