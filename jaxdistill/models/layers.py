"""Layers with two forms: one that computes arrays, and one that writes nodes of an ONNX graph.

Convolution and batch normalisation compute the same numbers as PyTorch's, and are folded into one
operation where the statistics of a batch are not measured.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.models.functional import concatenate, relu, upsample_nearest
from jaxdistill.models.seeds import draw_generator
from jaxdistill.models.symbolic import GraphBuilder, SymbolicTensor, find_graph, join, node_name
from jaxdistill.ops import normalization, pointwise_norm
from jaxdistill.ops.convolution import convolve
from jaxdistill.ops.depthwise import depthwise
from jaxdistill.ops.padding import PaddingKind, resolve_padding
from jaxdistill.ops.scaled_convolution import scaled_convolve
from jaxdistill.ops.upsampling import upsampled_convolve

Init = Literal["kaiming_normal", "he_uniform", "xavier_uniform"]


class Layer(nnx.Module):
    """Base class of layers that an exporter cannot look into.

    A subclass defines `__call__` for arrays and `to_onnx(graph, *inputs)` for symbolic tensors. A
    call with a symbolic tensor goes to `to_onnx`, with the keyword arguments of the call except
    for `train`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Redirects calls with symbolic tensors to `to_onnx`."""
        super().__init_subclass__(**options)
        call: Any = cls.__call__
        if not hasattr(call, "_takes_symbolic"):
            cls.__call__ = _redirected(call)  # type: ignore[method-assign]

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Computes arrays from arrays."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")

    def to_onnx(self, graph: GraphBuilder, *inputs: Any, **options: Any) -> Any:
        """Adds the layer's nodes to a graph.

        Args:
          graph: The graph; `node_name(graph.path(self))` is the name for the layer's node.
          *inputs: The arguments of the call.
          **options: The keyword arguments of the call, except for `train`.

        Returns:
          What the call returns for arrays, as symbolic tensors.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no to_onnx")


