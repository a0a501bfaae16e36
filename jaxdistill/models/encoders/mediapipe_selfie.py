"""The encoder of MediaPipe's selfie segmentation: a MobileNetV3-Small that ends at stride 16.

It has the layers of `selfie_segmentation.tflite` and `selfie_segmentation_landscape.tflite`
(Apache-2.0), in which every BatchNorm is folded into the convolution before it. So it consists of
convolutions with bias; training it needs no statistics of batches. MobileNetV3 is by Howard et al.
2019, arXiv:1905.02244.
"""

from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import (
    Activation,
    global_mean,
    hard_swish,
    relu,
    sigmoid,
)
from jaxdistill.models.layers import Conv, ScaledConv
from jaxdistill.models.registry import ENCODERS, Encoder


class Block(NamedTuple):
    """An inverted residual."""

    size: int
    """Height and width of the depthwise kernel."""
    stride: int
    """Stride of the depthwise convolution."""
    inner: int
    """Channels between the first and the last convolution."""
    channels: int
    """Channels of the output."""
    reduced: int | None
    """Channels of the squeeze-and-excitation's hidden layer; None: there is none."""
    activation: Activation
    """The activation function."""


_STEM = 16
_BLOCKS = (
    Block(3, 2, 16, 16, 8, relu),
    Block(3, 2, 72, 24, None, relu),
    Block(3, 1, 88, 24, None, relu),
    Block(5, 2, 96, 32, 24, hard_swish),
    Block(5, 1, 128, 32, 32, hard_swish),
    Block(5, 1, 128, 32, 32, hard_swish),
    Block(5, 1, 96, 32, 24, hard_swish),
    Block(5, 1, 96, 32, 24, hard_swish),
)


@ENCODERS.register("mediapipe-selfie")
class MediaPipeSelfie(Encoder):
    """Computes four feature maps at strides 2, 4, 8, 16.

    Args:
      rngs: Source of the initial values.
    """

    # The first layer has three channels: eight bits gain nothing there, and cost the most.
    float32_layers = ("stem",)

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.stem = Conv(3, _STEM, 3, stride=2, padding="same", bias=True, rngs=rngs)
        blocks, outputs, channels, stride = [], {2: (_STEM, 0)}, _STEM, 2
        for index, block in enumerate(_BLOCKS):
            blocks.append(InvertedResidual(block, channels, rngs=rngs))
            channels, stride = block.channels, stride * block.stride
            outputs[stride] = (channels, index + 1)  # the last block at this stride
        self.blocks = nnx.List(blocks)
        self.feature_info = tuple(
            FeatureInfo(f"encoder.{number}", channels, stride, stages=count + 1)
            for number, (stride, (channels, count)) in enumerate(outputs.items(), start=1)
        )
        deepest_first = reversed(range(len(blocks)))
        self.stages = (*((f"blocks.{index}",) for index in deepest_first), ("stem",))

    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Computes the feature maps of images in [0, 1].

        Args:
          x: Images; MediaPipe's weights expect them as they are (`normalization: unit`).
          train: Not used: nothing depends on the batch.

        Returns:
          One map for each entry of `feature_info`, finest first.
        """
        maps = [hard_swish(self.stem(x))]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return tuple(maps[(feature.stages or 0) - 1] for feature in self.feature_info)


class InvertedResidual(nnx.Module):
    """Pointwise expansion, depthwise, squeeze-and-excitation, pointwise projection.

    Args:
      block: Sizes and activation.
      inputs: Channels of the input.
      rngs: Source of the initial values.
    """

    def __init__(self, block: Block, inputs: int, *, rngs: nnx.Rngs) -> None:
        self.activation, inner = block.activation, block.inner
        self.residual = block.stride == 1 and inputs == block.channels
        self.expand = Conv(inputs, inner, 1, bias=True, rngs=rngs)
        self.depthwise = Conv(
            inner,
            inner,
            block.size,
            stride=block.stride,
            padding="same",
            groups=inner,
            bias=True,
            rngs=rngs,
        )
        self.gate = None if block.reduced is None else ChannelGate(inner, block.reduced, rngs=rngs)
        self.project = ScaledConv(inner, block.channels, 1, bias=True, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Applies the block, with a residual connection where the shapes agree."""
        y = self.activation(self.depthwise(self.activation(self.expand(x))))
        y = self.project(y, None if self.gate is None else self.gate(y))
        return x + y if self.residual else y


class ChannelGate(nnx.Module):
    """Squeeze-and-excitation: a factor in (0, 1) of each channel, from all channels' means.

    Hu et al. 2018, arXiv:1709.01507, with a ReLU and a sigmoid.

    Args:
      channels: Channels of the map.
      reduced: Channels of the hidden layer.
      rngs: Source of the initial values.
    """

    def __init__(self, channels: int, reduced: int, *, rngs: nnx.Rngs) -> None:
        self.reduce = Conv(channels, reduced, 1, bias=True, rngs=rngs)
        self.expand = Conv(reduced, channels, 1, bias=True, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Computes the factors by which the channels of a map are to be multiplied."""
        return sigmoid(self.expand(relu(self.reduce(global_mean(x)))))
