"""Segmentation metrics, as one value per image.

All functions compare boolean masks of shape (B, H, W, 1), in which True is a person, and return an
array of shape (B,). Where the denominator of a ratio is zero, the value is 1 if both masks are
empty, since they are equal then, and 0 if only one of them is.
"""

import math

import cv2
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Mask = Bool[Array, "b h w 1"]
PerImage = Float[Array, " b"]

BOUNDARY_SHARE = 0.02
"""Width of a mask's boundary as a share of the image diagonal (Cheng et al. 2021)."""
_AXES = (1, 2, 3)


def predict(logits: Float[Array, "b h w 1"]) -> Mask:
    """Returns the masks of logits: a person where the probability is above one half.

    Args:
      logits: Mask logits.
    """
    return logits > 0


def iou(prediction: Mask, mask: Mask) -> PerImage:
    """Returns the intersection over union of the persons.

    Args:
      prediction: Predicted masks.
      mask: Reference masks.
    """
    intersection = (prediction & mask).sum(_AXES)
    union = (prediction | mask).sum(_AXES)
    return jnp.where(union == 0, 1.0, intersection / jnp.maximum(union, 1))


def mean_iou(prediction: Mask, mask: Mask) -> PerImage:
    """Returns the mean of the IoU of the background and the IoU of the persons (mIoU).

    Args:
      prediction: Predicted masks.
      mask: Reference masks.
    """
    return (iou(prediction, mask) + iou(~prediction, ~mask)) / 2


def agreement(prediction: Mask, other: Mask) -> PerImage:
    """Returns the share of pixels on which two predictions are equal.

    Args:
      prediction: Masks of one model.
      other: Masks of another model.
    """
    return (prediction == other).mean(_AXES)


def dice(prediction: Mask, mask: Mask) -> PerImage:
    """Returns the Dice coefficient, twice the intersection over the sum of both areas.

    It equals the F1 score of the pixels.

    Args:
      prediction: Predicted masks.
      mask: Reference masks.
    """
    intersection = (prediction & mask).sum(_AXES)
    areas = prediction.sum(_AXES) + mask.sum(_AXES)
    return jnp.where(areas == 0, 1.0, 2 * intersection / jnp.maximum(areas, 1))


def precision(prediction: Mask, mask: Mask) -> PerImage:
    """Returns the share of the predicted pixels that are a person.

    Args:
      prediction: Predicted masks.
      mask: Reference masks.
    """
    hits, predicted = (prediction & mask).sum(_AXES), prediction.sum(_AXES)
    both_empty = ~(prediction | mask).any(_AXES)
    return jnp.where(both_empty, 1.0, hits / jnp.maximum(predicted, 1))


def recall(prediction: Mask, mask: Mask) -> PerImage:
    """Returns the share of the persons' pixels that are predicted.

    Args:
      prediction: Predicted masks.
      mask: Reference masks.
    """
    return precision(mask, prediction)


def boundary_iou(prediction: Mask, mask: Mask) -> PerImage:
    """Returns the IoU of the boundaries of both masks.

    It detects wrong outlines of large persons, to which `iou` is insensitive. Source: Cheng et al.,
    "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021.

    Args:
      prediction: Predicted masks.
      mask: Reference masks.
    """
    return iou(boundary(prediction), boundary(mask))


def boundary(mask: Mask) -> Mask:
    """Returns the pixels of a mask that are near its edge or near the edge of the image.

    A pixel is near if a pixel outside of the mask is within `BOUNDARY_SHARE` of the image diagonal
    (at least one pixel), in Chebyshev distance.

    Args:
      mask: Masks. Those in NumPy stay on the host, where nothing is compiled for each size.
    """
    _, height, width, _ = mask.shape
    distance = max(1, round(BOUNDARY_SHARE * math.hypot(height, width)))
    if isinstance(mask, np.ndarray):
        square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
        inner = [
            cv2.erode(one.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
            for one in mask[..., 0]
        ]
        return mask & (np.stack(inner)[..., None] == 0)
    edges = [(0, 0), (distance, distance), (distance, distance), (0, 0)]
    outside = jnp.pad(~mask, edges, constant_values=True)
    # A square window, as two windows of one axis each.
    for window in ((1, 2 * distance + 1, 1, 1), (1, 1, 2 * distance + 1, 1)):
        outside = lax.reduce_window(outside, False, lax.bitwise_or, window, (1, 1, 1, 1), "VALID")
    return mask & outside


def areas(prediction: Mask, mask: Mask) -> Int[Array, "b 2 2"]:
    """Returns the areas from which `pooled_iou` is computed.

    Args:
      prediction: Predicted masks.
      mask: Reference masks.

    Returns:
      Pixel counts, indexed by image, class (background, person) and (intersection, union).
    """
    pairs = [(~prediction, ~mask), (prediction, mask)]
    counted = [jnp.stack([(a & b).sum(_AXES), (a | b).sum(_AXES)], -1) for a, b in pairs]
    return jnp.stack(counted, 1)


def pooled_iou(areas: Int[np.ndarray, "n 2 2"]) -> Float[np.ndarray, " 2"]:
    """Returns the IoU of background and persons over all pixels of a dataset.

    It is computed on the host in 64 bits: a dataset has more pixels than 32 bits can count.

    Args:
      areas: The `areas` of every image.

    Returns:
      The IoU of the background and of the persons.
    """
    intersection, union = areas.sum(0, dtype=np.int64).T
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))
