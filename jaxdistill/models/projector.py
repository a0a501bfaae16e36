"""Projectors: modules that a feature pair needs for training only, below `projectors`."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxdistill.models.functional import relu
from jaxdistill.models.layers import BatchNorm, Conv, batch_conv_norm, constant


class Projector(nnx.Module):
    """Projects a tap to the channels of a target: conv1x1-BN-ReLU-conv1x1, or one conv1x1.

    Other parts of a feature pair belong to it too: `generator` restores masked positions,
    `statistics` holds the mean and factor that standardise the target, `balance` is the logit of
    the pair's learned weight. Each is None where the pair does not need it.

    Args:
      inputs: Channels of the tap.
      outputs: Channels of the target.
      hidden: Channels of the hidden layer; None: a single convolution.
      masked_share: Share of positions that the generator restores, in [0, 1); None: no generator.
      standardized: Whether the target is standardised.
      balanced: Whether the pair's weight is learned.
      rngs: Source of the initial values.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int | None,
        *,
        masked_share: float | None = None,
        standardized: bool = False,
        balanced: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.hidden = Conv(inputs, hidden, 1, bias=True, rngs=rngs) if hidden else None
        self.norm = BatchNorm(hidden) if hidden else None
        self.output = Conv(hidden or inputs, outputs, 1, bias=True, rngs=rngs)
        self.generator = (
            None if masked_share is None else Generator(outputs, masked_share, rngs=rngs)
        )
        self.statistics = TargetStatistics(outputs) if standardized else None
        self.balance = nnx.Param(constant(0)) if balanced else None

    def __call__(
        self, x: Float[Array, "b h w i"], *, train: bool, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b h w o"]:
        """Projects a tap.

        Args:
          x: The tap.
          train: Whether BatchNorm uses the statistics of the batch.
          key: Draws the positions that are masked; None masks nothing.

        Returns:
          The projected map.
        """
        if self.hidden is not None and self.norm is not None:
            if self.norm.uses_batch(train):
                x = batch_conv_norm(self.hidden, self.norm, x, rectify=True)
            else:
                x = self.norm(self.hidden(x), train=False, rectify=True)
        x = self.output(x)
        return x if self.generator is None else self.generator(x, key)


class Generator(nnx.Module):
    """Masks a map at random positions and restores it: conv3x3-ReLU-conv3x3.

    Masked generative distillation (Yang et al. 2022, arXiv:2205.01529, equations 2 to 4). A masked
    position is 0 in all channels.

    Args:
      channels: Channels of the map.
      masked_share: Probability with which a position is masked.
      rngs: Source of the initial values.
    """

    def __init__(self, channels: int, masked_share: float, *, rngs: nnx.Rngs) -> None:
        self.masked_share = masked_share
        self.conv1 = Conv(channels, channels, 3, bias=True, rngs=rngs)
        self.conv2 = Conv(channels, channels, 3, bias=True, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], key: Key[Array, ""] | None
    ) -> Float[Array, "b h w c"]:
        """Masks and restores a map.

        Args:
          x: The map.
          key: Draws the masked positions; None masks nothing.

        Returns:
          The restored map.
        """
        if key is not None:
            kept = jax.random.bernoulli(key, 1 - self.masked_share, (*x.shape[:3], 1))
            x = x * kept.astype(x.dtype)
        return self.conv2(relu(self.conv1(x)))


class TargetStatistics(nnx.Module):
    """Mean of each channel of a target, and the factor that makes its standard deviation 1.

    They are measured before the first step and saved in checkpoints with the running statistics.
    The factor of a channel that never changes is 0.

    Args:
      channels: Channels of the target.
    """

    def __init__(self, channels: int) -> None:
        self.mean = nnx.BatchStat(constant(0, channels))
        self.factor = nnx.BatchStat(constant(1, channels))
