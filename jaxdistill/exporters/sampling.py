"""Images to measure and calibrate exported models on."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxdistill.config import MaskResize, Size
from jaxdistill.data import image_ops
from jaxdistill.data.dataset import Dataset


class Sample(NamedTuple):
    """Images of one size, and their masks."""

    images: UInt8[np.ndarray, "n h w 3"]
    """RGB."""
    masks: UInt8[np.ndarray, "n h w 1"] | None
    """1 is a person, 0 is not; None where an image has no mask."""


def sample(dataset: Dataset, count: int, size: Size, mask_resize: MaskResize = "area") -> Sample:
    """Returns examples at regular distances in a split.

    Args:
      dataset: The split.
      count: Number of examples; all of a smaller split.
      size: Height and width that images and masks are resized to.
      mask_resize: See `image_ops.resize_mask`.

    Returns:
      The examples, with masks if every one of them has a mask.
    """
    count = min(count, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    examples = [dataset[int(index)] for index in indices]
    images = [image_ops.resize_image(example.image, size) for example in examples]
    masks = [
        image_ops.resize_mask(example.mask, size, mask_resize)
        for example in examples
        if example.mask is not None
    ]
    return Sample(np.stack(images), np.stack(masks)[..., None] if len(masks) == count else None)


def noise(count: int, size: Size) -> Sample:
    """Returns random images, for a student without data.

    Args:
      count: Number of images.
      size: Height and width.
    """
    drawn = np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)
    return Sample(drawn, None)
