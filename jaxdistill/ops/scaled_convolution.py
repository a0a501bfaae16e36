"""1x1 convolution over a map whose channels are scaled image by image.

Squeeze-and-excitation multiplies a map and convolves the product. On a GPU, the factors multiply
the kernel instead, which has a thousandth of the size of the map: the convolution becomes
one matrix product for each image, and the scaled map is never in memory.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdistill.ops.convolution import convolve
from jaxdistill.ops.forms import choose

Map = Float[Array, "b h w i"]
Factor = Float[Array, "b 1 1 i"]
Kernel = Float[Array, "1 1 i o"]
Output = Float[Array, "b h w o"]


def scaled_convolve(x: Map, factor: Factor, kernel: Kernel) -> Output:
    """Multiplies a map by factors and convolves it.

    Args:
      x: The map.
      factor: Factors of each image's channels.
      kernel: The kernel.

    Returns:
      The convolved map, by the form that is fast on the platform.
    """
    return choose("scaled_convolution", x, factor, kernel, plain=plain, gpu=by_image)


def plain(x: Map, factor: Factor, kernel: Kernel) -> Output:
    """Computes the result in two steps, the reference; see `scaled_convolve`."""
    return convolve(x * factor, kernel, ((0, 0), (0, 0)))


def by_image(x: Map, factor: Factor, kernel: Kernel) -> Output:
    """Computes the result with a kernel for each image; see `scaled_convolve`."""
    kernels = factor[:, 0, 0, :, None] * kernel[0, 0]
    return jnp.einsum("bhwi,bio->bhwo", x, kernels)
