"""Functions of feature maps for use in networks.

Each takes arrays (B, H, W, C) or symbolic tensors. Encoders and decoders use these functions, the
operators `+` and `*`, and the layers of `models.layers`, so that a student can be exported by
calling it with a symbolic tensor.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.models.symbolic import SymbolicTensor, join

Activation = Callable[[Any], Any]


def relu(x: Any) -> Any:
    """Returns `max(x, 0)`."""
    return x.apply("Relu", "relu") if isinstance(x, SymbolicTensor) else jax.nn.relu(x)


def relu6(x: Any) -> Any:
    """Returns `min(max(x, 0), 6)`."""
    if isinstance(x, SymbolicTensor):
        bounds = (x.graph.weight(name, np.array(n)) for name, n in (("zero", 0), ("six", 6)))
        return x.apply("Clip", "relu6", *bounds)
    return jax.nn.relu6(x)


def sigmoid(x: Any) -> Any:
    """Returns `1 / (1 + exp(-x))`."""
    return x.apply("Sigmoid", "sigmoid") if isinstance(x, SymbolicTensor) else jax.nn.sigmoid(x)


def silu(x: Any) -> Any:
    """Returns `x * sigmoid(x)`, also known as swish."""
    if isinstance(x, SymbolicTensor):
        return x.apply("Mul", "silu", sigmoid(x).name)
    return jax.nn.silu(x)


def global_mean(x: Any) -> Any:
    """Returns the mean over height and width, which stay as dimensions of length 1."""
    if isinstance(x, SymbolicTensor):
        return x.apply("GlobalAveragePool", "mean")
    return x.mean((1, 2), keepdims=True)


def concatenate(maps: Sequence[Any]) -> Any:
    """Joins feature maps of one size along the channels."""
    if isinstance(maps[0], SymbolicTensor):
        return join("Concat", "concatenate", maps, axis=1)
    return jnp.concatenate(maps, axis=-1)


def upsample_nearest(x: Any, layer: str = "") -> Any:
    """Doubles height and width; every position becomes a square of four equal ones.

    Args:
      x: The map.
      layer: Name of the layer that upsamples, for the name of the node in a graph.
    """
    if isinstance(x, SymbolicTensor):
        scales = x.graph.constant("two_by_two", np.array([1, 1, 2, 2], np.float32))
        output = x.graph.node(
            "Resize",
            f"{layer or x.name}/upsample",
            [x.name, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return SymbolicTensor(x.graph, output, layer or x.layer)
    return x.repeat(2, axis=1).repeat(2, axis=2)
