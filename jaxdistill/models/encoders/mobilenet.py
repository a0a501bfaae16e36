"""MobileNet encoders, equal to timm's: V3 (Howard et al. 2019) and V4-Conv-Small (Qin et al. 2024).

arXiv:1905.02244 and arXiv:2404.10518. A number such as `_050` is the width: the numbers of channels
are multiplied by 0.5 and rounded. `tf_` stands for TensorFlow's padding and eps 1e-3.
"""

import functools
from typing import Any, Literal, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.encoders.blocks import (
    BlockSettings,
    DepthwiseSeparable,
    InvertedResidual,
    depthwise,
    round_channels,
)
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import Activation, hard_sigmoid, hard_swish, relu
from jaxdistill.models.layers import BatchNorm, Conv, conv_norm
from jaxdistill.models.registry import ENCODERS, Encoder
from jaxdistill.ops.padding import PaddingKind


class Block(NamedTuple):
    """A block of any kind."""

    kind: Literal["conv", "separable", "inverted", "universal"]
    """`PlainBlock`, `DepthwiseSeparable`, `InvertedResidual` or `UniversalBlock`."""
    size: int
    """Height and width of the kernel that is not 1x1; 0: there is none."""
    stride: int
    """Stride."""
    channels: int
    """Channels of the output, before they are scaled by the width."""
    expansion: float = 1
    """Channels inside the block, as a multiple of its input channels."""
    squeeze: bool = False
    """Whether it has squeeze-and-excitation."""
    activation: Activation = relu
    """The activation function."""
    start: int = 0
    """Size of a universal block's first depthwise kernel; 0: there is none."""


class Variant(NamedTuple):
    """What distinguishes one encoder of the family from another."""

    stages: tuple[tuple[Block, ...], ...]
    """The blocks of each stage."""
    stem: int
    """Channels of the first convolution."""
    head: int
    """Channels of the ImageNet classifier's hidden layer."""
    activation: Activation
    """The activation function of the first convolution."""
    width: float = 1.0
    """Factor of the numbers of channels."""
    fixed_stem: bool = False
    """Whether the first convolution is not scaled."""
    norm_head: bool = False
    """Whether the classifier's hidden layer has a BatchNorm instead of a bias."""
    padding: PaddingKind = "symmetric"
    """Padding of the convolutions."""
    eps: float = 1e-5
    """Added to the variance in BatchNorm."""


def _inverted(*values: Any, squeeze: bool = False, activation: Activation = relu) -> Block:
    """Returns a block from kernel size, stride, expansion and channels."""
    size, stride, expansion, channels = values
    return Block("inverted", size, stride, channels, expansion, squeeze, activation)


def _universal(start: int, size: int, stride: int, expansion: float, channels: int) -> Block:
    return Block("universal", size, stride, channels, expansion, start=start)


def _v3_small(size: int, squeeze: bool, swish: Activation) -> tuple[tuple[Block, ...], ...]:
    block = functools.partial(_inverted, squeeze=squeeze, activation=swish)
    return (
        (Block("separable", 3, 2, 16, squeeze=squeeze),),
        (_inverted(3, 2, 4.5, 24), _inverted(3, 1, 3.67, 24)),
        (block(size, 2, 4, 40), *[block(size, 1, 6, 40)] * 2),
        (block(size, 1, 3, 48),) * 2,
        (block(size, 2, 6, 96), *[block(size, 1, 6, 96)] * 2),
        (Block("conv", 1, 1, 576, activation=swish),),
    )


