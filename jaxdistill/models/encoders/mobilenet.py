"""MobileNet encoders, equal to timm's: V3 (Howard et al. 2019) and V4-Conv-Small (Qin et al. 2024).

arXiv:1905.02244 and arXiv:2404.10518. A number such as `_050` is the width: the numbers of channels
are multiplied by 0.5 and rounded. `tf_` stands for TensorFlow's padding and eps 1e-3.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.encoders.efficientnet import SqueezeExcite
from jaxdistill.models.feature_info import FeatureInfo
from jaxdistill.models.functional import Activation, hard_sigmoid, hard_swish, relu
from jaxdistill.models.layers import BatchNorm, Conv, ScaledConv, conv_norm
from jaxdistill.models.registry import ENCODERS, Encoder
from jaxdistill.ops.padding import PaddingKind


class Block(NamedTuple):
    """A block of any kind."""

    kind: str
    """`conv`, `separable`, `inverted` or `universal`; see the classes of these names below."""
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


def round_channels(channels: float) -> int:
    """Returns a multiple of 8 near a number of channels, and at least 90 % of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


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
                blocks.append(_KINDS[block.kind](v, block, channels, rngs=rngs))
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


class PlainBlock(nnx.Module):
    """A convolution, BatchNorm, activation.

    Args:
      v: The variant.
      block: The block.
      inputs: Channels of the input.
      rngs: Source of the initial values.
    """

    def __init__(self, v: Variant, block: Block, inputs: int, *, rngs: nnx.Rngs) -> None:
        outputs = round_channels(block.channels * v.width)
        self.activation = block.activation
        self.conv = Conv(
            inputs, outputs, block.size, stride=block.stride, padding=v.padding, rngs=rngs
        )
        self.bn1 = BatchNorm(outputs, eps=v.eps)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the block."""
        return self.activation(conv_norm(self.conv, self.bn1, x, train=train))


class SeparableBlock(nnx.Module):
    """Depthwise, squeeze-and-excitation, pointwise.

    Args: see `PlainBlock`.
    """

    def __init__(self, v: Variant, block: Block, inputs: int, *, rngs: nnx.Rngs) -> None:
        outputs = round_channels(block.channels * v.width)
        self.activation = block.activation
        self.residual = block.stride == 1 and inputs == outputs
        self.conv_dw = _depthwise(v, inputs, block.size, block.stride, rngs)
        self.bn1 = BatchNorm(inputs, eps=v.eps)
        self.se = _squeeze(block, inputs, rngs)
        self.conv_pw = ScaledConv(inputs, outputs, 1, rngs=rngs)
        self.bn2 = BatchNorm(outputs, eps=v.eps)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the block, with a residual connection where the shapes agree."""
        y = self.activation(conv_norm(self.conv_dw, self.bn1, x, train=train))
        factor = None if self.se is None else self.se(y)
        y = conv_norm(self.conv_pw, self.bn2, y, factor, train=train)
        return x + y if self.residual else y


class InvertedBlock(nnx.Module):
    """Pointwise expansion, depthwise, squeeze-and-excitation, pointwise projection.

    Args: see `PlainBlock`.
    """

    def __init__(self, v: Variant, block: Block, inputs: int, *, rngs: nnx.Rngs) -> None:
        inner = round_channels(inputs * block.expansion)
        outputs = round_channels(block.channels * v.width)
        self.activation = block.activation
        self.residual = block.stride == 1 and inputs == outputs
        self.conv_pw = Conv(inputs, inner, 1, rngs=rngs)
        self.bn1 = BatchNorm(inner, eps=v.eps)
        self.conv_dw = _depthwise(v, inner, block.size, block.stride, rngs)
        self.bn2 = BatchNorm(inner, eps=v.eps)
        self.se = _squeeze(block, inner, rngs)
        self.conv_pwl = ScaledConv(inner, outputs, 1, rngs=rngs)
        self.bn3 = BatchNorm(outputs, eps=v.eps)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the block, with a residual connection where the shapes agree."""
        y = self.activation(conv_norm(self.conv_pw, self.bn1, x, train=train))
        y = self.activation(conv_norm(self.conv_dw, self.bn2, y, train=train))
        factor = None if self.se is None else self.se(y)
        y = conv_norm(self.conv_pwl, self.bn3, y, factor, train=train)
        return x + y if self.residual else y


class UniversalBlock(nnx.Module):
    """MobileNetV4's block: depthwise, expansion, depthwise, projection; either depthwise may miss.

    Args: see `PlainBlock`.
    """

    def __init__(self, v: Variant, block: Block, inputs: int, *, rngs: nnx.Rngs) -> None:
        inner = round_channels(inputs * block.expansion)
        outputs = round_channels(block.channels * v.width)
        self.activation = block.activation
        self.residual = block.stride == 1 and inputs == outputs
        first = 1 if block.size else block.stride  # the stride belongs to the second, if it exists
        self.dw_start = (
            Unit(_depthwise(v, inputs, block.start, first, rngs), inputs, v.eps)
            if block.start
            else None
        )
        self.pw_exp = Unit(Conv(inputs, inner, 1, rngs=rngs), inner, v.eps)
        self.dw_mid = (
            Unit(_depthwise(v, inner, block.size, block.stride, rngs), inner, v.eps)
            if block.size
            else None
        )
        self.pw_proj = Unit(Conv(inner, outputs, 1, rngs=rngs), outputs, v.eps)

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


def _depthwise(v: Variant, channels: int, size: int, stride: int, rngs: nnx.Rngs) -> Conv:
    return Conv(
        channels, channels, size, stride=stride, padding=v.padding, groups=channels, rngs=rngs
    )


def _squeeze(block: Block, channels: int, rngs: nnx.Rngs) -> SqueezeExcite | None:
    if not block.squeeze:
        return None
    reduced = round_channels(channels / 4)
    return SqueezeExcite(channels, reduced, activation=relu, gate=hard_sigmoid, rngs=rngs)


_KINDS: dict[str, Callable[..., nnx.Module]] = {
    "conv": PlainBlock,
    "separable": SeparableBlock,
    "inverted": InvertedBlock,
    "universal": UniversalBlock,
}

for _name, _variant in VARIANTS.items():
    ENCODERS.add(_name, functools.partial(MobileNet, _variant))
