"""Depthwise convolution.

XLA's CPU back end computes a grouped convolution channel by channel. A sum of shifted and scaled
slices gives the same result 20 to 60 times faster. Its gradient by automatic differentiation pads
and copies the map once for each position of the kernel; written out, a step of a network
with a trained encoder takes a third less processor time (docs/performance.md).

On a GPU, a grouped convolution is a call of cuDNN, for which the map before and after it must be in
memory; the sum of slices is fused with the activations around it. With a 5x5 kernel it is bound by
its 25 products: on an H200, in float32, the nine of an EfficientNet-B0 took 0.54 ms for 4 images,
and cuDNN 0.24. In bfloat16, which has not been timed, the sum is kept; it reads a map that is
in memory, since an activation before it would be computed 25 times for each output. By themselves,
the 3x3 ones are faster in cuDNN too (docs/gpu.md); within the step that has not been tried.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops.forms import choose
from jaxdistill.ops.padding import Padding
from jaxdistill.runtime.sharding import sum_over_rows

_MAX_SUMMED = 9  # positions of a kernel, up to which a GPU sums slices


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
    slices = partial(shifted_on_cpu, stride, padding)
    grouped = partial(plain, stride=stride, padding=padding)
    gpu = partial(on_gpu, stride=stride, padding=padding)
    return choose("depthwise", x, kernel, plain=grouped, cpu=slices, gpu=gpu)


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


def on_gpu(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Convolves by cuDNN or by `shifted`, whichever is faster; see `depthwise`."""
    if kernel.shape[0] * kernel.shape[1] <= _MAX_SUMMED:
        return shifted(x, kernel, stride, padding)
    if x.dtype == jnp.float32:
        return plain(x, kernel, stride, padding)
    return shifted(lax.optimization_barrier(x), kernel, stride, padding)


def shifted(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Sums shifted and scaled copies over the kernel's positions; see `depthwise`."""
    batch, height, width, channels = x.shape
    rows, columns = kernel.shape[:2]
    (top, bottom), (left, right) = padding
    out_height = (height + top + bottom - rows) // stride + 1
    out_width = (width + left + right - columns) // stride + 1
    padded = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))

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


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def shifted_on_cpu(stride: int, padding: Padding, x: Array, kernel: Array) -> Array:
    """Computes `shifted`, with a gradient that is fast on a CPU; see `depthwise`."""
    return shifted(x, kernel, stride, padding)


def _forward(
    stride: int, padding: Padding, x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return shifted(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: int, padding: Padding, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    size = (kernel.shape[0], kernel.shape[1])
    kernel_gradient = sum_over_rows(partial(_kernel_gradient, size, stride, padding))
    return _input_gradient(x.shape, kernel, stride, padding, dy), kernel_gradient(x, dy)


shifted_on_cpu.defvjp(_forward, _backward)


def _input_gradient(
    shape: tuple[int, ...], kernel: Array, stride: int, padding: Padding, dy: Array
) -> Array:
    """Convolves the output's gradient, with zeros between its rows, with the rotated kernel."""
    around = []
    for axis, (before, _) in zip((1, 2), padding, strict=True):
        low = kernel.shape[axis - 1] - 1 - before
        spread = (dy.shape[axis] - 1) * stride + 1
        around.append((low, shape[axis] + before - spread, stride - 1))
    spread_out = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *around, (0, 0, 0)))
    return shifted(spread_out, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))


def _kernel_gradient(
    size: tuple[int, int], stride: int, padding: Padding, x: Array, dy: Array
) -> Array:
    """Sums the products of gradient and map for each position, image by image for the cache."""
    wide = jnp.promote_types(x.dtype, jnp.float32)  # bfloat16 would lose the sum
    spans = [
        [_span(offset, before, stride, x.shape[axis], dy.shape[axis]) for offset in range(length)]
        for axis, length, (before, _) in zip((1, 2), size, padding, strict=True)
    ]

    def add(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
        values, gradient = image
        sums = [
            (values[rows_in, columns_in] * gradient[rows, columns]).sum((0, 1), dtype=wide)
            for rows, rows_in in spans[0]
            for columns, columns_in in spans[1]
        ]
        return total + jnp.stack(sums), None

    total, _ = lax.scan(add, jnp.zeros((size[0] * size[1], x.shape[-1]), wide), (x, dy))
    return total.reshape(*size, 1, -1).astype(x.dtype)


def _span(offset: int, before: int, stride: int, size: int, outputs: int) -> tuple[slice, slice]:
    """Returns outputs to which a position of the kernel contributes, and the inputs that it reads.

    Args:
      offset: The position, from 0.
      before: Padding before the first input.
      stride: Step between outputs, in inputs.
      size: Number of inputs.
      outputs: Number of outputs.
    """
    first = max(0, -((offset - before) // stride))
    last = min(outputs, (size - 1 - offset + before) // stride + 1)
    if last <= first:  # the kernel is larger than the map
        return slice(0, 0), slice(0, 0)
    start = first * stride + offset - before
    return slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)
