"""The decoder of MediaPipe's selfie segmentation: an LR-ASPP head and gated skip connections.

It has the layers of `selfie_segmentation.tflite`, without BatchNorms, which are folded there. The
first map is the lite reduced atrous spatial pyramid of MobileNetV3 (Howard et al. 2019,
arXiv:1905.02244, section 6.4).
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from jaxdistill.models.decoders.skips import SkipDecoder
from jaxdistill.models.encoders.mediapipe_selfie import ChannelGate
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import global_mean, relu, sigmoid, upsample_bilinear
from jaxdistill.models.layers import Conv
from jaxdistill.models.registry import DECODERS

_HEAD_CHANNELS = 128


@DECODERS.register("mediapipe-selfie")
class GatedDecoder(SkipDecoder):
    """One map for each map of the encoder that is used, at the same strides, coarsest first.

    Args:
      encoder: The encoder's feature maps, finest first; the stride doubles from map to map.
      channels: Channels of the maps, coarsest first; their number decides at which stride the
        logits are computed. None: 128 for the coarsest, and for the others those of the encoder's
        map of the same stride.
      rngs: Source of the initial values.

    Raises:
      ConfigError: See `SkipDecoder`.
    """

    upsampling = "learned"

    def __init__(
        self,
        encoder: Sequence[FeatureInfo],
        channels: Sequence[int] | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        channels = channels or (_HEAD_CHANNELS, *(f.channels for f in encoder[::-1][1:]))
        super().__init__(
            "mediapipe-selfie", encoder, channels, GlobalContext, GatedUpBlock, rngs=rngs
        )
        # In int8, the last block alone would cost more accuracy than all other layers together.
        self.float32_layers = (f"blocks.{len(self.blocks) - 1}",) if self.blocks else ()


class GlobalContext(nnx.Module):
    """LR-ASPP: a pointwise convolution, scaled by factors from the map's global mean.

    Args:
      inputs: Channels of the input.
      outputs: Channels of the output.
      rngs: Source of the initial values.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.conv = Conv(inputs, outputs, 1, bias=True, rngs=rngs)
        self.gate = Conv(inputs, outputs, 1, bias=True, rngs=rngs)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the layers.

        Args:
          x: The map.
          train: Not used: nothing depends on the batch.
        """
        return relu(self.conv(x)) * sigmoid(self.gate(global_mean(x)))


class GatedUpBlock(nnx.Module):
    """Bilinear upsampling by two, a skip connection whose channels are gated, two convolutions.

    The gate sees the sum of the skip connection and the upsampled map, and scales the skip
    connection before the two are added.

    Args:
      below: Channels of the map that is upsampled.
      skip: Channels of the skip connection.
      outputs: Channels of the output; a skip connection with other channels is projected to them.
      rngs: Source of the initial values.
    """

    def __init__(self, below: int, skip: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.reduce = Conv(below, outputs, 1, bias=True, rngs=rngs)
        self.skip = None if skip == outputs else Conv(skip, outputs, 1, bias=True, rngs=rngs)
        self.gate = ChannelGate(outputs, outputs, rngs=rngs)
        self.pointwise = Conv(outputs, outputs, 1, bias=True, rngs=rngs)
        self.depthwise = Conv(outputs, outputs, 3, groups=outputs, bias=True, rngs=rngs)

    def __call__(self, x: Any, skip: Any, *, train: bool) -> Any:
        """Applies the block to a map and the skip connection of twice its size.

        Args:
          x: The map.
          skip: The skip connection.
          train: Not used: nothing depends on the batch.
        """
        # MediaPipe upsamples first. The two commute, and a pointwise convolution of the small map
        # takes a quarter of the operations.
        x = upsample_bilinear(self.reduce(x))
        skip = skip if self.skip is None else self.skip(skip)
        y = relu(self.pointwise(skip * self.gate(x + skip) + x))
        return y + relu(self.depthwise(y))
