"""Batch normalisation."""

from typing import Any

import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.models.functional import relu
from jaxdistill.models.layers.base import Layer, constant
from jaxdistill.models.layers.convolution import Conv
from jaxdistill.models.symbolic import GraphBuilder, SymbolicTensor, node_name
from jaxdistill.ops import normalization, pointwise_norm

_MOMENTUM = 0.1
"""Share of a batch's statistics in the new running statistics."""


class BatchNorm(Layer):
    """Batch normalisation over N, H, W with PyTorch's running statistics.

    The running variance is the unbiased one, which `nnx.BatchNorm` does not keep. If `frozen` is
    True, the layer always uses its running statistics and never changes them.

    Args:
      channels: Channels of the map.
      eps: Added to the variance.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        self.eps, self.frozen = eps, False
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
        parameters = pointwise_norm.Parameters(
            conv.kernel[...],
            None if conv.bias is None else conv.bias[...],
            self.scale[...],
            self.bias[...],
            self.mean[...],
        )
        y, mean, var = pointwise_norm.pointwise_batch_norm(x, parameters, self.eps, rectify)
        self._update(mean, var, x.size // x.shape[-1])
        return y

    def _update(self, mean: Float[Array, " c"], var: Float[Array, " c"], count: int) -> None:
        """Moves the running statistics towards those of a batch of `count` positions."""
        unbiased = var * (count / max(count - 1, 1))
        for running, new in ((self.mean, mean), (self.var, unbiased)):
            old = running[...]
            running[...] = old + _MOMENTUM * (lax.stop_gradient(new) - old)

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
