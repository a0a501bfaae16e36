"""Blocks that EfficientNets and MobileNets are built of; their layers have timm's names."""

from typing import Any, NamedTuple

from flax import nnx

from jaxdistill.models.functional import Activation, global_mean, sigmoid, silu
from jaxdistill.models.layers import BatchNorm, Conv, ScaledConv, conv_norm
from jaxdistill.ops.padding import PaddingKind


class BlockSettings(NamedTuple):
    """Sizes and functions of a block."""

    inputs: int
    """Channels of the input."""
    inner: int
    """Channels inside a block that expands them."""
    outputs: int
    """Channels of the output."""
    size: int
    """Height and width of the kernel that is not 1x1."""
    stride: int
    """Stride of the convolution with that kernel."""
    activation: Activation
    """The activation function."""
    padding: PaddingKind
    """Padding of the convolutions."""
    eps: float
    """Added to the variance in BatchNorm."""
    reduced: int = 0
    """Channels of the squeeze-and-excitation's hidden layer; 0: there is none."""
    squeeze_activation: Activation = silu
    """The activation function of that layer."""
    gate: Activation = sigmoid
    """The function that makes the factors of squeeze-and-excitation."""

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output: their shapes agree."""
        return self.stride == 1 and self.inputs == self.outputs


def round_channels(channels: float) -> int:
    """Returns a multiple of 8 near a number of channels, and at least 90 % of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class DepthwiseSeparable(nnx.Module):
    """Depthwise, squeeze-and-excitation, pointwise.

    Args:
      s: Sizes and functions; `inner` is not used.
      rngs: Source of the initial values.
    """

    def __init__(self, s: BlockSettings, *, rngs: nnx.Rngs) -> None:
        self.activation, self.residual = s.activation, s.residual
        self.conv_dw = depthwise(s, s.inputs, s.size, s.stride, rngs=rngs)
        self.bn1 = BatchNorm(s.inputs, eps=s.eps)
        self.se = _squeeze_excite(s, s.inputs, rngs)
        self.conv_pw = ScaledConv(s.inputs, s.outputs, 1, rngs=rngs)
        self.bn2 = BatchNorm(s.outputs, eps=s.eps)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the block, with a residual connection where the shapes agree."""
        y = self.activation(conv_norm(self.conv_dw, self.bn1, x, train=train))
        factor = None if self.se is None else self.se(y)
        y = conv_norm(self.conv_pw, self.bn2, y, factor, train=train)
        return x + y if self.residual else y


class InvertedResidual(nnx.Module):
    """Pointwise expansion, depthwise, squeeze-and-excitation, pointwise projection.

    Args:
      s: Sizes and functions.
      rngs: Source of the initial values.
    """

    def __init__(self, s: BlockSettings, *, rngs: nnx.Rngs) -> None:
        self.activation, self.residual = s.activation, s.residual
        self.conv_pw = Conv(s.inputs, s.inner, 1, rngs=rngs)
        self.bn1 = BatchNorm(s.inner, eps=s.eps)
        self.conv_dw = depthwise(s, s.inner, s.size, s.stride, rngs=rngs)
        self.bn2 = BatchNorm(s.inner, eps=s.eps)
        self.se = _squeeze_excite(s, s.inner, rngs)
        self.conv_pwl = ScaledConv(s.inner, s.outputs, 1, rngs=rngs)
        self.bn3 = BatchNorm(s.outputs, eps=s.eps)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the block, with a residual connection where the shapes agree."""
        y = self.activation(conv_norm(self.conv_pw, self.bn1, x, train=train))
        y = self.activation(conv_norm(self.conv_dw, self.bn2, y, train=train))
        factor = None if self.se is None else self.se(y)
        y = conv_norm(self.conv_pwl, self.bn3, y, factor, train=train)
        return x + y if self.residual else y


class SqueezeExcite(nnx.Module):
    """Computes a factor in (0, 1) of each channel from all channels' means.

    Hu et al. 2018, arXiv:1709.01507.

    Args:
      channels: Channels of the map.
      reduced: Channels of the hidden layer.
      activation: The activation function of the hidden layer.
      gate: The function that makes the factors.
      rngs: Source of the initial values.
    """

    def __init__(
        self,
        channels: int,
        reduced: int,
        *,
        activation: Activation,
        gate: Activation,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation, self.gate = activation, gate
        self.conv_reduce = Conv(channels, reduced, 1, bias=True, rngs=rngs)
        self.conv_expand = Conv(reduced, channels, 1, bias=True, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Computes the factors by which the channels of a map are to be multiplied."""
        return self.gate(self.conv_expand(self.activation(self.conv_reduce(global_mean(x)))))


def depthwise(s: BlockSettings, channels: int, size: int, stride: int, *, rngs: nnx.Rngs) -> Conv:
    """Returns a depthwise convolution with a block's padding.

    Args:
      s: The block's settings.
      channels: Channels of input and output.
      size: Height and width of the kernel.
      stride: Step between output positions.
      rngs: Source of the initial values.
    """
    return Conv(
        channels, channels, size, stride=stride, padding=s.padding, groups=channels, rngs=rngs
    )


def _squeeze_excite(s: BlockSettings, channels: int, rngs: nnx.Rngs) -> SqueezeExcite | None:
    if not s.reduced:
        return None
    return SqueezeExcite(
        channels, s.reduced, activation=s.squeeze_activation, gate=s.gate, rngs=rngs
    )
