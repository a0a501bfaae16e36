"""Agreement of masks, as one value per picture: shapes (B, H, W, 1) to (B,).

A ratio whose denominator is empty is 1 where both masks are empty, for then they are equal, and 0
where only one of them is.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Mask = Bool[Array, "b h w 1"]
PerPicture = Float[Array, " b"]

BOUNDARY_SHARE = 0.02
"""Width of a mask's boundary, as a share of the picture's diagonal (Cheng et al. 2021)."""
_AXES = (1, 2, 3)


def predict(logits: Float[Array, "b h w 1"]) -> Mask:
    """Person where the probability is above one half."""
    return logits > 0


def iou(prediction: Mask, mask: Mask) -> PerPicture:
    """Intersection over union."""
    intersection = (prediction & mask).sum(_AXES)
    union = (prediction | mask).sum(_AXES)
    return jnp.where(union == 0, 1.0, intersection / jnp.maximum(union, 1))


def mean_iou(prediction: Mask, mask: Mask) -> PerPicture:
    """The mean of background's and person's IoU."""
    return (iou(prediction, mask) + iou(~prediction, ~mask)) / 2


def agreement(one: Mask, other: Mask) -> PerPicture:
    """Share of the pixels on which two predictions are equal."""
    return (one == other).mean(_AXES)


def dice(prediction: Mask, mask: Mask) -> PerPicture:
    """Twice the intersection over the sum of both areas: the F1 score of the pixels."""
    intersection = (prediction & mask).sum(_AXES)
    areas = prediction.sum(_AXES) + mask.sum(_AXES)
    return jnp.where(areas == 0, 1.0, 2 * intersection / jnp.maximum(areas, 1))


def precision(prediction: Mask, mask: Mask) -> PerPicture:
    """Share of what is predicted that is a person."""
    hits, predicted = (prediction & mask).sum(_AXES), prediction.sum(_AXES)
    both_empty = ~(prediction | mask).any(_AXES)
    return jnp.where(both_empty, 1.0, hits / jnp.maximum(predicted, 1))


def recall(prediction: Mask, mask: Mask) -> PerPicture:
    """Share of the person that is predicted."""
    return precision(mask, prediction)


def boundary_iou(prediction: Mask, mask: Mask) -> PerPicture:
    """IoU of the two masks' boundaries: what sees a wrong outline around a large person.

    Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, 2021.
    """
    return iou(boundary(prediction), boundary(mask))


def boundary(mask: Mask) -> Mask:
    """The pixels of a mask that lie near its edge, or near the picture's.

    Near is within `BOUNDARY_SHARE` of the diagonal, at least a pixel, across or diagonally.
    """
    _, height, width, _ = mask.shape
    reach = max(1, round(BOUNDARY_SHARE * math.hypot(height, width)))
    # A square window, in two passes of one axis each.
    outside = jnp.pad(~mask, [(0, 0), (reach, reach), (reach, reach), (0, 0)], constant_values=True)
    for window in ((1, 2 * reach + 1, 1, 1), (1, 1, 2 * reach + 1, 1)):
        outside = lax.reduce_window(outside, False, lax.bitwise_or, window, (1, 1, 1, 1), "VALID")
    return mask & outside


def areas(prediction: Mask, mask: Mask) -> Int[Array, "b 2 2"]:
    """Pixels in the (intersection, union) of (background, person)."""
    pairs = [(~prediction, ~mask), (prediction, mask)]
    counted = [jnp.stack([(a & b).sum(_AXES), (a | b).sum(_AXES)], -1) for a, b in pairs]
    return jnp.stack(counted, 1)


def pooled_iou(areas: Int[np.ndarray, "n 2 2"]) -> Float[np.ndarray, " 2"]:
    """Background's and person's IoU over all pixels of a data set, by its pictures' `areas`.

    On the host, in 64 bits: a data set has more pixels than 32 bits can count.
    """
    intersection, union = areas.sum(0, dtype=np.int64).T
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))
