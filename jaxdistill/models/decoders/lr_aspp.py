"""LR-ASPP decoder (Howard et al. 2019, arXiv:1905.02244, section 6.4)."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.blocks import LrAspp
from jaxdistill.models.decoders.light_unet import check_channels
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import upsample_bilinear
from jaxdistill.models.layers import Conv
from jaxdistill.models.registry import DECODERS, Decoder

DEFAULT_CHANNELS = (128, 32)


@DECODERS.register("lr-aspp")
class LrAsppDecoder(Decoder):
    """A gated projection of the coarsest map, to which projections of finer maps are added.

    Args:
      encoder: The encoder's feature maps, finest first; the stride doubles from map to map.
      channels: Channels of the maps, coarsest first; their number decides at which stride the
        logits are computed. None: `DEFAULT_CHANNELS`, which end at half the coarsest map's stride.
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
        channels = check_channels("lr-aspp", encoder, channels or DEFAULT_CHANNELS)
        used = list(reversed(encoder))[: len(channels)]
        self.context = LrAspp(used[0].channels, channels[0], rngs=rngs)
        self.blocks = nnx.List(
            [
                AddBlock(below, skip.channels, outputs, rngs=rngs)
                for below, skip, outputs in zip(channels, used[1:], channels[1:], strict=False)
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
        outputs = [self.context(deepest, train=train)]
        for block, skip in zip(self.blocks, skips, strict=False):
            outputs.append(block(outputs[-1], skip))
        return tuple(outputs)


class AddBlock(nnx.Module):
    """The sum of two pointwise convolutions: of the coarse map, which is upsampled, and a skip.

    Args:
      below: Channels of the map that is upsampled.
      skip: Channels of the skip connection.
      outputs: Channels of the output.
      rngs: Source of the initial values.
    """

    def __init__(self, below: int, skip: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.below = Conv(below, outputs, 1, bias=True, rngs=rngs)
        self.skip = Conv(skip, outputs, 1, rngs=rngs)

    def __call__(self, x: Any, skip: Any) -> Any:
        """Applies the block to a map and the skip connection of twice its size."""
        # Upsampling commutes with a pointwise convolution, which is cheaper on the small map.
        return upsample_bilinear(self.below(x)) + self.skip(skip)
