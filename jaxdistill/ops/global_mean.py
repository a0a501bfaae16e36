"""Mean of a feature map over height and width.

XLA computes what makes the map within the kernel that sums it. Where that is a depthwise
convolution as a sum of shifted slices, the kernel is slow on a GPU: in a profile of a training step
on an H200 (docs/gpu.md), four of them took 5.7 of 16.3 ms, sixty times what their bytes take.
There the map is finished in a kernel of its own, and read once more.
"""

from jax import lax
from jaxtyping import Array, Float

from jaxdistill.ops.forms import choose

Map = Float[Array, "b h w c"]
Mean = Float[Array, "b 1 1 c"]


def global_mean(x: Map) -> Mean:
    """Returns the mean over height and width.

    Args:
      x: The map.

    Returns:
      The means, by the form that is fast on the platform.
    """
    return choose("global_mean", x, plain=plain, gpu=of_finished)


def plain(x: Map) -> Mean:
    """Leaves it to XLA where the map is computed, the reference; see `global_mean`."""
    return x.mean((1, 2), keepdims=True)


def of_finished(x: Map) -> Mean:
    """Has the map in memory before it is summed; see `global_mean`."""
    return plain(lax.optimization_barrier(x))
