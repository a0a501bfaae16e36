"""What a feature pair trains next to the student and leaves behind: all of it is `projectors`."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxdistill.models.layers import BatchNorm, Conv, relu


class Projector(nnx.Module):
    """conv1x1-BN-ReLU-conv1x1, or a single conv1x1.

    What else a pair may need stands beside it: `generator` restores what was masked, `standard`
    holds the target's statistics, `balance` the logit of the pair's learned weight.
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
        self.standard = Standard(outputs) if standardized else None
        self.balance = nnx.Param(jnp.zeros(())) if balanced else None

    def __call__(
        self, x: Float[Array, "b h w i"], *, train: bool, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b h w o"]:
        if self.hidden is not None and self.norm is not None:
            x = self.norm(self.hidden(x), train=train, rectify=True)
        x = self.output(x)
        return x if self.generator is None else self.generator(x, key)


class Generator(nnx.Module):
    """Masks a map at random positions, all channels at once, and restores it: conv3x3-ReLU-conv3x3.

    Masked generative distillation (Yang et al. 2022, arXiv:2205.01529, equations 2 to 4). Each
    position is masked with probability `masked_share`.
    """

    def __init__(self, channels: int, masked_share: float, *, rngs: nnx.Rngs) -> None:
        self.masked_share = masked_share
        self.conv1 = Conv(channels, channels, 3, bias=True, rngs=rngs)
        self.conv2 = Conv(channels, channels, 3, bias=True, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], key: Key[Array, ""] | None
    ) -> Float[Array, "b h w c"]:
        """`key` draws the mask; None masks nothing."""
        if key is not None:
            kept = jax.random.bernoulli(key, 1 - self.masked_share, (*x.shape[:3], 1))
            x = x * kept.astype(x.dtype)
        return self.conv2(relu(self.conv1(x)))


class Standard(nnx.Module):
    """A target's channels: their mean, and the factor that makes their deviation 1.

    Measured once and then kept in every checkpoint, with the running statistics. A channel that
    never changes has the factor 0.
    """

    def __init__(self, channels: int) -> None:
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.factor = nnx.BatchStat(jnp.ones(channels))
