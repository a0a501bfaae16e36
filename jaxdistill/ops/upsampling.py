"""3x3 convolution over a nearest-upsampled map, concatenated with a skip connection.

An output position of one phase (even or odd row, even or odd column) depends on 2x2 positions of
the small map only. So four 2x2 convolutions, whose kernels are sums of weights of the 3x3 kernel,
give the same result with 2.25 times fewer operations, and the upsampled map is never computed. The
four are computed as one convolution with four times as many output channels; it is padded by one
position on every side, of which each phase uses two. The skip connection is convolved separately.

On a GPU the same is one transposed convolution of stride 2, whose 4x4 kernel holds all four 2x2
kernels. It is the gradient of a strided convolution, which cuDNN has as one operation; of few
channels, with columns folded into channels.
"""

import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops.convolution import convolve
from jaxdistill.ops.folding import find_fold, folded_by
from jaxdistill.ops.forms import choose

Small = Float[Array, "b h w c"]
Skip = Float[Array, "b 2*h 2*w s"]
Kernel = Float[Array, "3 3 c+s o"]
Output = Float[Array, "b 2*h 2*w o"]
_SAME = ((1, 1), (1, 1))
_PHASES = tuple(itertools.product((0, 1), (0, 1)))  # of row and column


def upsampled_convolve(x: Small, skip: Skip | None, kernel: Kernel) -> Output:
    """Upsamples a map by two, appends the skip connection's channels, and convolves, padded by 1.

    Args:
      x: The small map.
      skip: The skip connection; None: there is none.
      kernel: Kernel over the channels of `x`, then those of `skip`.

    Returns:
      The convolved map, by the form that is fast on the platform.
    """
    return choose(
        "upsampling",
        x,
        skip,
        kernel,
        plain=plain,
        cpu=by_phases,
        gpu=transposed,
        exported=by_copies,
    )


def nearest(x: Small) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width; every position becomes a square of four equal ones.

    Args:
      x: The map.

    Returns:
      The larger map, by the form that suits an exported graph where one is traced.
    """
    return choose("nearest", x, plain=repeated, exported=copied)


def repeated(x: Small) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats rows and columns, the reference; see `nearest`."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def copied(x: Small) -> Float[Array, "b 2*h 2*w c"]:
    """Appends copies of columns, then of rows, and changes the shape; see `nearest`.

    Concatenation and change of shape are operators that XNNPACK has, in contrast to broadcasting
    and to nearest-neighbour resizing.
    """
    batch, height, width, channels = x.shape
    rows = jnp.concatenate([x, x], axis=3).reshape(batch, height, 1, 2 * width * channels)
    return jnp.concatenate([rows, rows], axis=2).reshape(batch, 2 * height, 2 * width, channels)


def plain(x: Small, skip: Skip | None, kernel: Kernel) -> Output:
    """Computes the result in three steps, the reference; see `upsampled_convolve`."""
    return _joined(repeated(x), skip, kernel)


def by_copies(x: Small, skip: Skip | None, kernel: Kernel) -> Output:
    """Computes the result in three steps, the first by `copied`; see `upsampled_convolve`."""
    return _joined(copied(x), skip, kernel)


def _joined(x: Skip, skip: Skip | None, kernel: Kernel) -> Output:
    joined = x if skip is None else jnp.concatenate([x, skip], axis=-1)
    return convolve(joined, kernel, _SAME)


def by_phases(x: Small, skip: Skip | None, kernel: Kernel) -> Output:
    """Computes the result without the upsampled map; see `upsampled_convolve`."""
    batch, height, width, channels = x.shape
    outputs = kernel.shape[-1]
    own, joined = kernel[:, :, :channels], kernel[:, :, channels:]
    together = jnp.concatenate([_merge(_merge(own, r, 0), c, 1) for r, c in _PHASES], axis=-1)
    parts = lax.split(convolve(x, together, _SAME), [outputs] * 4, axis=3)
    # An even row depends on the small map's row above and its own, an odd row on its own and the
    # row below.
    phases = [
        part[:, row : row + height, column : column + width]
        for part, (row, column) in zip(parts, _PHASES, strict=True)
    ]
    # Interleave the phases: row = 2 * small row + row phase, and likewise for columns.
    grid = jnp.stack(phases).reshape(2, 2, batch, height, width, outputs)
    y = grid.transpose(2, 3, 0, 4, 1, 5).reshape(batch, 2 * height, 2 * width, outputs)
    return y if skip is None else y + convolve(skip, joined, _SAME)


def _merge(kernel: Array, phase: int, axis: int) -> Array:
    """Merges three weights into two: those at the same position of the small map are added."""
    first, second, third = jnp.split(kernel, 3, axis)
    pair = (first, second + third) if phase == 0 else (first + second, third)
    return jnp.concatenate(pair, axis)


def transposed(x: Small, skip: Skip | None, kernel: Kernel) -> Output:
    """Computes the result as a transposed convolution; see `upsampled_convolve`."""
    channels = x.shape[-1]
    own, joined = kernel[:, :, :channels], kernel[:, :, channels:]
    y = _transposed(x, _stretch(_stretch(own, 0), 1).swapaxes(2, 3))
    return y if skip is None else y + convolve(skip, joined, _SAME)


def _stretch(kernel: Array, axis: int) -> Array:
    """Returns the weights by which a position of the small map enters four of the result.

    It covers two of the upsampled map. The result before them sees the first of the two by its last
    weight; the next one sees both by its middle and last weight; and so on.
    """
    first, second, third = jnp.split(kernel, 3, axis)
    return jnp.concatenate([third, second + third, first + second, first], axis)


def _strided(y: Output, kernel: Float[Array, "4 4 o c"]) -> Small:
    if fold := find_fold(y.shape, kernel.shape, 2, _SAME):
        return folded_by(y, kernel, fold=fold, stride=2, padding=_SAME)
    return lax.conv_general_dilated(
        y, kernel, (2, 2), _SAME, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _transposed(x: Small, kernel: Float[Array, "4 4 o c"]) -> Output:
    """Computes the gradient of `_strided`, whose own gradients are convolutions of cuDNN too."""
    batch, height, width, _ = x.shape
    like = jax.ShapeDtypeStruct((batch, 2 * height, 2 * width, kernel.shape[2]), x.dtype)
    [y] = jax.linear_transpose(lambda y: _strided(y, kernel), like)(x)
    return y


def _forward(x: Small, kernel: Array) -> tuple[Output, tuple[Small, Array]]:
    return _transposed(x, kernel), (x, kernel)


def _backward(saved: tuple[Small, Array], dy: Output) -> tuple[Small, Array]:
    x, kernel = saved
    [dkernel] = jax.linear_transpose(lambda kernel: _strided(dy, kernel), kernel)(x)
    return _strided(dy, kernel), dkernel


_transposed.defvjp(_forward, _backward)
