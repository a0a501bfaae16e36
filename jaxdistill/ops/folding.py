"""Convolution of a map with few channels, for GPUs: neighbouring columns become channels.

A row of a map lies in memory as columns of channels, so that `f` neighbouring columns of `c`
channels can be read as one column of `f * c` channels without a copy. The convolution then has a
wider kernel, most of whose weights are zeros, and more operations; but cuDNN's kernels are made
for 64 channels and more, and a map of 16 keeps them waiting. docs/gpu.md has the times.

XLA no longer joins such a convolution with an addition behind it, so with 32 channels, where the
convolution itself gains nothing, only its weight gradient is folded.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops.padding import Padding

FEW = 16
"""Channels of the narrower side up to which a convolution is folded."""
FEW_OF_WEIGHTS = 32
"""Channels of the narrower side up to which the weight gradient of a convolution is folded."""
_CHANNELS = 64  # of the wider side, once folded
_LEAST = 8  # channels of the narrower side, once folded
_MOST = 16  # columns that become one


class Fold(NamedTuple):
    """How columns become channels."""

    columns: int
    """Columns of the output that become one."""
    before: int
    """Folded columns of the input that the kernel reads before that of the output."""
    after: int
    """Those behind it."""

    @property
    def width(self) -> int:
        """Width of the folded kernel."""
        return self.before + 1 + self.after


def find_fold(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int,
    padding: Padding,
    few: int = FEW,
) -> Fold | None:
    """Returns how a convolution is folded, or None if it is better as it is.

    Args:
      shape: Of the map, (batch, height, width, channels).
      kernel: Shape of the kernel, (height, width, inputs, outputs).
      stride: Step between output positions.
      padding: Rows above and below, columns left and right.
      few: Channels of the narrower side up to which it is folded.
    """
    (_, size, inputs, outputs), width, (left, right) = kernel, shape[2], padding[1]
    kept = (width + left + right - size) // stride + 1 == -(-width // stride)
    if size == 1 or width % stride or not kept or min(inputs, outputs) > few:
        return None
    sides = (inputs * stride, outputs)
    columns = 1
    while columns < _MOST and width % (2 * columns * stride) == 0:
        if columns * max(sides) >= _CHANNELS and columns * min(sides) >= _LEAST:
            break
        columns *= 2
    if columns == 1:
        return None
    return fold_of(columns, size, stride, left)


def fold_of(columns: int, size: int, stride: int, left: int) -> Fold:
    """Returns the fold of a number of columns.

    Args:
      columns: Columns of the output that become one.
      size: Width of the kernel.
      stride: Step between output columns.
      left: Columns of zeros before the map, fewer than `size`.
    """
    together = columns * stride
    last = (columns - 1) * stride - left + size - 1
    return Fold(columns, -(-left // together), last // together)


def folded(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i o"],
    *,
    stride: int = 1,
    padding: Padding,
    few: int = FEW,
) -> Float[Array, "b oh ow o"]:
    """Convolves a map whose columns are folded into channels where that is better.

    Args:
      x: The map.
      kernel: The kernel.
      stride: Step between output positions, of rows and of columns.
      padding: Rows above and below, columns left and right.
      few: Channels of the narrower side up to which they are folded.

    Returns:
      The convolved map, equal to that of XLA's convolution up to rounding.
    """
    fold = find_fold(x.shape, kernel.shape, stride, padding, few)
    return folded_by(fold, x, kernel, stride, padding)


def folded_by(fold: Fold | None, x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Convolves with columns folded in a given way, None for not at all; see `folded`."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    if fold is None:
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=dimensions
        )
    batch, height, width, inputs = x.shape
    together = fold.columns * stride
    y = lax.conv_general_dilated(
        x.reshape(batch, height, width // together, together * inputs),
        widened(kernel, fold, stride, padding[1][0]),
        (stride, 1),
        (padding[0], (fold.before, fold.after)),
        dimension_numbers=dimensions,
    )
    return y.reshape(batch, y.shape[1], width // stride, kernel.shape[-1])


def widened(
    kernel: Float[Array, "kh kw i o"], fold: Fold, stride: int, left: int
) -> Float[Array, "kh fw fi fo"]:
    """Returns the kernel between folded columns.

    Args:
      kernel: The kernel.
      fold: How columns are folded.
      stride: Step between output columns.
      left: Columns of zeros before the map.

    Returns:
      The kernel, with zeros where an input column is out of reach of an output column.
    """
    rows, size, inputs, outputs = kernel.shape
    together = fold.columns * stride
    # Position in `kernel`, for every column of the input and of the output in their folded ones.
    read = np.arange(fold.width * together) - fold.before * together
    position = read[:, None] - (np.arange(fold.columns) * stride - left)
    chosen = (position == np.arange(size)[:, None, None]).astype(np.float32)
    chosen = chosen.reshape(size, fold.width, together, fold.columns)
    # Sums of at most one weight, and of their gradients, which TF32 would round.
    wide = jnp.einsum(
        "hkio,kbjp->hbjipo", kernel, chosen.astype(kernel.dtype), precision=lax.Precision.HIGHEST
    )
    return wide.reshape(rows, fold.width, together * inputs, fold.columns * outputs)