_swish = functools.partial(_inverted, activation=hard_swish)
_V3_LARGE = (
    (Block("separable", 3, 1, 16),),
    (_inverted(3, 2, 4, 24), _inverted(3, 1, 3, 24)),
    (_inverted(5, 2, 3, 40, squeeze=True), *[_inverted(5, 1, 3, 40, squeeze=True)] * 2),
    (_swish(3, 2, 6, 80), _swish(3, 1, 2.5, 80), *[_swish(3, 1, 2.3, 80)] * 2),
    (_swish(3, 1, 6, 112, squeeze=True),) * 2,
    (_swish(5, 2, 6, 160, squeeze=True), *[_swish(5, 1, 6, 160, squeeze=True)] * 2),
    (Block("conv", 1, 1, 960, activation=hard_swish),),
)
_V4_SMALL = (
    (Block("conv", 3, 2, 32), Block("conv", 1, 1, 32)),
    (Block("conv", 3, 2, 96), Block("conv", 1, 1, 64)),
    (_universal(5, 5, 2, 3, 96), *[_universal(0, 3, 1, 2, 96)] * 4, _universal(3, 0, 1, 4, 96)),
    (
        _universal(3, 3, 2, 6, 128),
        _universal(5, 5, 1, 4, 128),
        _universal(0, 5, 1, 4, 128),
        _universal(0, 5, 1, 3, 128),
        *[_universal(0, 3, 1, 4, 128)] * 2,
    ),
    (Block("conv", 1, 1, 960),),
)
_V3 = functools.partial(Variant, stem=16, activation=hard_swish)
_V4 = functools.partial(Variant, _V4_SMALL, stem=32, head=1280, activation=relu, norm_head=True)
_SMALL, _MINIMAL = _v3_small(5, True, hard_swish), _v3_small(3, False, relu)

VARIANTS = {
    "mobilenetv3_small_050": _V3(_SMALL, head=1024, width=0.5, fixed_stem=True),
    "mobilenetv3_small_075": _V3(_SMALL, head=1024, width=0.75),
    "mobilenetv3_small_100": _V3(_SMALL, head=1024),
    "mobilenetv3_large_075": _V3(_V3_LARGE, head=1280, width=0.75),
    "mobilenetv3_large_100": _V3(_V3_LARGE, head=1280),
    "tf_mobilenetv3_small_minimal_100": Variant(_MINIMAL, 16, 1024, relu, padding="same", eps=1e-3),
    "mobilenetv4_conv_small_035": _V4(width=0.35, fixed_stem=True),
    "mobilenetv4_conv_small_050": _V4(width=0.5, fixed_stem=True),
    "mobilenetv4_conv_small": _V4(),
}


class MobileNet(Encoder):
    """Computes five feature maps at strides 2, 4, 8, 16, 32: the last one at each stride.

    `conv_head` and `norm_head` belong to the ImageNet classifier. Segmentation does not use them;
    they are kept so that weights files hold the whole network.

    Args:
      variant: Blocks, width and padding.
      rngs: Source of the initial values.
    """

    # The first layer has three channels: eight bits gain nothing there, and cost the most.
    float32_layers = ("conv_stem",)

    def __init__(self, variant: Variant, *, rngs: nnx.Rngs) -> None:
        v = self.variant = variant
        channels = stem = v.stem if v.fixed_stem else round_channels(v.stem * v.width)
        self.conv_stem = Conv(3, stem, 3, stride=2, padding=v.padding, rngs=rngs)
        self.bn1 = BatchNorm(stem, eps=v.eps)
        stages, stride, last_at = [], 2, {2: (stem, 0)}
        for index, stage in enumerate(v.stages):
            blocks = []
            for block in stage:
                blocks.append(_build(v, block, channels, rngs=rngs))
                channels, stride = round_channels(block.channels * v.width), stride * block.stride
            stages.append(nnx.List(blocks))
            last_at[stride] = (channels, index + 1)
        self.blocks = nnx.List(stages)
        self.feature_info = tuple(
            FeatureInfo(f"encoder.{number}", channels, stride, stages=index + 1)
            for number, (stride, (channels, index)) in enumerate(last_at.items(), start=1)
        )
        deepest_first = reversed(range(len(stages)))
        self.stages = (*((f"blocks.{index}",) for index in deepest_first), ("conv_stem", "bn1"))
        self.conv_head = Conv(channels, v.head, 1, bias=not v.norm_head, rngs=rngs)
        self.norm_head = BatchNorm(v.head, eps=v.eps) if v.norm_head else None
        self.unused = ("conv_head", "norm_head") if v.norm_head else ("conv_head",)

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
        x = self.variant.activation(conv_norm(self.conv_stem, self.bn1, x, train=train))
        maps = [x]
        for stage in self.blocks:
            for block in stage:
                x = block(x, train=train)
            maps.append(x)
        return tuple(maps[(feature.stages or 0) - 1] for feature in self.feature_info)


