"""Compares ways of resizing masks: `resized_masks.py PATH/TO/COCO [SIDE ...]`.

Each mask of a validation split is resized to SIDE x SIDE. The scores compare it with the mask of
`area` at that size, and, resized back as a prediction is, with the mask at its own size. The shift
is that of its centre of mass against the mask at its own size, in output pixels. An image is left
out where a mask is empty, before or after it is resized, since that has no centre.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from jaxdistill import config
from jaxdistill.data import Data, image_ops
from jaxdistill.evaluation.masks import binary_mask
from jaxdistill.metrics import segmentation
from jaxdistill.runtime.errors import DataError, command

Mask = Bool[np.ndarray, "h w"]
Grey = UInt8[np.ndarray, "h w"]


def nearest_exact(mask: Grey, side: int) -> Mask:
    """Resizes as torch's `nearest-exact`, to the pixel whose centre is nearest."""
    rows, columns = ((2 * np.arange(side) + 1) * old // (2 * side) for old in mask.shape)
    return mask[rows][:, columns] > 127


METHODS: dict[str, Callable[[Grey, int], Mask]] = {
    "nearest": lambda mask, side: image_ops.resize_mask(mask, (side, side), "nearest") > 0,
    "nearest-exact": nearest_exact,
    "area": lambda mask, side: image_ops.resize_mask(mask, (side, side), "area") > 0,
}


def scores(mask: Mask, reference: Mask) -> tuple[float, float]:
    """Returns mIoU and boundary IoU of a mask."""
    one, other = (jnp.asarray(each)[None, ..., None] for each in (mask, reference))
    measures = (segmentation.mean_iou, segmentation.boundary_iou)
    mean, boundary = (float(measure(one, other)[0]) for measure in measures)
    return mean, boundary


def centre(mask: Mask) -> np.ndarray:
    """Returns the centre of mass as shares of height and width."""
    return np.array([(place + 0.5).mean() for place in np.nonzero(mask)]) / mask.shape


def filled(masks: Sequence[Grey], side: int) -> list[Grey]:
    """Returns the masks that are not empty, at their own sizes or by a method."""
    return [
        mask
        for mask in masks
        if (mask > 127).any() and all(method(mask, side).any() for method in METHODS.values())
    ]


def measure(masks: Sequence[Grey], side: int) -> dict[str, np.ndarray]:
    """Returns the figures of each method, as means over the masks.

    Args:
      masks: Masks at their own sizes, none of them empty; 255 is a person.
      side: Height and width that they are resized to.
    """
    rows = {}
    for name, method in METHODS.items():
        found = []
        for mask in masks:
            small, whole = method(mask, side), mask > 127
            restored = binary_mask(np.where(small, 1, -1).astype(np.float32), mask.shape, 0.5)
            shift = side * (centre(small) - centre(whole))
            found.append(
                [*scores(small, METHODS["area"](mask, side)), *scores(restored, whole), *shift]
            )
        rows[name] = np.mean(found, axis=0)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("sides", type=int, nargs="*", default=[256, 320])
    args = parser.parse_args(arguments)
    validation = Data(config.Data(root=args.root)).validation
    examples = [validation[index] for index in range(len(validation))]
    masks = [example.mask for example in examples if example.mask is not None]
    print(
        "| side | masks resized by | mIoU | boundary IoU | mIoU, own size | boundary IoU, own size "
        "| down | right |\n|---|---|---|---|---|---|---|---|"
    )
    for side in args.sides:
        kept = filled(masks, side)
        if not kept:
            raise DataError(f"{args.root}: all validation masks are empty", code="no-masks")
        if len(kept) < len(masks):
            print(f"{side}: {len(masks) - len(kept)} images left out", file=sys.stderr)
        for name, row in measure(kept, side).items():
            figures = [
                *(f"{value:.4f}" for value in row[:4]),
                *(f"{value:+.2f}" for value in row[4:]),
            ]
            print(f"| {side} | {name} | " + " | ".join(figures) + " |")


if __name__ == "__main__":
    sys.exit(command(main))
