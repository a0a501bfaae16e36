"""Convolution of stride 1, by forms that are fast on a CPU and on a GPU.

XLA's CPU back end computes the weight gradient of a convolution over large maps five times slower
than the convolution itself. Three other forms are faster there:

* A scan over a few rows at a time, whose patches are gathered and multiplied as one matrix product:
  the working set stays in the cache.
* A matrix product, for a 1x1 convolution.
* A sum of shifted copies, for a convolution over a single channel, such as the gradient of the
  head's input.

On a GPU, columns of maps with few channels are folded into channels; see `folding`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops.depthwise import shifted
from jaxdistill.ops.folding import MAX_CHANNELS_OF_WEIGHTS, Fold, find_fold, folded_by
from jaxdistill.ops.forms import choose
from jaxdistill.ops.padding import Padding
from jaxdistill.runtime.sharding import sum_over_rows

Map = Float[Array, "b h w i"]
Gradient = Float[Array, "b oh ow o"]
Kernel = Float[Array, "kh kw i o"]
_PATCH_FLOATS = 1 << 18  # floats in a block of patches: a megabyte, which a core's cache holds


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Map, kernel: Kernel, padding: Padding) -> Float[Array, "b oh ow o"]:
    """Convolves by the form that is fast on the platform; equals `plain`.

    Args:
      x: The map.
      kernel: The kernel.
      padding: Rows above and below, columns left and right; less than the kernel's size each.

    Returns:
      The convolved map.
    """
    if _is_pointwise(kernel.shape[:2], padding):
        return choose(
            "convolution", x, kernel, plain=partial(plain, padding=padding), cpu=pointwise
        )
    single = kernel.shape[2] == 1
    fold = find_fold(x.shape, kernel.shape, 1, padding)
    return choose(
        "convolution",
        x,
        kernel,
        plain=partial(plain, padding=padding),
        cpu=partial(shifted, stride=1, padding=padding) if single else None,
        gpu=partial(folded_by, fold=fold, padding=padding) if fold else None,
    )


def pointwise(x: Map, kernel: Float[Array, "1 1 i o"]) -> Float[Array, "b h w o"]:
    """Computes a 1x1 convolution as a matrix product.

    Args:
      x: The map.
      kernel: The kernel.

    Returns:
      The convolved map.
    """
    return x @ kernel[0, 0]


def plain(x: Map, kernel: Kernel, padding: Padding) -> Float[Array, "b oh ow o"]:
    """Convolves by XLA's convolution, the reference.

    Args:
      x: The map.
      kernel: The kernel.
      padding: Rows above and below, columns left and right.

    Returns:
      The convolved map.
    """
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x: Map, kernel: Kernel, padding: Padding) -> tuple[Array, tuple[Map, Kernel]]:
    return convolve(x, kernel, padding), (x, kernel)


def _backward(padding: Padding, saved: tuple[Map, Kernel], dy: Gradient) -> tuple[Map, Kernel]:
    x, kernel = saved
    around = _around(kernel.shape[:2], padding)
    # The gradient of the input is a convolution with the kernel rotated by 180 degrees.
    dx = convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), around)
    by_rows = partial(gradient_by_rows, padding=padding)
    fast = pointwise_gradient if _is_pointwise(kernel.shape[:2], padding) else by_rows
    fold = find_fold(x.shape, kernel.shape, 1, padding, MAX_CHANNELS_OF_WEIGHTS)
    dkernel = choose(
        "convolution",
        x,
        dy,
        plain=partial(plain_gradient, padding=padding),
        cpu=sum_over_rows(fast),
        gpu=partial(folded_gradient, fold=fold, padding=padding) if fold else None,
    )
    return dx, dkernel


convolve.defvjp(_forward, _backward)


def plain_gradient(x: Map, dy: Gradient, padding: Padding) -> Kernel:
    """Computes the weight gradient by XLA's convolution, the reference.

    Args:
      x: The map that was convolved.
      dy: Gradient of the output.
      padding: Padding of the convolution.

    Returns:
      Gradient of the kernel.
    """
    return _gradient(plain, x, dy, padding)


def folded_gradient(x: Map, dy: Gradient, fold: Fold, padding: Padding) -> Kernel:
    """Computes the weight gradient between folded columns; see `plain_gradient`."""
    return _gradient(partial(folded_by, fold=fold), x, dy, padding)


def _gradient(form: Callable[..., Array], x: Map, dy: Gradient, padding: Padding) -> Kernel:
    like = jax.ShapeDtypeStruct((*_kernel_size(x, dy, padding), x.shape[-1], dy.shape[-1]), x.dtype)
    [dkernel] = jax.linear_transpose(lambda kernel: form(x, kernel, padding=padding), like)(dy)
    return dkernel


def pointwise_gradient(x: Map, dy: Gradient) -> Float[Array, "1 1 i o"]:
    """Computes the weight gradient of a 1x1 convolution as a matrix product.

    Args:
      x: The map that was convolved.
      dy: Gradient of the output.

    Returns:
      Gradient of the kernel.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)  # bfloat16 would lose the sum
    rows, columns = (a.reshape(-1, a.shape[-1]).astype(wide) for a in (x, dy))
    return (rows.T @ columns)[None, None].astype(x.dtype)


