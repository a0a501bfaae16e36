"""UNet decoder and head, equal to segmentation_models_pytorch's (Ronneberger et al. 2015)."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.layers import BatchNorm, Conv, UpsampledConv, conv_norm


class UnetDecoder(nnx.Module):
    """Five blocks from stride 32 back to stride 1; the first four join an encoder tap each.

    Args:
      encoder_channels: of the taps at strides 2, 4, 8, 16, 32.
      channels: of the blocks' outputs, at strides 16, 8, 4, 2, 1.
    """

    def __init__(
        self, encoder_channels: Sequence[int], channels: Sequence[int], *, rngs: nnx.Rngs
    ) -> None:
        deepest, *skips = reversed(encoder_channels)
        inputs = [deepest, *channels[:-1]]
        self.blocks = nnx.List(
            [
                UpBlock(below, skip, outputs, rngs=rngs)
                for below, skip, outputs in zip(inputs, [*skips, 0], channels, strict=True)
            ]
        )

    def __call__(
        self, taps: Sequence[Float[Array, "b _ _ _"]], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Encoder taps, finest first, to the outputs of the blocks, coarsest first."""
        x, *skips = reversed(taps)
        outputs = []
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            x = block(x, skip, train=train)
            outputs.append(x)
        return tuple(outputs)


class UpBlock(nnx.Module):
    """Nearest upsampling by two, the skip joined, then conv3x3-BN-ReLU twice."""

    def __init__(self, below: int, skip: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = ConvNormRelu(UpsampledConv, below + skip, outputs, rngs=rngs)
        self.conv2 = ConvNormRelu(Conv, outputs, outputs, rngs=rngs)

    def __call__(self, x: Array, skip: Array | None, *, train: bool) -> Array:
        return self.conv2(self.conv1((x, skip), train=train), train=train)


class ConvNormRelu(nnx.Module):
    def __init__(self, kind: type[Conv], inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.conv = kind(inputs, outputs, 3, init="he_uniform", rngs=rngs)
        self.norm = BatchNorm(outputs)

    def __call__(self, x: Any, *, train: bool) -> Array:
        return conv_norm(self.conv, self.norm, x, train=train, rectify=True)
