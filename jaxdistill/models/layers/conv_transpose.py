"""Transposed convolution whose kernel is as large as its stride."""

from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.layers.base import Layer, constant
from jaxdistill.models.layers.convolution import draw_kernel
from jaxdistill.models.symbolic import GraphBuilder, SymbolicTensor, node_name


class ConvTranspose(Layer):
    """A transposed convolution with bias: every position becomes a square of outputs.

    The squares do not overlap, because the kernel is as large as the stride; so the layer is one
    matrix product for each position.

    Args:
      inputs: Channels of the input.
      outputs: Channels of the output.
      stride: Factor of height and width, and the size of the kernel.
      rngs: Source of the initial values.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.stride = stride
        # The fan-in of an output is `inputs`, because one position of the kernel makes it.
        values = draw_kernel("xavier_uniform", (1, 1, inputs, stride * stride * outputs), 1, rngs)
        shape = (inputs, stride, stride, outputs)
        self.kernel = nnx.Param(values.reshape(shape).transpose(1, 2, 0, 3))
        self.bias = nnx.Param(constant(0, outputs))

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b H W o"]:
        """Computes the map, whose height and width are `stride` times as large."""
        batch, height, width, inputs = x.shape
        stride, outputs = self.stride, self.kernel.shape[-1]
        kernel = self.kernel[...].astype(x.dtype).transpose(2, 0, 1, 3)
        squares = x.reshape(-1, inputs) @ kernel.reshape(inputs, -1)
        y = squares.reshape(batch, height, width, stride, stride, outputs)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * stride, width * stride, outputs)
        return y + self.bias[...].astype(y.dtype)

    def to_onnx(self, graph: GraphBuilder, *inputs: Any) -> SymbolicTensor:
        """Adds a ConvTranspose node."""
        [x] = inputs
        path = graph.path(self)
        kernel = np.asarray(self.kernel[...]).transpose(2, 3, 0, 1)
        names = [
            graph.weight(f"{path}.weight", kernel),
            graph.weight(f"{path}.bias", np.asarray(self.bias[...])),
        ]
        output = graph.node(
            "ConvTranspose",
            node_name(path),
            [x.name, *names],
            kernel_shape=[self.stride] * 2,
            strides=[self.stride] * 2,
        )
        return SymbolicTensor(graph, output, output)
