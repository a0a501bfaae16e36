"""Cross-entropy whose pixels near an outline count more. Formulas: docs/losses.md."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid
from jaxtyping import Array, Float

from jaxdistill.losses.base import Loss, LossInputs, PerImage, mean_over_map
from jaxdistill.losses.registry import LOSSES
from jaxdistill.losses.segmentation import cross_entropy

Map = Float[Array, "b h w 1"]


def morphological_gradient(target: Map, radius: int) -> Map:
    """Returns dilation minus erosion by a square of 2 * radius + 1 pixels.

    It is how much the target changes around each pixel: 1 on a band around a mask's outline. The
    edge of the image is no outline.

    Args:
      target: Mask or probabilities, in [0, 1].
      radius: Width of the band to either side of an outline, in pixels, by Chebyshev distance.

    Returns:
      The gradient, in [0, 1]: 0 or 1 for a mask.
    """
    dilated, eroded = target, target
    # A square window, as two windows of one axis each. What is padded is the neutral element.
    for window in ((1, 2 * radius + 1, 1, 1), (1, 1, 2 * radius + 1, 1)):
        dilated = lax.reduce_window(dilated, -jnp.inf, lax.max, window, (1,) * 4, "SAME")
        eroded = lax.reduce_window(eroded, jnp.inf, lax.min, window, (1,) * 4, "SAME")
    return dilated - eroded


def boundary_bce(logits: Map, target: Map, radius: int = 5, factor: float = 5.0) -> PerImage:
    """Computes the cross-entropy as a mean of pixels, of which those near an outline weigh more.

    The weight of a pixel is 1 + factor * morphological_gradient(target, radius), divided by the sum
    over the image. Weights that are larger near outlines are those of U-Net (Ronneberger et al.
    2015, arXiv:1505.04597, equation 2) and F3Net (Wei et al. 2020, arXiv:1911.11445, equations 8
    and 9, `factor` 5, also divided by the sum); a band of constant weight is simpler.

    Args:
      logits: The student's mask logits (B, H, W, 1).
      target: Mask or probabilities in [0, 1] (B, H, W, 1).
      radius: See `morphological_gradient`.
      factor: Additional weight of the pixels on an outline's band; 0 computes `segmentation.bce`.

    Returns:
      The loss of each image (B,).
    """
    entropy = cross_entropy(logits, target)
    weights = 1 + factor * morphological_gradient(target, radius)
    return mean_over_map(weights * entropy) / mean_over_map(weights)


@dataclass(frozen=True)
class _Weighted(Loss):
    """What both losses have in common.

    Args:
      radius: See `morphological_gradient`.
      factor: See `boundary_bce`.
    """

    radius: int = 5
    factor: float = 5.0


@LOSSES.register("boundary")
@dataclass(frozen=True)
class Boundary(_Weighted):
    """Cross-entropy with the ground-truth mask, weighted near its outlines; see `boundary_bce`."""

    requires = frozenset({"mask"})

    def __call__(self, inputs: LossInputs) -> PerImage:
        """Computes the loss of each image."""
        return boundary_bce(inputs.outputs.logits, inputs.batch.masks, self.radius, self.factor)


@LOSSES.register("teacher_boundary")
@dataclass(frozen=True)
class TeacherBoundary(_Weighted):
    """Cross-entropy with the teacher's probabilities, weighted near their outlines.

    It needs no mask, and is computed for all images; see `boundary_bce`.
    """

    requires = frozenset({"teacher_logits"})

    def __call__(self, inputs: LossInputs) -> PerImage:
        """Computes the loss of each image."""
        assert inputs.teacher.logits is not None
        target = sigmoid(inputs.teacher.logits)
        return boundary_bce(inputs.outputs.logits, target, self.radius, self.factor)
