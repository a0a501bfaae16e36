"""EfficientNet encoders (Tan and Le 2019, arXiv:1905.11946), in three variants.

`timm-efficientnet-b0` ... `-b3` are segmentation_models_pytorch's: symmetric padding, eps 1e-5.
`tf_efficientnet_b0` ... `_b3` and `tf_efficientnet_lite0` are timm's ports from TensorFlow: SAME
padding, eps 1e-3. The lite one has no squeeze-and-excitation and a ReLU6.
"""

import math
from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.layers import (
    Activation,
    BatchNorm,
    Conv,
    PaddingKind,
    conv_norm,
    relu6,
    silu,
)
from jaxdistill.runtime.errors import UserError


class Variant(NamedTuple):
    """What distinguishes one encoder of the family from another."""

    width: float = 1.0
    depth: float = 1.0
    padding: PaddingKind = "symmetric"
    eps: float = 1e-5
    squeeze: bool = True
    activation: Activation = silu

    @property
    def stages(self) -> list["Stage"]:
        return [
            Stage(
                math.ceil(s.blocks * self.depth),
                s.size,
                s.stride,
                s.expansion,
                self.round(s.channels),
            )
            for s in _STAGES
        ]

    def round(self, channels: int) -> int:
        """The scaling rule: a multiple of 8 that loses at most a tenth."""
        scaled = channels * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded


class Stage(NamedTuple):
    blocks: int
    size: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
TAPPED_STAGES = (1, 2, 4, 6)  # the last ones at strides 4, 8, 16, 32
_SCALES = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4)}

VARIANTS = {
    **{f"timm-efficientnet-{n}": Variant(*scale) for n, scale in _SCALES.items()},
    **{f"tf_efficientnet_{n}": Variant(*scale, "same", 1e-3) for n, scale in _SCALES.items()},
    "tf_efficientnet_lite0": Variant(1.0, 1.0, "same", 1e-3, False, relu6),
}


def variant(name: str) -> Variant:
    """The encoder of that name; a `UserError` lists the names there are."""
    if name not in VARIANTS:
        raise UserError(f"student.encoder: no encoder {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]


class EfficientNet(nnx.Module):
    """Pictures to five feature maps at strides 2, 4, 8, 16, 32.

    The head (`conv_head`, `bn2`) belongs to the ImageNet classifier; segmentation leaves it idle,
    and it is kept so that weights travel whole.
    """

    def __init__(self, variant: Variant, *, rngs: nnx.Rngs) -> None:
        v = self.variant = variant
        stem = v.round(32)
        self.conv_stem = Conv(3, stem, 3, stride=2, padding=v.padding, rngs=rngs)
        self.bn1 = BatchNorm(stem, eps=v.eps)
        stages, channels, taps = [], stem, [stem]
        for index, stage in enumerate(v.stages):
            blocks = []
            for position in range(stage.blocks):
                stride = stage.stride if position == 0 else 1
                block = DepthwiseSeparable if stage.expansion == 1 else InvertedResidual
                blocks.append(block(v, stage, channels, stride, rngs=rngs))
                channels = stage.channels
            stages.append(nnx.List(blocks))
            if index in TAPPED_STAGES:
                taps.append(channels)
        self.blocks = nnx.List(stages)
        self.channels = tuple(taps)
        features = v.round(1280)
        self.conv_head = Conv(channels, features, 1, rngs=rngs)
        self.bn2 = BatchNorm(features, eps=v.eps)

    def __call__(
        self, x: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Normalised pictures to the taps, finest first."""
        act = self.variant.activation
        x = act(conv_norm(self.conv_stem, self.bn1, x, train=train))
        taps = [x]
        for index, stage in enumerate(self.blocks):
            for block in stage:
                x = block(x, train=train)
            if index in TAPPED_STAGES:
                taps.append(x)
        return tuple(taps)

    def embed(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b c"]:
        """The pooled features that an ImageNet classifier's last layer reads."""
        deepest = self(x, train=False)[-1]
        act = self.variant.activation
        return act(conv_norm(self.conv_head, self.bn2, deepest, train=False)).mean((1, 2))


class SqueezeExcite(nnx.Module):
    def __init__(self, channels: int, reduced: int, *, rngs: nnx.Rngs) -> None:
        self.conv_reduce = Conv(channels, reduced, 1, bias=True, rngs=rngs)
        self.conv_expand = Conv(reduced, channels, 1, bias=True, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        pooled = x.mean((1, 2), keepdims=True)
        return x * jax.nn.sigmoid(self.conv_expand(silu(self.conv_reduce(pooled))))


class DepthwiseSeparable(nnx.Module):
    """The first stage's block: depthwise, squeeze-and-excitation, pointwise."""

    def __init__(
        self, v: Variant, stage: Stage, inputs: int, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        self.activation = v.activation
        self.residual = stride == 1 and inputs == stage.channels
        self.conv_dw = Conv(
            inputs, inputs, stage.size, stride=stride, padding=v.padding, groups=inputs, rngs=rngs
        )
        self.bn1 = BatchNorm(inputs, eps=v.eps)
        self.se = SqueezeExcite(inputs, inputs // 4, rngs=rngs) if v.squeeze else None
        self.conv_pw = Conv(inputs, stage.channels, 1, rngs=rngs)
        self.bn2 = BatchNorm(stage.channels, eps=v.eps)

    def __call__(self, x: Array, *, train: bool) -> Array:
        y = self.activation(conv_norm(self.conv_dw, self.bn1, x, train=train))
        y = y if self.se is None else self.se(y)
        y = conv_norm(self.conv_pw, self.bn2, y, train=train)
        return x + y if self.residual else y


class InvertedResidual(nnx.Module):
    """Pointwise expansion, depthwise, squeeze-and-excitation, pointwise projection."""

    def __init__(
        self, v: Variant, stage: Stage, inputs: int, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        self.activation = v.activation
        self.residual = stride == 1 and inputs == stage.channels
        inner = inputs * stage.expansion
        self.conv_pw = Conv(inputs, inner, 1, rngs=rngs)
        self.bn1 = BatchNorm(inner, eps=v.eps)
        self.conv_dw = Conv(
            inner, inner, stage.size, stride=stride, padding=v.padding, groups=inner, rngs=rngs
        )
        self.bn2 = BatchNorm(inner, eps=v.eps)
        self.se = SqueezeExcite(inner, inputs // 4, rngs=rngs) if v.squeeze else None
        self.conv_pwl = Conv(inner, stage.channels, 1, rngs=rngs)
        self.bn3 = BatchNorm(stage.channels, eps=v.eps)

    def __call__(self, x: Array, *, train: bool) -> Array:
        y = self.activation(conv_norm(self.conv_pw, self.bn1, x, train=train))
        y = self.activation(conv_norm(self.conv_dw, self.bn2, y, train=train))
        y = y if self.se is None else self.se(y)
        y = conv_norm(self.conv_pwl, self.bn3, y, train=train)
        return x + y if self.residual else y
