"""Convolutions."""

import math
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.models.functional import concatenate, upsample_nearest
from jaxdistill.models.layers.base import Layer, constant
from jaxdistill.models.seeds import draw_generator
from jaxdistill.models.symbolic import GraphBuilder, SymbolicTensor, node_name
from jaxdistill.ops.convolution import convolve
from jaxdistill.ops.depthwise import depthwise
from jaxdistill.ops.padding import PaddingKind, resolve_padding
from jaxdistill.ops.scaled_convolution import scaled_convolve
from jaxdistill.ops.upsampling import upsampled_convolve

if TYPE_CHECKING:
    from jaxdistill.models.layers.batch_norm import BatchNorm

Init = Literal["kaiming_normal", "he_uniform", "xavier_uniform"]


class Conv(Layer):
    """A square convolution over NHWC maps.

    Args:
      inputs: Channels of the input.
      outputs: Channels of the output.
      size: Height and width of the kernel.
      stride: Step between output positions.
      padding: `symmetric` pads as PyTorch does, `same` as TensorFlow does.
      groups: 1, or the number of channels (a depthwise convolution).
      bias: Whether a bias is added.
      init: Distribution of the kernel: `kaiming_normal` over the fan-out per group, `he_uniform`
        over the fan-in, `xavier_uniform` over both.
      rngs: Source of the initial values.
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
        self.kernel = nnx.Param(draw_kernel(init, shape, groups, rngs))
        self.bias = nnx.Param(constant(0, outputs)) if bias else None

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b oh ow o"]:
        """Convolves and adds the bias."""
        return self._with_bias(self.convolve(self.kernel[...], x))

    def convolve(self, kernel: Float[Array, "kh kw i o"], x: Float[Array, "b h w i"]) -> Array:
        """Convolves with another kernel of the same shape, without the bias."""
        kernel = kernel.astype(x.dtype)
        padding = (
            resolve_padding(self.padding, self.size, self.stride, x.shape[1]),
            resolve_padding(self.padding, self.size, self.stride, x.shape[2]),
        )
        if self.groups > 1:
            return depthwise(x, kernel, self.stride, padding)
        if self.stride == 1:
            return convolve(x, kernel, padding)
        return lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def to_onnx(
        self, graph: GraphBuilder, *inputs: Any, norm: "BatchNorm | None" = None
    ) -> SymbolicTensor:
        """Adds a Conv node, with a BatchNorm behind it folded into its weights.

        Args:
          graph: The graph.
          *inputs: The feature map.
          norm: The BatchNorm, which uses its running statistics.

        Returns:
          The output.
        """
        [x] = inputs
        path = graph.path(self)
        kernel, bias = _fold(self, norm)
        names = [x.name, graph.weight(f"{path}.weight", kernel)]
        if bias is not None:
            names.append(graph.weight(f"{path}.bias", bias))
        # TensorFlow's padding depends on the size, but is the same for all multiples of the stride.
        before, after = resolve_padding(self.padding, self.size, self.stride, self.stride)
        output = graph.node(
            "Conv",
            node_name(path),
            names,
            kernel_shape=[self.size] * 2,
            strides=[self.stride] * 2,
            pads=[before, before, after, after],
            group=self.groups,
        )
        return SymbolicTensor(graph, output, output)

    def _with_bias(self, y: Array) -> Array:
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


class ScaledConv(Conv):
    """A 1x1 convolution over a map whose channels are multiplied by factors of each image.

    Without factors it is a `Conv`.
    """

    def __call__(
        self, x: Float[Array, "b h w i"], factor: Float[Array, "b 1 1 i"] | None = None
    ) -> Float[Array, "b h w o"]:
        """Scales, convolves and adds the bias."""
        return self._with_bias(self.convolve(self.kernel[...], x, factor))

    def convolve(self, kernel: Array, x: Array, factor: Array | None = None) -> Array:
        """Scales, and convolves with another kernel of the same shape."""
        if factor is None:
            return super().convolve(kernel, x)
        return scaled_convolve(x, factor, kernel.astype(x.dtype))

    def to_onnx(
        self, graph: GraphBuilder, *inputs: Any, norm: "BatchNorm | None" = None
    ) -> SymbolicTensor:
        """Adds Mul and Conv nodes; see `Conv.to_onnx`."""
        x, factor = inputs
        return super().to_onnx(graph, x if factor is None else x * factor, norm=norm)


class UpsampledConv(Conv):
    """A 3x3 convolution over a map that is upsampled by two and joined with a skip connection."""

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b 2*h 2*w s"] | None
    ) -> Float[Array, "b 2*h 2*w o"]:
        """Upsamples, joins, convolves and adds the bias."""
        return self._with_bias(self.convolve(self.kernel[...], x, skip))

    def convolve(  # type: ignore[override]
        self, kernel: Array, x: Array, skip: Array | None
    ) -> Array:
        """Upsamples, joins, and convolves with another kernel of the same shape."""
        return upsampled_convolve(x, skip, kernel.astype(x.dtype))

    def to_onnx(
        self, graph: GraphBuilder, *inputs: Any, norm: "BatchNorm | None" = None
    ) -> SymbolicTensor:
        """Adds Resize, Concat and Conv nodes; see `Conv.to_onnx`."""
        x, skip = inputs
        name = node_name(graph.path(self))
        x = upsample_nearest(x, name)
        if skip is not None:
            x = concatenate([x, SymbolicTensor(graph, skip.name, name)])
        return super().to_onnx(graph, x, norm=norm)


def draw_kernel(init: Init, shape: tuple[int, ...], groups: int, rngs: nnx.Rngs) -> Array:
    """Returns initial values of a kernel (size, size, inputs per group, outputs); see `Conv`."""
    # NumPy draws the values: JAX would compile a program for every shape.
    generator = draw_generator(rngs)
    size, _, inputs, outputs = shape
    fan_in, fan_out = size * size * inputs, size * size * outputs
    match init:
        case "kaiming_normal":
            values = generator.normal(0, math.sqrt(2 * groups / fan_out), shape)
        case "he_uniform":
            values = generator.uniform(-1, 1, shape) * math.sqrt(6 / fan_in)
        case "xavier_uniform":
            values = generator.uniform(-1, 1, shape) * math.sqrt(6 / (fan_in + fan_out))
    return jax.device_put(values.astype(np.float32))


def _fold(conv: Conv, norm: "BatchNorm | None") -> tuple[np.ndarray, np.ndarray | None]:
    """Returns kernel (O, I, h, w) and bias of a convolution and its BatchNorm, in float64."""
    kernel = np.asarray(conv.kernel[...], np.float64).transpose(3, 2, 0, 1)
    bias = None if conv.bias is None else np.asarray(conv.bias[...], np.float64)
    if norm is None:
        return kernel, bias
    scale, shift, mean, var = (
        np.asarray(variable[...], np.float64)
        for variable in (norm.scale, norm.bias, norm.mean, norm.var)
    )
    factor = scale / np.sqrt(var + norm.eps)
    offset = -mean if bias is None else bias - mean
    return kernel * factor[:, None, None, None], shift + offset * factor
