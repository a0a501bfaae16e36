"""1x1 convolution followed by batch normalisation with the statistics of the batch.

The statistics of a 1x1 convolution's output follow from those of its input: with the kernel W, the
input's mean m and covariance C, the mean is `m W` and the variance of output o is `W_o^T C W_o`. On
a GPU, where the output has several times the channels of the input, this saves passes over the
large map: mean, variance and factor are known before the convolution and multiplied into its
kernel, so that the normalised map is its result. The gradient needs no pass of its own either: it
is that of a convolution with a bias, followed by products of small matrices.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops import convolution, normalization
from jaxdistill.ops.forms import choose
from jaxdistill.ops.padding import Padding

Map = Float[Array, "b h w i"]
Output = Float[Array, "b h w o"]
Kernel = Float[Array, "1 1 i o"]
PerChannel = Float[Array, " o"]
_NONE: Padding = ((0, 0), (0, 0))
_LEAST_EXPANSION = 4  # outputs per input; below, the input is not much smaller than the output


class Parameters(NamedTuple):
    """What a 1x1 convolution and the normalisation behind it multiply and add, in float32."""

    kernel: Kernel
    offset: PerChannel | None
    """Bias of the convolution, which the normalisation takes away again; None: it has none."""
    scale: PerChannel
    """Factor of each normalised channel."""
    bias: PerChannel
    """Added to each normalised channel."""
    about: PerChannel
    """A value close to each channel's mean; see `normalization.batch_norm`."""


def is_worthwhile(kernel: Sequence[int], stride: int) -> bool:
    """Returns whether a convolution is one that `pointwise_batch_norm` is for.

    Args:
      kernel: Rows, columns, inputs and outputs of the kernel.
      stride: Step between output positions.
    """
    rows, columns, inputs, outputs = kernel
    return (rows, columns, stride) == (1, 1, 1) and outputs >= _LEAST_EXPANSION * inputs


def pointwise_batch_norm(
    x: Map, parameters: Parameters, eps: float, rectify: bool
) -> tuple[Output, PerChannel, PerChannel]:
    """Convolves by a 1x1 kernel and normalises the result, by the form that is fast.

    Args:
      x: The map.
      parameters: What both layers multiply and add.
      eps: Added to the variance.
      rectify: Whether a ReLU follows.

    Returns:
      The map, and the mean and (biased) variance of the batch in float32, without gradient.
    """
    return choose(
        "pointwise_norm",
        x,
        parameters,
        plain=partial(plain, eps=eps, rectify=rectify),
        gpu=partial(by_moments, eps=eps, rectify=rectify),
    )


def plain(
    x: Map, parameters: Parameters, eps: float, rectify: bool
) -> tuple[Output, PerChannel, PerChannel]:
    """Computes the result in two steps, the reference; see `pointwise_batch_norm`."""
    kernel, offset, scale, bias, about = parameters
    y = convolution.convolve(x, kernel.astype(x.dtype), _NONE)
    y = y if offset is None else y + offset.astype(x.dtype)
    return normalization.batch_norm(y, scale, bias, about, eps, rectify)


def by_moments(
    x: Map, parameters: Parameters, eps: float, rectify: bool
) -> tuple[Output, PerChannel, PerChannel]:
    """Computes the result from mean and covariance of the input; see `pointwise_batch_norm`."""
    kernel, offset, scale, bias, _ = parameters
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.promote_types(x.dtype, jnp.float32))
    weights = kernel[0, 0]
    input_mean = rows.mean(0)
    centred = rows - input_mean
    covariance = product(centred.T, centred) / len(rows)
    var = jnp.maximum((product(covariance, weights) * weights).sum(0), 0)
    factor = scale * lax.rsqrt(var + eps)
    projected = product(input_mean, weights)
    folded = (kernel * factor).astype(x.dtype)
    y = convolution.plain(x, folded, _NONE) + (bias - projected * factor).astype(x.dtype)
    y = _relu(y) if rectify else y
    mean = projected if offset is None else projected + offset
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


@jax.custom_vjp
def _relu(x: Array) -> Array:
    """Returns max(x, 0). Its gradient needs the result alone, so that the input is not kept."""
    return jax.nn.relu(x)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    y = jax.nn.relu(x)
    return y, y


def _relu_backward(y: Array, dy: Array) -> tuple[Array]:
    # Not `y > 0`: XLA would compare the input instead, and could not join ReLU and convolution.
    return (jnp.where(y != 0, dy, 0),)


_relu.defvjp(_relu_forward, _relu_backward)
