"""Losses and metrics over images: sums that leave padding and unlabelled images out, and means."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from jaxdistill.losses.base import Loss, PerImage
from jaxdistill.types import Batch

OF_MASKS = frozenset({"student_miou", "student_iou", "student_boundary_iou", "teacher_miou"})
"""Metrics that are measured on labelled images only."""


class Sum(NamedTuple):
    """A metric summed over images; the mean is `total / images`."""

    total: Float[Array, ""]
    images: Float[Array, ""]
    """Number of images that the metric is defined on."""


class ImageCounts(NamedTuple):
    """How many images values are defined on, for each image (B,) or for a batch."""

    all: Float[Array, "*b"]
    """Number of images, without padding."""
    labelled: Float[Array, "*b"]
    """Number of images with a ground-truth mask."""

    @classmethod
    def of_each(cls, batch: Batch) -> "ImageCounts":
        """Returns 0 or 1 for each image of a batch."""
        return cls(batch.weights, batch.labelled)

    def of_value(self, name: str, losses: Mapping[str, Loss]) -> Float[Array, "*b"]:
        """Returns the counts for a value, which is defined on labelled images only or on all.

        Args:
          name: See `requires_mask`.
          losses: The terms by name.
        """
        return self.labelled if requires_mask(name, losses) else self.all


def sum_over_images(
    values: Mapping[str, PerImage], losses: Mapping[str, Loss], batch: Batch
) -> dict[str, Sum]:
    """Sums values over the images that they are defined on.

    Args:
      values: A value of each image (B,), by name of the loss or metric.
      losses: The terms by name; they say which need a mask.
      batch: Says which images are padding, and which have a mask.
    """
    counts = ImageCounts.of_each(batch)
    counted = {name: counts.of_value(name, losses) for name in values}
    return {name: Sum((values[name] * n).sum(), n.sum()) for name, n in counted.items()}


def mean_metrics(batches: Iterable[Mapping[str, Sum]]) -> dict[str, float]:
    """Returns the mean of every metric over all images of some batches.

    Args:
      batches: What `eval_step` summed, batch by batch.

    Returns:
      The means; a metric that is defined on no image is left out.
    """
    totals: dict[str, float] = defaultdict(float)
    images: dict[str, float] = defaultdict(float)
    for sums in batches:
        for name, one in sums.items():
            totals[name] += float(one.total)
            images[name] += float(one.images)
    return {name: total / images[name] for name, total in totals.items() if images[name] > 0}


def first_nonfinite(losses: Mapping[str, Loss], scalars: Mapping[str, float]) -> str | None:
    """Returns the name of the first scalar that is not finite, causes before their sums.

    Args:
      losses: The terms by name.
      scalars: What a training step returned.
    """
    parts = [name for name in scalars if name.partition(".")[0] in losses and "." in name]
    names = (*parts, *losses, "total", "gradient_norm")
    return next((name for name in names if not math.isfinite(scalars.get(name, 0.0))), None)


def averaged_over_masks(losses: Mapping[str, Loss], names: Iterable[str]) -> set[str]:
    """Returns the names of the scalars that are means over labelled images only.

    Args:
      losses: The terms by name.
      names: Names of scalars.
    """
    return {name for name in names if requires_mask(name, losses)}


def requires_mask(name: str, losses: Mapping[str, Loss]) -> bool:
    """Returns whether a value is defined on images with a ground-truth mask only.

    Args:
      name: Name of a loss, of a part of one such as `feature.0`, or of a metric.
      losses: The terms by name.
    """
    loss = losses.get(name.partition(".")[0])
    return name in OF_MASKS if loss is None else "mask" in loss.requires


def to_host(metrics: Mapping[str, Array]) -> dict[str, float]:
    """Fetches scalars from the device.

    Args:
      metrics: Scalars by name.
    """
    return {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
