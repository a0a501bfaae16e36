"""A UNet of depthwise-separable convolutions, for students of a phone's size.

Skip connections are projected and added instead of concatenated, so that no 3x3 convolution sees
more channels than it returns.
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from jaxdistill.models.decoders.conv_norm import ConvNorm
from jaxdistill.models.decoders.skips import SkipDecoder
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import relu, upsample_bilinear
from jaxdistill.models.registry import DECODERS

DEFAULT_CHANNELS = (96, 64, 48, 32, 24)


@DECODERS.register("light-unet")
class LightUnetDecoder(SkipDecoder):
    """One map for each feature map of the encoder that is used, at the same strides.

    Args:
      encoder: The encoder's feature maps, finest first; the stride doubles from map to map.
      channels: Channels of the maps, coarsest first; their number decides at which stride the
        logits are computed. None: `DEFAULT_CHANNELS`, as many as the encoder has maps.
      rngs: Source of the initial values.

    Raises:
      ConfigError: See `SkipDecoder`.
    """

    first_name = "deepest"

    def __init__(
        self,
        encoder: Sequence[FeatureInfo],
        channels: Sequence[int] | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        channels = channels or DEFAULT_CHANNELS[-len(encoder) :]
        super().__init__("light-unet", encoder, channels, ConvNorm, SeparableUpBlock, rngs=rngs)


class SeparableUpBlock(nnx.Module):
    """Bilinear upsampling by two, a projected skip connection added, depthwise 3x3, pointwise.

    Args:
      below: Channels of the map that is upsampled.
      skip: Channels of the skip connection.
      outputs: Channels of the output.
      rngs: Source of the initial values.
    """

    def __init__(self, below: int, skip: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.below = ConvNorm(below, outputs, rectify=False, rngs=rngs)
        self.skip = ConvNorm(skip, outputs, rectify=False, rngs=rngs)
        self.depthwise = ConvNorm(outputs, outputs, 3, groups=outputs, rngs=rngs)
        self.pointwise = ConvNorm(outputs, outputs, rngs=rngs)

    def __call__(self, x: Any, skip: Any, *, train: bool) -> Any:
        """Applies the block to a map and the skip connection of twice its size."""
        # Upsampling commutes with a pointwise convolution, which is cheaper on the small map.
        x = upsample_bilinear(self.below(x, train=train))
        x = relu(x + self.skip(skip, train=train))
        return self.pointwise(self.depthwise(x, train=train), train=train)
