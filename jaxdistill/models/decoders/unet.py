"""UNet decoder, equal to segmentation_models_pytorch's (Ronneberger et al. 2015)."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.decoders.skips import check_channels
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.layers import BatchNorm, Conv, UpsampledConv, conv_norm
from jaxdistill.models.registry import DECODERS, Decoder
from jaxdistill.runtime.errors import ConfigError

DEFAULT_CHANNELS = (256, 128, 64, 32, 16)


@DECODERS.register("unet")
class UnetDecoder(Decoder):
    """A block for each feature map of the encoder, from the largest stride back to stride 1.

    Every block doubles height and width; all but the one of stride 1 join a map of the encoder.

    Args:
      encoder: The encoder's feature maps at strides 2, 4, 8, ..., finest first.
      channels: Channels of the blocks' outputs, coarsest first; with one number less than the
        encoder has maps, the logits are computed at half resolution, with two at a quarter. None:
        `DEFAULT_CHANNELS`, as many as the encoder has maps.
      rngs: Source of the initial values.

    Raises:
      ConfigError: The strides are not 2, 4, 8, ... (`decoder-encoder`), or there are more
        channels than feature maps (`decoder-channels`).
    """

    def __init__(
        self,
        encoder: Sequence[FeatureInfo],
        channels: Sequence[int] | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        channels = channels or DEFAULT_CHANNELS[-len(encoder) :]
        check_channels("unet", encoder, channels)
        if encoder[0].stride != 2:
            raise ConfigError(
                f"student.decoder: unet needs an encoder with feature maps at strides 2, 4, 8, "
                f"...; this encoder's begin at stride {encoder[0].stride}",
                code="decoder-encoder",
            )
        deepest, *skips = (feature.channels for feature in reversed(encoder))
        inputs, skips = [deepest, *channels[:-1]], [*skips, 0][: len(channels)]
        self.blocks = nnx.List(
            [
                UpBlock(below, skip, outputs, rngs=rngs)
                for below, skip, outputs in zip(inputs, skips, channels, strict=True)
            ]
        )
        finest, last = len(encoder) - len(channels), len(channels) - 1
        self.feature_info = tuple(
            FeatureInfo(f"decoder.{block}", outputs, 2 ** (last - block + finest))
            for block, outputs in enumerate(channels)
        )
        # At full resolution, the few channels make eight bits slower than float32.
        self.float32_layers = (f"blocks.{last}",) if finest == 0 else ()

    def __call__(
        self, features: Sequence[Float[Array, "b _ _ _"]], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Computes the outputs of the blocks, coarsest first.

        Args:
          features: The encoder's feature maps, finest first.
          train: Whether BatchNorm uses the statistics of the batch.

        Returns:
          One map for each entry of `feature_info`.
        """
        x, *skips = reversed(features)
        outputs = []
        for block, skip in zip(self.blocks, [*skips, None], strict=False):
            x = block(x, skip, train=train)
            outputs.append(x)
        return tuple(outputs)


class UpBlock(nnx.Module):
    """Nearest upsampling by two, concatenation with a skip connection, twice conv3x3-BN-ReLU.

    Args:
      below: Channels of the map that is upsampled.
      skip: Channels of the skip connection; 0 without one.
      outputs: Channels of the output.
      rngs: Source of the initial values.
    """

    def __init__(self, below: int, skip: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = ConvNormRelu(UpsampledConv, below + skip, outputs, rngs=rngs)
        self.conv2 = ConvNormRelu(Conv, outputs, outputs, rngs=rngs)

    def __call__(self, x: Array, skip: Array | None, *, train: bool) -> Array:
        """Applies the block to a map and the skip connection of twice its size."""
        return self.conv2(self.conv1(x, skip, train=train), train=train)


class ConvNormRelu(nnx.Module):
    """A 3x3 convolution, BatchNorm, ReLU.

    Args:
      kind: Class of the convolution.
      inputs: Channels of the input, with those of a skip connection.
      outputs: Channels of the output.
      rngs: Source of the initial values.
    """

    def __init__(self, kind: type[Conv], inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.conv = kind(inputs, outputs, 3, init="he_uniform", rngs=rngs)
        self.norm = BatchNorm(outputs)

    def __call__(self, *inputs: Any, train: bool) -> Any:
        """Applies the layers to the arguments of the convolution."""
        return conv_norm(self.conv, self.norm, *inputs, train=train, rectify=True)