def gradient_by_rows(x: Map, dy: Gradient, padding: Padding) -> Kernel:
    """Computes the weight gradient a few rows at a time.

    Args:
      x: The map that was convolved.
      dy: Gradient of the output.
      padding: Padding of the convolution.

    Returns:
      Gradient of the kernel.
    """
    inputs = x.shape[-1]
    batch, height, width, outputs = dy.shape
    tall, broad = _kernel_size(x, dy, padding)
    around = _around((tall, broad), padding)
    if outputs < inputs and min(around[0] + around[1]) >= 0:
        # Patches of the map with fewer channels are cheaper; the kernel is then rotated.
        return gradient_by_rows(dy, x, around)[::-1, ::-1].swapaxes(2, 3)
    places = tall * broad * inputs
    rows = min(max(1, _PATCH_FLOATS // (width * places)), height)
    steps = -(-height // rows)
    below = steps * rows - height  # rows of zeros, which add nothing
    dy = jnp.pad(dy, ((0, 0), (0, below), (0, 0), (0, 0)))
    (top, bottom), sides = padding
    padded = jnp.pad(x, ((0, 0), (top, bottom + below), sides, (0, 0)))
    wide = jnp.promote_types(x.dtype, jnp.float32)  # bfloat16 would lose the sum

    def add(total: Array, block: Array) -> tuple[Array, None]:
        image, first = block // steps, block % steps * rows
        window = lax.dynamic_slice(
            padded,
            (image, first, 0, 0),
            (1, rows + tall - 1, width + broad - 1, inputs),
        )
        shifted = [
            window[:, r : r + rows, c : c + width] for r in range(tall) for c in range(broad)
        ]
        patches = jnp.concatenate(shifted, axis=-1).reshape(rows * width, places)
        part = lax.dynamic_slice(dy, (image, first, 0, 0), (1, rows, width, outputs))
        columns = part.reshape(rows * width, outputs)
        return total + columns.T.astype(wide) @ patches.astype(wide), None

    blocks = jnp.arange(batch * steps)
    total, _ = lax.scan(add, jnp.zeros((outputs, places), wide), blocks)
    return total.T.reshape(tall, broad, inputs, outputs).astype(x.dtype)


def _is_pointwise(size: Sequence[int], padding: Padding) -> bool:
    return tuple(size) == (1, 1) and padding == ((0, 0), (0, 0))


def _around(size: Sequence[int], padding: Padding) -> Padding:
    """Returns the padding of the convolution that computes the gradient of the input."""
    (top, bottom), (left, right) = padding
    tall, broad = size
    return (tall - 1 - top, tall - 1 - bottom), (broad - 1 - left, broad - 1 - right)


def _kernel_size(x: Map, dy: Gradient, padding: Padding) -> tuple[int, int]:
    (top, bottom), (left, right) = padding
    return (
        x.shape[1] + top + bottom - dy.shape[1] + 1,
        x.shape[2] + left + right - dy.shape[2] + 1,
    )
