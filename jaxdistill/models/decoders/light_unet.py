"""A UNet of depthwise-separable convolutions, for students of a phone's size.

Skip connections are projected and added instead of concatenated, so that no 3x3 convolution sees
more channels than it returns.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.blocks import ConvNorm
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import relu, upsample_bilinear
from jaxdistill.models.registry import DECODERS, Decoder
from jaxdistill.runtime.errors import ConfigError

DEFAULT_CHANNELS = (96, 64, 48, 32, 24)


@DECODERS.register("light-unet")
class LightUnetDecoder(Decoder):
    """One map for each feature map of the encoder that is used, at the same strides.

    Args:
      encoder: The encoder's feature maps, finest first; the stride doubles from map to map.
      channels: Channels of the maps, coarsest first; their number decides at which stride the
        logits are computed. None: `DEFAULT_CHANNELS`, as many as the encoder has maps.
      rngs: Source of the initial values.

    Raises:
      ConfigError: The strides do not double (`decoder-encoder`), or there are more channels than
        feature maps (`decoder-channels`).
    """

    def __init__(
        self,
        encoder: Sequence[FeatureInfo],
        channels: Sequence[int] | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        channels = check_channels(
            "light-unet", encoder, channels or DEFAULT_CHANNELS[-len(encoder) :]
        )
        used = list(reversed(encoder))[: len(channels)]
        self.deepest = ConvNorm(used[0].channels, channels[0], rngs=rngs)
        self.blocks = nnx.List(
            [
                SeparableUpBlock(below, skip.channels, outputs, rngs=rngs)
                for (below, outputs), skip in zip(pairwise(channels), used[1:], strict=True)
            ]
        )
        self.feature_info = tuple(
            FeatureInfo(f"decoder.{number}", outputs, feature.stride)
            for number, (outputs, feature) in enumerate(zip(channels, used, strict=True))
        )

    def __call__(
        self, features: Sequence[Float[Array, "b _ _ _"]], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Computes the maps, coarsest first.

        Args:
          features: The encoder's feature maps, finest first.
          train: Whether BatchNorm uses the statistics of the batch.

        Returns:
          One map for each entry of `feature_info`.
        """
        deepest, *skips = reversed(features)
        outputs = [self.deepest(deepest, train=train)]
        for block, skip in zip(self.blocks, skips, strict=False):
            outputs.append(block(outputs[-1], skip, train=train))
        return tuple(outputs)


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


def check_channels(
    name: str, encoder: Sequence[FeatureInfo], channels: Sequence[int]
) -> tuple[int, ...]:
    """Returns the channels of a decoder that has at most one map for each map of the encoder.

    Args:
      name: Name of the decoder, for messages.
      encoder: The encoder's feature maps, finest first.
      channels: Channels of the decoder's maps, coarsest first.

    Raises:
      ConfigError: The strides do not double (`decoder-encoder`), or there are more channels than
        feature maps (`decoder-channels`).
    """
    strides = [feature.stride for feature in encoder]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ConfigError(
            f"student.decoder: {name} needs an encoder whose strides double from map to map; this "
            f"encoder has strides {', '.join(map(str, strides))}",
            code="decoder-encoder",
        )
    if len(channels) > len(strides):
        raise ConfigError(
            f"student.decoder_channels: {name} takes at most {len(strides)} numbers for this "
            f"encoder, one for each of its feature maps; got {list(channels)}",
            code="decoder-channels",
        )
    return tuple(channels)
