"""Depthwise convolution.

XLA's CPU back end computes a grouped convolution channel by channel. A sum of shifted and scaled
slices gives the same result 20 to 60 times faster. On a GPU, a grouped convolution is a call of
cuDNN, for which the map before and after it must be in memory; the sum of slices is fused with the
activations around it. Of a 5x5 kernel, only with those behind it: an activation before it would be
computed 25 times for each output. On an H200, a kernel that did so took 416 us for a map of 1.1 M
values; those that read a finished map took 41 us for 1.8 M.
"""

from functools import partial

import jax
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops.forms import choose
from jaxdistill.ops.padding import Padding

_RECOMPUTED = 9  # positions of a kernel, up to which the map may be computed for each anew


def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], stride: int, padding: Padding
) -> Float[Array, "b oh ow c"]:
    """Convolves every channel with its own kernel, by the form that is fast on the platform.

    Args:
      x: The map.
      kernel: One kernel for each channel.
      stride: Step between output positions.
      padding: Rows above and below, columns left and right.

    Returns:
      The convolved map.
    """
    slices = partial(shifted, stride=stride, padding=padding)
    grouped = partial(plain, stride=stride, padding=padding)
    of_finished = partial(shifted_finished, stride=stride, padding=padding)
    return choose("depthwise", x, kernel, plain=grouped, cpu=slices, gpu=of_finished)


def plain(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Convolves with as many groups as channels, the reference; see `depthwise`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shifted_finished(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Computes `shifted`, for large kernels from a map that is in memory; see `depthwise`."""
    rows, columns = kernel.shape[:2]
    if rows * columns > _RECOMPUTED:
        x = lax.optimization_barrier(x)
    return shifted(x, kernel, stride, padding)


def shifted(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Sums shifted and scaled copies over the kernel's positions; see `depthwise`."""
    batch, height, width, channels = x.shape
    rows, columns = kernel.shape[:2]
    (top, bottom), (left, right) = padding
    out_height = (height + top + bottom - rows) // stride + 1
    out_width = (width + left + right - columns) // stride + 1
    padded = jax.numpy.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))

    def term(row: int, column: int) -> Array:
        end = (row + (out_height - 1) * stride + 1, column + (out_width - 1) * stride + 1)
        window = lax.slice(
            padded,
            (0, row, column, 0),
            (batch, *end, channels),
            (1, stride, stride, 1),
        )
        return window * kernel[row, column, 0]

    terms = [term(row, column) for row in range(rows) for column in range(columns)]
    return sum(terms[1:], start=terms[0])
