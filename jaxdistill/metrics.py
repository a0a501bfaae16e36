"""Agreement of masks, as one value per picture: shapes (B, H, W, 1) to (B,)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Mask = Bool[Array, "b h w 1"]
PerPicture = Float[Array, " b"]


def predict(logits: Float[Array, "b h w 1"]) -> Mask:
    """Person where the probability is above one half."""
    return logits > 0


def iou(prediction: Mask, mask: Mask) -> PerPicture:
    """Intersection over union; 1 where both are empty, for then they are equal."""
    axes = (1, 2, 3)
    intersection = (prediction & mask).sum(axes)
    union = (prediction | mask).sum(axes)
    return jnp.where(union == 0, 1.0, intersection / jnp.maximum(union, 1))


def mean_iou(prediction: Mask, mask: Mask) -> PerPicture:
    """The mean of background's and person's IoU."""
    return (iou(prediction, mask) + iou(~prediction, ~mask)) / 2


def agreement(one: Mask, other: Mask) -> PerPicture:
    """Share of the pixels on which two predictions are equal."""
    return (one == other).mean((1, 2, 3))