def _build(v: Variant, block: Block, inputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """Returns a block whose numbers of channels are scaled by the width."""
    inner = round_channels(inputs * block.expansion)
    settings = BlockSettings(
        inputs=inputs,
        inner=inner,
        outputs=round_channels(block.channels * v.width),
        size=block.size,
        stride=block.stride,
        activation=block.activation,
        padding=v.padding,
        eps=v.eps,
        reduced=round_channels(inner / 4) if block.squeeze else 0,
        squeeze_activation=relu,
        gate=hard_sigmoid,
    )
    match block.kind:
        case "conv":
            return PlainBlock(settings, rngs=rngs)
        case "separable":
            return DepthwiseSeparable(settings, rngs=rngs)
        case "inverted":
            return InvertedResidual(settings, rngs=rngs)
        case "universal":
            return UniversalBlock(settings, block.start, rngs=rngs)


class PlainBlock(nnx.Module):
    """A convolution, BatchNorm, activation.

    Args:
      s: Sizes and activation.
      rngs: Source of the initial values.
    """

    def __init__(self, s: BlockSettings, *, rngs: nnx.Rngs) -> None:
        self.activation = s.activation
        self.conv = Conv(s.inputs, s.outputs, s.size, stride=s.stride, padding=s.padding, rngs=rngs)
        self.bn1 = BatchNorm(s.outputs, eps=s.eps)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the block."""
        return self.activation(conv_norm(self.conv, self.bn1, x, train=train))


class UniversalBlock(nnx.Module):
    """MobileNetV4's block: depthwise, expansion, depthwise, projection; either depthwise may miss.

    Args:
      s: Sizes and activation; the size is that of the second depthwise kernel.
      start: Height and width of the first depthwise kernel; 0: there is none.
      rngs: Source of the initial values.
    """

    def __init__(self, s: BlockSettings, start: int, *, rngs: nnx.Rngs) -> None:
        self.activation, self.residual = s.activation, s.residual
        first = 1 if s.size else s.stride  # the stride belongs to the second, if it exists
        self.dw_start = (
            Unit(depthwise(s, s.inputs, start, first, rngs=rngs), s.inputs, s.eps)
            if start
            else None
        )
        self.pw_exp = Unit(Conv(s.inputs, s.inner, 1, rngs=rngs), s.inner, s.eps)
        self.dw_mid = (
            Unit(depthwise(s, s.inner, s.size, s.stride, rngs=rngs), s.inner, s.eps)
            if s.size
            else None
        )
        self.pw_proj = Unit(Conv(s.inner, s.outputs, 1, rngs=rngs), s.outputs, s.eps)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the block, with a residual connection where the shapes agree."""
        y = x if self.dw_start is None else self.dw_start(x, train=train)
        y = self.activation(self.pw_exp(y, train=train))
        if self.dw_mid is not None:
            y = self.activation(self.dw_mid(y, train=train))
        y = self.pw_proj(y, train=train)
        return x + y if self.residual else y


class Unit(nnx.Module):
    """A convolution and its BatchNorm.

    Args:
      conv: The convolution.
      channels: Channels of its output.
      eps: Added to the variance in BatchNorm.
    """

    def __init__(self, conv: Conv, channels: int, eps: float) -> None:
        self.conv, self.bn = conv, BatchNorm(channels, eps=eps)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the layers."""
        return conv_norm(self.conv, self.bn, x, train=train)


for _name, _variant in VARIANTS.items():
    ENCODERS.add(_name, functools.partial(MobileNet, _variant))
