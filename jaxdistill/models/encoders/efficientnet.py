"""EfficientNet encoders (Tan and Le 2019, arXiv:1905.11946).

There are three families of variants:

* `timm-efficientnet-b0` ... `-b3` equal segmentation_models_pytorch's: symmetric padding, eps 1e-5.
* `tf_efficientnet_b0` ... `_b3` equal timm's ports from TensorFlow: SAME padding, eps 1e-3.
* `tf_efficientnet_lite0` is such a port too, without squeeze-and-excitation, and with ReLU6.
"""

import functools
import math
from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.encoders.blocks import (
    BlockSettings,
    DepthwiseSeparable,
    InvertedResidual,
    round_channels,
)
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import Activation, relu6, silu
from jaxdistill.models.layers import BatchNorm, Conv, conv_norm
from jaxdistill.models.registry import ENCODERS, Encoder
from jaxdistill.ops.padding import PaddingKind


class Stage(NamedTuple):
    """A sequence of blocks with the same number of output channels."""

    blocks: int
    """Number of blocks."""
    size: int
    """Height and width of the depthwise kernels."""
    stride: int
    """Stride of the first block."""
    expansion: int
    """Channels inside a block, as a multiple of its input channels."""
    channels: int
    """Channels of the output."""


_B0_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Variant(NamedTuple):
    """What distinguishes one encoder of the family from another."""

    width: float = 1.0
    """Factor of the numbers of channels."""
    depth: float = 1.0
    """Factor of the numbers of blocks."""
    padding: PaddingKind = "symmetric"
    """Padding of the convolutions."""
    eps: float = 1e-5
    """Added to the variance in BatchNorm."""
    squeeze: bool = True
    """Whether blocks have squeeze-and-excitation."""
    activation: Activation = silu
    """The activation function."""

    @property
    def stages(self) -> list[Stage]:
        """The scaled stages."""
        return [
            s._replace(blocks=math.ceil(s.blocks * self.depth), channels=self.round(s.channels))
            for s in _B0_STAGES
        ]

    def round(self, channels: int) -> int:
        """Returns a scaled number of channels: a multiple of 8, at least 90 % of the product."""
        return round_channels(channels * self.width)


_SCALES = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4)}

VARIANTS = {
    **{f"timm-efficientnet-{n}": Variant(*scale) for n, scale in _SCALES.items()},
    **{f"tf_efficientnet_{n}": Variant(*scale, "same", 1e-3) for n, scale in _SCALES.items()},
    "tf_efficientnet_lite0": Variant(1.0, 1.0, "same", 1e-3, False, relu6),
}


class EfficientNet(Encoder):
    """Computes five feature maps at strides 2, 4, 8, 16, 32.

    `conv_head` and `bn2` belong to the ImageNet classifier. Segmentation does not use them; they
    are kept so that weights files hold the whole network.

    Args:
      variant: Size, padding and activation.
      rngs: Source of the initial values.
    """

    unused = ("conv_head", "bn2")
    # The first layer is the one where rounding to eight bits changes the masks most.
    float32_layers = ("conv_stem",)

    def __init__(self, variant: Variant, *, rngs: nnx.Rngs) -> None:
        v = self.variant = variant
        channels = stem = v.round(32)
        self.conv_stem = Conv(3, stem, 3, stride=2, padding=v.padding, rngs=rngs)
        self.bn1 = BatchNorm(stem, eps=v.eps)
        stages, outputs = [], [(stem, 2)]  # the last channels at every stride
        for stage in v.stages:
            blocks = []
            for position in range(stage.blocks):
                settings = BlockSettings(
                    inputs=channels,
                    inner=channels * stage.expansion,
                    outputs=stage.channels,
                    size=stage.size,
                    stride=stage.stride if position == 0 else 1,
                    activation=v.activation,
                    padding=v.padding,
                    eps=v.eps,
                    reduced=channels // 4 if v.squeeze else 0,
                )
                block = DepthwiseSeparable if stage.expansion == 1 else InvertedResidual
                blocks.append(block(settings, rngs=rngs))
                channels = stage.channels
            stages.append(nnx.List(blocks))
            outputs.append((channels, outputs[-1][1] * stage.stride))
        self.blocks = nnx.List(stages)
        # A feature map is the output of the stem, and of the last stage at each further stride.
        last_at = {stride: index for index, (_, stride) in enumerate(outputs)} | {2: 0}
        self.tapped = tuple(index - 1 for index in last_at.values() if index)
        self.feature_info = tuple(
            FeatureInfo(f"encoder.{number}", outputs[index][0], stride, stages=index + 1)
            for number, (stride, index) in enumerate(last_at.items(), start=1)
        )
        deepest_first = reversed(range(len(stages)))
        self.stages = (*((f"blocks.{index}",) for index in deepest_first), ("conv_stem", "bn1"))
        features = v.round(1280)
        self.conv_head = Conv(channels, features, 1, rngs=rngs)
        self.bn2 = BatchNorm(features, eps=v.eps)

    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Computes the feature maps of normalised images.

        Args:
          x: Images, normalised as the weights expect.
          train: Whether BatchNorm uses the statistics of the batch.

        Returns:
          One map for each entry of `feature_info`, finest first.
        """
        act = self.variant.activation
        x = act(conv_norm(self.conv_stem, self.bn1, x, train=train))
        features = [x]
        for index, stage in enumerate(self.blocks):
            for block in stage:
                x = block(x, train=train)
            if index in self.tapped:
                features.append(x)
        return tuple(features)

    def embed(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b c"]:
        """Computes the pooled features that an ImageNet classifier's last layer takes.

        Args:
          x: Images, normalised as the weights expect.

        Returns:
          One vector for each image.
        """
        deepest = self(x, train=False)[-1]
        act = self.variant.activation
        return act(conv_norm(self.conv_head, self.bn2, deepest, train=False)).mean((1, 2))


for _name, _variant in VARIANTS.items():
    ENCODERS.add(_name, functools.partial(EfficientNet, _variant))
