"""Heads: layers that compute mask logits at the image's size from a decoder's finest map."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.config import Upsampling
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import upsample_bilinear
from jaxdistill.models.layers import Conv, ConvTranspose


def build_head(finest: FeatureInfo, upsampling: Upsampling, *, rngs: nnx.Rngs) -> Any:
    """Builds the head of a student.

    Args:
      finest: The decoder's finest map.
      upsampling: How logits reach the image's size if the finest map has a larger stride than 1.
      rngs: Source of the initial values.

    Returns:
      A 3x3 convolution at stride 1; otherwise a `BilinearHead` or a transposed convolution.
    """
    if finest.stride == 1:
        return Conv(finest.channels, 1, 3, bias=True, init="xavier_uniform", rngs=rngs)
    if upsampling == "learned":
        return ConvTranspose(finest.channels, 1, finest.stride, rngs=rngs)
    return BilinearHead(finest, rngs=rngs)


class BilinearHead(nnx.Module):
    """A 3x3 convolution to logits, and bilinear interpolation to the image's size.

    Args:
      finest: The decoder's finest map.
      rngs: Source of the initial values.
    """

    def __init__(self, finest: FeatureInfo, *, rngs: nnx.Rngs) -> None:
        self.stride = finest.stride
        self.conv = Conv(finest.channels, 1, 3, bias=True, init="xavier_uniform", rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W 1"]:
        """Computes logits at the image's size."""
        return upsample_bilinear(self.conv(x), self.stride)
