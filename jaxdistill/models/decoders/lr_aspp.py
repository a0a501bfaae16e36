"""LR-ASPP decoder (Howard et al. 2019, arXiv:1905.02244, section 6.4)."""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from jaxdistill.models.decoders.conv_norm import ConvNorm
from jaxdistill.models.decoders.skips import SkipDecoder
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import global_mean, sigmoid, upsample_bilinear
from jaxdistill.models.layers import Conv
from jaxdistill.models.registry import DECODERS

DEFAULT_CHANNELS = (128, 32)


@DECODERS.register("lr-aspp")
class LrAsppDecoder(SkipDecoder):
    """A gated projection of the coarsest map, to which projections of finer maps are added.

    Args:
      encoder: The encoder's feature maps, finest first; the stride doubles from map to map.
      channels: Channels of the maps, coarsest first; their number decides at which stride the
        logits are computed. None: `DEFAULT_CHANNELS`, which end at half the coarsest map's stride,
        or the first of them where the encoder has one map.
      rngs: Source of the initial values.

    Raises:
      ConfigError: See `SkipDecoder`.
    """

    def __init__(
        self,
        encoder: Sequence[FeatureInfo],
        channels: Sequence[int] | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        channels = channels or DEFAULT_CHANNELS[: len(encoder)]
        super().__init__("lr-aspp", encoder, channels, LrAspp, AddBlock, rngs=rngs)


class LrAspp(nnx.Module):
    """A pointwise convolution with BatchNorm, scaled by factors from the map's global mean.

    The lite reduced atrous spatial pyramid, with the mean of the whole map, as in torchvision.

    Args:
      inputs: Channels of the input.
      outputs: Channels of the output.
      rngs: Source of the initial values.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.project = ConvNorm(inputs, outputs, rngs=rngs)
        self.gate = Conv(inputs, outputs, 1, rngs=rngs)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the layers."""
        return self.project(x, train=train) * sigmoid(self.gate(global_mean(x)))


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

    def __call__(self, x: Any, skip: Any, *, train: bool) -> Any:
        """Applies the block to a map and the skip connection of twice its size.

        Args:
          x: The map.
          skip: The skip connection.
          train: Not used: nothing depends on the batch.
        """
        # Upsampling commutes with a pointwise convolution, which is cheaper on the small map.
        return upsample_bilinear(self.below(x)) + self.skip(skip)
