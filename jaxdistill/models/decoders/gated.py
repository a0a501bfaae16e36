"""The decoder of MediaPipe's selfie segmentation: an LR-ASPP head and gated skip connections.

It has the layers of `selfie_segmentation.tflite`, without BatchNorms, which are folded there. The
first map is the lite reduced atrous spatial pyramid of MobileNetV3 (Howard et al. 2019,
arXiv:1905.02244, section 6.4).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.encoders.mediapipe_selfie import ChannelGate
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import global_mean, relu, sigmoid, upsample_bilinear
from jaxdistill.models.layers import Conv
from jaxdistill.models.registry import DECODERS, Decoder
from jaxdistill.runtime.errors import ConfigError

_HEAD_CHANNELS = 128


@DECODERS.register("mediapipe-selfie")
class GatedDecoder(Decoder):
    """One map for each map of the encoder, at the same strides, coarsest first.

    Args:
      encoder: The encoder's feature maps, finest first; the stride doubles from map to map.
      channels: Channels of the maps, coarsest first; None: 128 for the coarsest, and for the others
        those of the encoder's map of the same stride.
      rngs: Source of the initial values.

    Raises:
      ConfigError: The strides do not double (`decoder-encoder`), or there are not as many channels
        as feature maps (`decoder-channels`).
    """

    upsampling = "learned"

    def __init__(
        self,
        encoder: Sequence[FeatureInfo],
        channels: Sequence[int] | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        deepest, *skips = reversed(encoder)
        channels = _check(encoder, channels or (_HEAD_CHANNELS, *(f.channels for f in skips)))
        self.context = GlobalContext(deepest.channels, channels[0], rngs=rngs)
        self.blocks = nnx.List(
            [
                GatedUpBlock(below, skip.channels, outputs, rngs=rngs)
                for (below, outputs), skip in zip(pairwise(channels), skips, strict=True)
            ]
        )
        self.feature_info = tuple(
            FeatureInfo(f"decoder.{number}", outputs, feature.stride)
            for number, (outputs, feature) in enumerate(
                zip(channels, reversed(encoder), strict=True)
            )
        )

    def __call__(
        self, features: Sequence[Float[Array, "b _ _ _"]], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Computes the maps, coarsest first.

        Args:
          features: The encoder's feature maps, finest first.
          train: Not used: nothing depends on the batch.

        Returns:
          One map for each entry of `feature_info`.
        """
        deepest, *skips = reversed(features)
        outputs = [self.context(deepest)]
        for block, skip in zip(self.blocks, skips, strict=True):
            outputs.append(block(outputs[-1], skip))
        return tuple(outputs)


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

    def __call__(self, x: Any) -> Any:
        """Applies the layers."""
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

    def __call__(self, x: Any, skip: Any) -> Any:
        """Applies the block to a map and the skip connection of twice its size."""
        # MediaPipe upsamples first. The two commute, and a pointwise convolution of the small map
        # takes a quarter of the operations.
        x = upsample_bilinear(self.reduce(x))
        skip = skip if self.skip is None else self.skip(skip)
        y = relu(self.pointwise(skip * self.gate(x + skip) + x))
        return y + relu(self.depthwise(y))


def _check(encoder: Sequence[FeatureInfo], channels: Sequence[int]) -> tuple[int, ...]:
    strides = [feature.stride for feature in encoder]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ConfigError(
            f"student.decoder: mediapipe-selfie needs an encoder whose strides double from map to "
            f"map; this encoder has strides {', '.join(map(str, strides))}",
            code="decoder-encoder",
        )
    if len(channels) != len(strides):
        raise ConfigError(
            f"student.decoder_channels: mediapipe-selfie needs {len(strides)} numbers for this "
            f"encoder, one for each of its feature maps; got {list(channels)}",
            code="decoder-channels",
        )
    return tuple(channels)
