"""What decoders with skip connections share: their order, their description, their checks."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.registry import Decoder
from jaxdistill.runtime.errors import ConfigError


class SkipDecoder(Decoder):
    """Base class of decoders with one map for each map of the encoder, at the same strides.

    Layers of its own compute the first map from the encoder's coarsest one; then each block joins
    the map so far with the encoder's next finer one, the skip connection. A subclass calls this
    constructor with its name, its default channels and the classes of both.

    Args:
      name: Name of the decoder, for messages.
      encoder: The encoder's feature maps, finest first; the stride doubles from map to map.
      channels: Channels of the maps, coarsest first; their number decides at which stride the
        logits are computed.
      first: Builds the layers of the coarsest map from the channels of their input and output and
        `rngs`; they are called with the map and `train`.
      block: Builds a block from the channels of the coarser map, of the skip connection and of the
        output, and `rngs`; it is called with the coarser map, the skip connection, which is twice
        as high and wide, and `train`.
      rngs: Source of the initial values.

    Raises:
      ConfigError: The strides do not double (`decoder-encoder`), or there are more channels than
        feature maps (`decoder-channels`).
    """

    first_name: ClassVar[str] = "context"
    """Attribute that holds the layers of the coarsest map, a part of their parameters' paths."""

    def __init__(
        self,
        name: str,
        encoder: Sequence[FeatureInfo],
        channels: Sequence[int],
        first: Callable[..., nnx.Module],
        block: Callable[..., nnx.Module],
        *,
        rngs: nnx.Rngs,
    ) -> None:
        check_channels(name, encoder, channels)
        used = encoder[::-1][: len(channels)]
        setattr(self, self.first_name, first(used[0].channels, channels[0], rngs=rngs))
        self.blocks = nnx.List(
            [
                block(below, skip.channels, outputs, rngs=rngs)
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
        coarsest, *skips = reversed(features)
        first: Any = getattr(self, self.first_name)
        outputs = [first(coarsest, train=train)]
        # A decoder that ends early leaves out the finest maps.
        for block, skip in zip(self.blocks, skips, strict=False):
            outputs.append(block(outputs[-1], skip, train=train))
        return tuple(outputs)


def check_channels(name: str, encoder: Sequence[FeatureInfo], channels: Sequence[int]) -> None:
    """Checks the channels of a decoder that has at most one map for each map of the encoder.

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
