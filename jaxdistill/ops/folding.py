"""Convolution of a map with few channels, for GPUs: neighbouring columns become channels.

A row of a map lies in memory as columns of channels, so that `f` neighbouring columns of `c`
channels can be read as one column of `f * c` channels without a copy. The convolution then has a
wider kernel, most of whose weights are zeros, and more operations; but cuDNN's kernels compute
tiles of 64 channels or more, most of which are empty with 16. The bounds below were chosen by times
on an H200, in docs/gpu.md.

XLA no longer joins a folded convolution with an addition behind it. So with 32 channels, where the
convolution itself gains little, only its weight gradient is folded.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops.padding import Padding

MAX_CHANNELS = 16
"""Channels of the narrower side up to which a convolution is folded."""
MAX_CHANNELS_OF_WEIGHTS = 32
"""Channels of the narrower side up to which the weight gradient of a convolution is folded."""
_FULL = 64  # channels of the wider side, once folded
_LEAST = 8  # channels of the narrower side, once folded
_MAX_COLUMNS = 16  # that become one


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
    max_channels: int = MAX_CHANNELS,
) -> Fold | None:
    """Returns how a convolution is folded, or None if it is better as it is.

    Args:
      shape: Of the map, (batch, height, width, channels).
      kernel: Shape of the kernel, (height, width, inputs, outputs).
      stride: Step between output positions.
      padding: Rows above and below, columns left and right.
      max_channels: Channels of the narrower side up to which it is folded.
    """
    (_, size, inputs, outputs), width, (left, right) = kernel, shape[2], padding[1]
    kept = (width + left + right - size) // stride + 1 == width // stride
    if size == 1 or width % stride or not kept or min(inputs, outputs) > max_channels:
        return None
    sides = (inputs * stride, outputs)
    columns = 1  # doubled as far as the width allows
    while columns < _MAX_COLUMNS and width % (2 * columns * stride) == 0:
        if columns * max(sides) >= _FULL and columns * min(sides) >= _LEAST:
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


def folded_by(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i o"],
    *,
    fold: Fold,
    stride: int = 1,
    padding: Padding,
) -> Float[Array, "b oh ow o"]:
    """Convolves a map whose columns are folded into channels.

    Args:
      x: The map, whose width the folded columns divide.
      kernel: The kernel.
      fold: How columns are folded.
      stride: Step between output positions, of rows and of columns.
      padding: Rows above and below, columns left and right, such that there are width / stride
        columns in the output.

    Returns:
      The convolved map, equal to that of XLA's convolution up to rounding.
    """
    batch, height, width, inputs = x.shape
    together = fold.columns * stride
    y = lax.conv_general_dilated(
        x.reshape(batch, height, width // together, together * inputs),
        widened(kernel, fold, stride, padding[1][0]),
        (stride, 1),
        (padding[0], (fold.before, fold.after)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
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
    # position[a, b] is the column of the kernel between column a of the input and column b of the
    # output, within their folded columns; outside of the kernel there is none.
    read = np.arange(fold.width * together) - fold.before * together
    position = read[:, None] - (np.arange(fold.columns) * stride - left)
    chosen = position == np.arange(size)[:, None, None]
    chosen = chosen.reshape(size, fold.width, together, fold.columns)
    # Each value is one weight or zero. TF32 would round it, and the sums of gradients.
    wide = jnp.einsum(
        "hkio,kbjp->hbjipo", kernel, chosen.astype(kernel.dtype), precision=lax.Precision.HIGHEST
    )
    return wide.reshape(rows, fold.width, together * inputs, fold.columns * outputs)
