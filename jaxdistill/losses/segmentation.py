"""Losses between the student's logits and the ground-truth mask. Formulas: docs/losses.md."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, Float

from jaxdistill.losses.base import Loss, LossInputs, PerImage, log1p_exp_negative_abs, mean_over_map
from jaxdistill.losses.registry import LOSSES

Map = Float[Array, "b h w 1"]


def cross_entropy(logits: Map, target: Map) -> Map:
    """Computes the binary cross-entropy of each pixel.

    Args:
      logits: The student's mask logits (B, H, W, 1).
      target: Mask or probabilities in [0, 1] (B, H, W, 1).
    """
    return jnp.maximum(logits, 0) - target * logits + log1p_exp_negative_abs(logits)


def bce(logits: Map, mask: Map) -> PerImage:
    """Computes the binary cross-entropy with the mask, averaged over the pixels of each image.

    Args:
      logits: The student's mask logits (B, H, W, 1).
      mask: Ground truth in {0, 1} (B, H, W, 1).

    Returns:
      The loss of each image (B,).
    """
    return mean_over_map(cross_entropy(logits, mask))


def dice(logits: Map, mask: Map, smooth: float = 1e-5) -> PerImage:
    """Computes one minus the soft Dice coefficient of each image.

    Args:
      logits: The student's mask logits (B, H, W, 1).
      mask: Ground truth in {0, 1} (B, H, W, 1).
      smooth: Added to numerator and denominator; the loss is 0 where both are empty.

    Returns:
      The loss of each image (B,).
    """
    p = sigmoid(logits)
    axes = (1, 2, 3)
    overlap = (p * mask).sum(axes)
    return 1 - (2 * overlap + smooth) / (p.sum(axes) + mask.sum(axes) + smooth)


@LOSSES.register("bce")
@dataclass(frozen=True)
class BCE(Loss):
    """Binary cross-entropy with the ground-truth mask; see `bce`."""

    requires = frozenset({"mask"})

    def __call__(self, inputs: LossInputs) -> PerImage:
        """Computes the loss of each image."""
        return bce(inputs.outputs.logits, inputs.batch.masks)


@LOSSES.register("dice")
@dataclass(frozen=True)
class Dice(Loss):
    """Soft Dice loss with the ground-truth mask; see `dice`.

    Args:
      smooth: See `dice`.
    """

    requires = frozenset({"mask"})
    smooth: float = 1e-5

    def __call__(self, inputs: LossInputs) -> PerImage:
        """Computes the loss of each image."""
        return dice(inputs.outputs.logits, inputs.batch.masks, self.smooth)
