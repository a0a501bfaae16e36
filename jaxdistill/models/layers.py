"""Convolution and batch normalisation with PyTorch's numbers, and the two folded into one."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops import normalization
from jaxdistill.ops.convolution import convolve
from jaxdistill.ops.depthwise import depthwise
from jaxdistill.ops.upsampling import upsampled_convolve

PaddingKind = Literal["symmetric", "same"]
Init = Literal["kaiming_normal", "he_uniform", "xavier_uniform"]


class Conv(nnx.Module):
    """A square convolution, NHWC. `symmetric` pads as PyTorch does, `same` as TensorFlow does.

    Args:
      groups: 1, or the number of channels (depthwise).
      init: of the kernel; `kaiming_normal` is over the fan-out per group, `he_uniform` over the
        fan-in.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        padding: PaddingKind = "symmetric",
        groups: int = 1,
        bias: bool = False,
        init: Init = "kaiming_normal",
        rngs: nnx.Rngs,
    ) -> None:
        self.size, self.stride, self.padding, self.groups = size, stride, padding, groups
        shape = (size, size, inputs // groups, outputs)
        self.kernel = nnx.Param(_draw(init, shape, groups, rngs))
        self.bias = nnx.Param(_constant(0, outputs)) if bias else None

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b oh ow o"]:
        y = self.convolve(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

    def convolve(self, x: Array, kernel: Array) -> Array:
        kernel = kernel.astype(x.dtype)
        padding = self._pad(x.shape[1]), self._pad(x.shape[2])
        if self.groups > 1:
            return depthwise(x, kernel, self.stride, padding)
        if self.stride == 1:
            return convolve(x, kernel, padding)
        return lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def _pad(self, length: int) -> tuple[int, int]:
        if self.padding == "symmetric":
            return (self.size // 2, self.size // 2)
        total = max((-(-length // self.stride) - 1) * self.stride + self.size - length, 0)
        return (total // 2, total - total // 2)


class UpsampledConv(Conv):
    """A 3x3 convolution over a pair: a map, upsampled by two, and a skip joined to it or None."""

    def convolve(self, x: tuple[Array, Array | None], kernel: Array) -> Array:  # type: ignore[override]
        below, skip = x
        return upsampled_convolve(below, skip, kernel.astype(below.dtype))


def _constant(value: float, length: int) -> Array:
    return jnp.asarray(np.full(length, value, np.float32))


def _draw(init: Init, shape: tuple[int, ...], groups: int, rngs: nnx.Rngs) -> Array:
    # By NumPy: JAX would compile a program for every shape, half a minute for an encoder.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rngs.params())))
    size, _, inputs, outputs = shape
    fan_in, fan_out = size * size * inputs, size * size * outputs
    match init:
        case "kaiming_normal":
            values = rng.normal(0, math.sqrt(2 * groups / fan_out), shape)
        case "he_uniform":
            values = rng.uniform(-1, 1, shape) * math.sqrt(6 / fan_in)
        case "xavier_uniform":
            values = rng.uniform(-1, 1, shape) * math.sqrt(6 / (fan_in + fan_out))
    return jnp.asarray(values, jnp.float32)


class BatchNorm(nnx.Module):
    """Batch normalisation over N, H, W with PyTorch's running statistics.

    The running variance is the unbiased one, which `nnx.BatchNorm` does not keep. A `frozen` one
    always uses its running statistics and never changes them.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum, self.frozen = eps, momentum, False
        self.scale = nnx.Param(_constant(1, channels))
        self.bias = nnx.Param(_constant(0, channels))
        self.mean = nnx.BatchStat(_constant(0, channels))
        self.var = nnx.BatchStat(_constant(1, channels))

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool, rectify: bool = False
    ) -> Float[Array, "b h w c"]:
        """Normalises; with ReLU behind it if `rectify`."""
        if not self.measures(train):
            mean, deviation = self.mean[...], lax.rsqrt(self.var[...] + self.eps)
            return normalization.apply(x, self.scale[...], self.bias[...], mean, deviation, rectify)
        y, mean, var = normalization.batch_norm(
            x, self.scale[...], self.bias[...], self.eps, rectify
        )
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        for running, new in ((self.mean, mean), (self.var, unbiased)):
            old = running[...]
            running[...] = old + self.momentum * (lax.stop_gradient(new) - old)
        return y

    def measures(self, train: bool) -> bool:
        """Whether it normalises by the batch's own statistics."""
        return train and not self.frozen

    def factor_and_shift(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """What the running statistics make of this layer: y = x * factor + shift."""
        factor = self.scale[...] * lax.rsqrt(self.var[...] + self.eps)
        return factor, self.bias[...] - self.mean[...] * factor


def conv_norm(conv: Conv, norm: BatchNorm, x: Any, *, train: bool, rectify: bool = False) -> Array:
    """Convolution, then normalisation; in one pass where the statistics are not being measured.

    Args:
      x: what `conv` convolves.
      rectify: ReLU behind it.
    """
    if norm.measures(train):
        return norm(conv(x), train=True, rectify=rectify)
    factor, shift = norm.factor_and_shift()
    y = conv.convolve(x, conv.kernel[...] * factor)
    y = y + shift.astype(y.dtype)
    return relu(y) if rectify else y


Activation = Callable[[Array], Array]
relu6: Activation = jax.nn.relu6
silu: Activation = jax.nn.silu
relu: Activation = jax.nn.relu
