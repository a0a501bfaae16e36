"""The images on which a model is worst."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdistill.data import image_ops
from jaxdistill.types import Batch

WORST = 8
"""The number of images that are kept."""


class WorstExample(NamedTuple):
    """An image with a low score."""

    score: float
    """mIoU; the agreement with the teacher where no image has a mask."""
    image: Float[np.ndarray, "h w 3"]
    """RGB in [0, 1]."""
    mask: Float[np.ndarray, "h w 1"] | None
    """Ground truth in {0, 1}; None where the teacher is the reference."""
    teacher: Float[np.ndarray, "h w 1"] | None
    """Logits of the teacher; None where the ground truth is the reference."""
    logits: Float[np.ndarray, "h w 1"]
    """Logits of the measured model."""


class Worst:
    """The images with the lowest scores, by mask and by teacher; the data decides which counts."""

    def __init__(self) -> None:
        self._found: dict[str, list[WorstExample]] = {"miou": [], "agreement": []}

    def add(
        self, batch: Batch, logits: dict[str, Any], values: dict[str, np.ndarray], real: int
    ) -> None:
        """Keeps those of a batch that are among the worst so far.

        Args:
          batch: Images and masks.
          logits: Of `network` and, with a teacher, `teacher`, at the size of the images.
          values: Metrics of the network, one value per image.
          real: Number of images that are not padding.
        """
        own = np.asarray(logits["network"])
        rows = {"miou": np.flatnonzero(batch.labelled), "agreement": np.arange(real)}
        for measure, found in self._found.items():
            if measure not in values:
                continue
            by_mask = measure == "miou"
            reference = np.asarray(batch.masks if by_mask else logits["teacher"])
            candidates = [
                WorstExample(
                    float(values[measure][row]),
                    np.asarray(image_ops.to_float(batch.images[row])),
                    reference[row].astype(np.float32) if by_mask else None,
                    None if by_mask else reference[row],
                    own[row],
                )
                for row in rows[measure]
            ]
            found[:] = sorted(found + candidates, key=lambda example: example.score)[:WORST]

    def examples(self, *, by_mask: bool) -> list[WorstExample]:
        """Returns the worst images, the lowest score first.

        Args:
          by_mask: Whether by mIoU, else by the agreement with the teacher.
        """
        return self._found["miou" if by_mask else "agreement"]
