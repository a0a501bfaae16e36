"""A convolution with BatchNorm and ReLU, which decoders are built of."""

from typing import Any

from flax import nnx

from jaxdistill.models.layers import BatchNorm, Conv, conv_norm


class ConvNorm(nnx.Module):
    """A convolution, BatchNorm, and a ReLU unless `rectify` is False.

    Args:
      inputs: Channels of the input.
      outputs: Channels of the output.
      size: Height and width of the kernel.
      groups: 1, or the number of channels (a depthwise convolution).
      rectify: Whether a ReLU follows.
      rngs: Source of the initial values.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 1,
        *,
        groups: int = 1,
        rectify: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        self.rectify = rectify
        self.conv = Conv(inputs, outputs, size, groups=groups, rngs=rngs)
        self.norm = BatchNorm(outputs)

    def __call__(self, x: Any, *, train: bool) -> Any:
        """Applies the layers."""
        return conv_norm(self.conv, self.norm, x, train=train, rectify=self.rectify)
