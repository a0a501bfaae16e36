"""Losses between the student's and the teacher's logits. Formulas: docs/losses.md."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, Float

from jaxdistill import config
from jaxdistill.losses.base import (
    Loss,
    LossInputs,
    PerImage,
    Scalars,
    log1p_exp_negative_abs,
    mean_over_map,
)
from jaxdistill.losses.registry import LOSSES
from jaxdistill.losses.temperature import temperature_at

Map = Float[Array, "b h w 1"]
KLScale = Literal["none", "t", "t2"]


def kl(student: Map, teacher: Map, temperature: float | Array, scale: KLScale = "t") -> PerImage:
    """Computes KL(teacher || student) between Bernoulli distributions, averaged over the pixels.

    With p = sigmoid(teacher / T) and q = sigmoid(student / T) it is p log(p/q) + (1-p)
    log((1-p)/(1-q)). It is exact for any logits: where the teacher's logit is negative the two
    outcomes are exchanged, so that no large numbers are subtracted from each other.

    Args:
      student: The student's mask logits (B, H, W, 1).
      teacher: The teacher's mask logits (B, H, W, 1).
      temperature: T, above 0.
      scale: Factor of the mean: 1 (`none`), T (`t`, the reference pipeline), or T squared (`t2`,
        Hinton et al. 2015, arXiv:1503.02531, whose gradient does not fade with T).

    Returns:
      The loss of each image (B,).
    """
    t = jnp.abs(teacher) / temperature
    s = jnp.where(teacher < 0, -student, student) / temperature
    # p log(p/q) + (1-p) log((1-p)/(1-q)), with 1-p = sigmoid(-t) and log q = -softplus(-s)
    divergence = (
        sigmoid(-t) * (s - t)
        + jnp.maximum(-s, 0)
        + log1p_exp_negative_abs(s)
        - log1p_exp_negative_abs(t)
    )
    return mean_over_map(divergence) * temperature ** {"none": 0, "t": 1, "t2": 2}[scale]


def mse(a: Float[Array, "b *_"], b: Float[Array, "b *_"]) -> PerImage:
    """Computes the mean squared difference of each image's values.

    Args:
      a: Any maps (B, ...).
      b: Maps of the same shape.

    Returns:
      The loss of each image (B,).
    """
    return jnp.square(a - b).mean(tuple(range(1, a.ndim)))


@LOSSES.register("kl")
@dataclass(frozen=True)
class KL(Loss):
    """Divergence of the student's from the teacher's mask probabilities; see `kl`.

    Args:
      temperature: A number, or a `config.Temperature` that changes over the epochs.
      scale: See `kl`.
    """

    requires = frozenset({"teacher_logits"})
    temperature: float | config.Temperature = 3.0
    scale: KLScale = "t"

    def __call__(self, inputs: LossInputs) -> PerImage:
        """Computes the loss of each image."""
        assert inputs.teacher.logits is not None
        temperature = temperature_at(self.temperature, inputs.epoch, inputs.epochs)
        return kl(inputs.outputs.logits, inputs.teacher.logits, temperature, self.scale)

    def logged(self, *, epoch: int | Array, epochs: int) -> Scalars:
        """Returns the temperature."""
        return {"temperature": temperature_at(self.temperature, epoch, epochs)}


@LOSSES.register("mse")
@dataclass(frozen=True)
class MSE(Loss):
    """Mean squared difference between the student's and the teacher's logits; see `mse`."""

    requires = frozenset({"teacher_logits"})

    def __call__(self, inputs: LossInputs) -> PerImage:
        """Computes the loss of each image."""
        assert inputs.teacher.logits is not None
        return mse(inputs.outputs.logits, inputs.teacher.logits)
