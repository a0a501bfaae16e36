"""Augmentation of batches: flips, crops, and changes of colour."""

from jaxdistill.data.augment.geometric import (
    CropBoxes,
    Kind,
    crop,
    crop_boxes,
    flip,
    flips,
    flips_on_host,
)
from jaxdistill.data.augment.keys import step_key
from jaxdistill.data.augment.pipeline import (
    NO_AUGMENTATION,
    Augmentation,
    Augmented,
    Rows,
    apply_photometric,
    augment,
)

__all__ = [
    "NO_AUGMENTATION",
    "Augmentation",
    "Augmented",
    "CropBoxes",
    "Kind",
    "Rows",
    "apply_photometric",
    "augment",
    "crop",
    "crop_boxes",
    "flip",
    "flips",
    "flips_on_host",
    "step_key",
]
