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

from jaxdistill.data import image_ops
from jaxdistill.models.symbolic import SymbolicTensor, join
from jaxdistill.ops.global_mean import global_mean as mean_over_positions
from jaxdistill.ops.upsampling import nearest

Activation = Callable[[Any], Any]
"""A function of each value of a feature map, such as `relu`."""


def relu(x: Any) -> Any:
    """Returns `max(x, 0)`."""
    return x.apply("Relu", "relu") if isinstance(x, SymbolicTensor) else jax.nn.relu(x)


def relu6(x: Any) -> Any:
    """Returns `min(max(x, 0), 6)`."""
    return _clip(x, "relu6", zero=0, six=6) if isinstance(x, SymbolicTensor) else jax.nn.relu6(x)


def hard_swish(x: Any) -> Any:
    """Returns `x * relu6(x + 3) / 6` (Howard et al. 2019, arXiv:1905.02244, section 5.2)."""
    if isinstance(x, SymbolicTensor):
        return x.apply("HardSwish", "hard_swish")
    return jax.nn.hard_swish(x)


def hard_sigmoid(x: Any) -> Any:
    """Returns `relu6(x + 3) / 6`."""
    if isinstance(x, SymbolicTensor):
        y = x.apply("HardSigmoid", "hard_sigmoid", alpha=1 / 6, beta=0.5)
        # It changes no value. Without it, OpenCV takes the product of a map and this gate for the
        # hard swish of the gate's input.
        return _clip(y, "clip", zero=0, one=1)
    return jax.nn.hard_sigmoid(x)


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
    return mean_over_positions(x)


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
    return nearest(x)


def upsample_bilinear(x: Any, factor: int = 2) -> Any:
    """Multiplies height and width by a factor, with bilinear interpolation between positions.

    Positions are centres of squares, as in torch's `interpolate(align_corners=False)` and
    TensorFlow's `half_pixel_centers`.

    Args:
      x: The map.
      factor: The factor.
    """
    if isinstance(x, SymbolicTensor):
        scales = np.array([1, 1, factor, factor], np.float32)
        output = x.graph.node(
            "Resize",
            f"{x.name}/upsample",
            [x.name, "", x.graph.constant(f"scale_{factor}", scales)],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
        return SymbolicTensor(x.graph, output, x.layer)
    _, height, width, _ = x.shape
    return image_ops.resize(x, (factor * height, factor * width))


def _clip(x: SymbolicTensor, suffix: str, **bounds: int) -> SymbolicTensor:
    """Adds a Clip node with bounds that are constants of these names."""
    names = (x.graph.weight(name, np.array(value)) for name, value in bounds.items())
    return x.apply("Clip", suffix, *names)
