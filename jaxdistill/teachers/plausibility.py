"""Whether a teacher's masks look as they are described, judged by a few images."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from jaxdistill.data import image_ops
from jaxdistill.data.dataset import Dataset
from jaxdistill.teachers import base
from jaxdistill.teachers.base import Teacher
from jaxdistill.teachers.network_format import MaskOutput
from jaxdistill.teachers.onnx_teacher import Onnx

IMAGES = 8
"""Number of images that are looked at."""
_MARGIN = 0.01  # by which float16 and resizing may leave [0, 1]
_FEW = 1e-3  # of the pixels: a mask with fewer is empty
_NEARLY_ALL = 0.85  # of the images


def first_images(
    dataset: Dataset, size: tuple[int, int], count: int = IMAGES
) -> UInt8[np.ndarray, "n {*size} 3"]:
    """Returns the first images of a split, those with masks first: they show people.

    Args:
      dataset: The split.
      size: Height and width that they are resized to.
      count: The largest number of images.
    """
    chosen = np.argsort(~dataset.labelled, kind="stable")[:count]
    return np.stack([image_ops.resize_image(dataset[int(i)].image, size) for i in chosen])


def doubts(teacher: Teacher | None, images: UInt8[np.ndarray, "n h w 3"]) -> Iterator[str]:
    """Yields a warning for everything about a teacher's masks that is probably a mistake.

    Args:
      teacher: Any teacher; one without a mask is not doubted.
      images: A few images, most of which show people.
    """
    masks = base.restrict(teacher, features=False)
    if masks is None or not len(images):
        return
    if members := getattr(masks, "members", ()):
        for member in members:
            yield from doubts(member, images)
        return
    if isinstance(masks, Onnx):
        assert masks.mask is not None
        values, mask = masks.stored_mask(images), masks.mask
    else:
        logits = masks(jnp.asarray(images.astype(np.float32) / 255)).logits
        if logits is None:
            return
        values, mask = np.asarray(logits), MaskOutput("logits")
    low, high = float(values.min()), float(values.max())
    if mask.kind in ("logits", "softmax_logits") and low >= 0 and high <= 1:
        yield (
            f"warning: teacher.output: {mask.kind}, but all values of the mask lie in [0, 1] on "
            f"{len(images)} images: set teacher.output=probabilities if they are probabilities"
        )
        return
    if mask.kind == "probabilities" and (low < -_MARGIN or high > 1 + _MARGIN):
        yield (
            f"warning: teacher.output: probabilities, but the mask has values from {low:.3g} to "
            f"{high:.3g}: set teacher.output=logits if they are logits"
        )
        return
    yield from _one_sided(mask.is_person(values))


def _one_sided(masks: Bool[np.ndarray, "n h w 1"]) -> Iterator[str]:
    shares = masks.mean((1, 2, 3))
    for what, found in (("empty", shares < _FEW), ("full", shares > 1 - _FEW)):
        if found.mean() > _NEARLY_ALL and len(shares) > 1:
            yield (
                f"warning: the teacher's masks are {what} on {int(found.sum())} of {len(shares)} "
                f"images: check teacher.normalization, teacher.output, teacher.channel and "
                f"teacher.tensor, and that the images show people"
            )