def _redirected(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapped(self: Layer, *inputs: Any, **options: Any) -> Any:
        graph = find_graph(inputs)
        if graph is None:
            return call(self, *inputs, **options)
        options.pop("train", None)
        return self.to_onnx(graph, *inputs, **options)

    wrapped._takes_symbolic = True  # type: ignore[attr-defined]
    return wrapped


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
        self.kernel = nnx.Param(_draw(init, shape, groups, rngs))
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


class BatchNorm(Layer):
    """Batch normalisation over N, H, W with PyTorch's running statistics.

    The running variance is the unbiased one, which `nnx.BatchNorm` does not keep. If `frozen` is
    True, the layer always uses its running statistics and never changes them.

    Args:
      channels: Channels of the map.
      eps: Added to the variance.
      momentum: Share of a batch's statistics in the new running statistics.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum, self.frozen = eps, momentum, False
        self.scale = nnx.Param(constant(1, channels))
        self.bias = nnx.Param(constant(0, channels))
        self.mean = nnx.BatchStat(constant(0, channels))
        self.var = nnx.BatchStat(constant(1, channels))

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool, rectify: bool = False
    ) -> Float[Array, "b h w c"]:
        """Normalises a map.

        Args:
          x: The map.
          train: Whether to use and update the statistics of the batch.
          rectify: Whether a ReLU follows.

        Returns:
          The normalised map.
        """
        if not self.uses_batch(train):
            mean, deviation = self.mean[...], lax.rsqrt(self.var[...] + self.eps)
            return normalization.apply(x, self.scale[...], self.bias[...], mean, deviation, rectify)
        y, mean, var = normalization.batch_norm(
            x, self.scale[...], self.bias[...], self.mean[...], self.eps, rectify
        )
        self._update(mean, var, x.size // x.shape[-1])
        return y

    def convolved(
        self, conv: Conv, x: Float[Array, "b h w i"], *, rectify: bool = False
    ) -> Float[Array, "b h w o"]:
        """Convolves a map by a 1x1 kernel and normalises it by the statistics of the batch.

        Args:
          conv: The convolution, one that `pointwise_norm.is_worthwhile` approves of.
          x: The map.
          rectify: Whether a ReLU follows.

        Returns:
          The normalised map; as `self(conv(x), train=True, rectify=rectify)` up to rounding.
        """
        y, mean, var = pointwise_norm.pointwise_batch_norm(
            x,
            conv.kernel[...],
            None if conv.bias is None else conv.bias[...],
            self.scale[...],
            self.bias[...],
            self.mean[...],
            self.eps,
            rectify,
        )
        self._update(mean, var, x.size // x.shape[-1])
        return y

    def _update(self, mean: Float[Array, " c"], var: Float[Array, " c"], count: int) -> None:
        """Moves the running statistics towards those of a batch of `count` positions."""
        unbiased = var * (count / max(count - 1, 1))
        for running, new in ((self.mean, mean), (self.var, unbiased)):
            old = running[...]
            running[...] = old + self.momentum * (lax.stop_gradient(new) - old)

    def to_onnx(self, graph: GraphBuilder, *inputs: Any, rectify: bool = False) -> SymbolicTensor:
        """Adds a BatchNormalization node; see `conv_norm` for one behind a convolution."""
        [x] = inputs
        path = graph.path(self)
        variables = {"weight": self.scale, "bias": self.bias, "mean": self.mean, "var": self.var}
        names = [
            graph.weight(f"{path}.{name}", np.asarray(v[...])) for name, v in variables.items()
        ]
        output = graph.node(
            "BatchNormalization", node_name(path), [x.name, *names], epsilon=self.eps
        )
        y = SymbolicTensor(graph, output, output)
        return relu(y) if rectify else y

    def uses_batch(self, train: bool) -> bool:
        """Returns whether the layer normalises by the statistics of the batch."""
        return train and not self.frozen

    def factor_and_shift(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Returns `factor` and `shift` of the layer with its running statistics: x*factor+shift."""
        factor = self.scale[...] * lax.rsqrt(self.var[...] + self.eps)
        return factor, self.bias[...] - self.mean[...] * factor


def conv_norm(conv: Conv, norm: BatchNorm, *inputs: Any, train: bool, rectify: bool = False) -> Any:
    """Applies a convolution and the BatchNorm behind it, in one operation where possible.

    They are folded into one convolution where the statistics of the batch are not needed.

    Args:
      conv: The convolution.
      norm: The BatchNorm.
      *inputs: The arguments of the convolution.
      train: Whether BatchNorm uses the statistics of the batch.
      rectify: Whether a ReLU follows.

    Returns:
      The normalised map.
    """
    graph = find_graph(inputs)
    if graph is not None:
        output = conv.to_onnx(graph, *inputs, norm=norm)
        # The ReLU is named after the module that holds both layers.
        return join("Relu", "relu", [output]) if rectify else output
    if norm.uses_batch(train):
        return batch_conv_norm(conv, norm, *inputs, rectify=rectify)
    factor, shift = norm.factor_and_shift()
    if conv.bias is not None:
        shift = shift + conv.bias[...] * factor
    y = conv.convolve(conv.kernel[...] * factor, *inputs)
    y = y + shift.astype(y.dtype)
    return relu(y) if rectify else y


def batch_conv_norm(conv: Conv, norm: BatchNorm, *inputs: Any, rectify: bool = False) -> Any:
    """Applies a convolution and a BatchNorm that uses the statistics of the batch.

    Args:
      conv: The convolution.
      norm: The BatchNorm.
      *inputs: The arguments of the convolution.
      rectify: Whether a ReLU follows.

    Returns:
      The normalised map.
    """
    if len(inputs) == 1 and pointwise_norm.is_worthwhile(conv.kernel.shape, conv.stride):
        return norm.convolved(conv, *inputs, rectify=rectify)
    return norm(conv(*inputs), train=True, rectify=rectify)


def constant(value: float, *shape: int) -> Array:
    """Returns a float32 array with one value in all its elements, without compiling a program."""
    return jax.device_put(np.full(shape, value, np.float32))


def _draw(init: Init, shape: tuple[int, ...], groups: int, rngs: nnx.Rngs) -> Array:
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


def _fold(conv: Conv, norm: BatchNorm | None) -> tuple[np.ndarray, np.ndarray | None]:
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
