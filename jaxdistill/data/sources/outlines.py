"""Outlines of people, and the one rule for all notations of COCO's `segmentation`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool
from pydantic import Field

Side = Annotated[int, Field(gt=0, lt=2**31)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Rle:
    """Run lengths of a mask, column by column, beginning with the background."""

    size: tuple[Side, Side]
    """Height and width."""
    counts: str | list[Annotated[int, Field(ge=0, lt=2**32)]]
    """Run lengths; a string is COCO's compression of them."""


Polygons = list[list[float]]
"""Polygons as x, y, x, y, ... in pixels; together they outline one person."""


@dataclass(frozen=True, slots=True)
class Holed:
    """Polygons with holes."""

    polygons: Polygons
    holes: Polygons


@dataclass(frozen=True, slots=True, eq=False)
class Bitmap:
    """A mask of a part of the image."""

    pixels: Callable[[], Bool[np.ndarray, "h w"]]
    """Decodes the mask: those of all images would fill the memory."""
    left: int
    """Column of the image in which the mask begins."""
    top: int
    """Row of the image in which it begins."""


Outline = Polygons | Rle | Holed | Bitmap
Segmentation = list[list[_Number]] | list[_Number] | list[list[list[_Number]]] | Rle | None
"""What files hold: polygons, each x, y, x, y, ... or a list of [x, y]; one such polygon alone; run
lengths; or nothing."""


def read(segmentation: Segmentation) -> Outline | None:
    """Returns the outline of a person.

    Polygons of fewer than three corners (a point, a line, a box given by two corners) are ignored.

    Args:
      segmentation: The outline in one of its notations.

    Returns:
      Run lengths, or polygons of three corners and more; None where nothing is left.
    """
    if segmentation is None or isinstance(segmentation, Rle):
        return segmentation
    polygons: list[Any] = list(segmentation)
    if _is_polygon(polygons):
        polygons = [polygons]
    flat = [np.ravel(each).tolist() if _is_pairs(each) else each for each in polygons]
    return [each[: len(each) // 2 * 2] for each in flat if len(each) >= 6] or None


def is_share(outline: Outline) -> bool:
    """Returns whether all corners lie in [0, 1], as shares of the image instead of pixels.

    Args:
      outline: The outline of a person.
    """
    return isinstance(outline, list) and all(0 <= x <= 1 for each in outline for x in each)


def fits_turned_only(outline: Outline, height: int, width: int) -> bool:
    """Returns whether an outline leaves its image, and would not if the image were turned by 90°.

    Args:
      outline: The outline of a person.
      height: Height of the image in pixels.
      width: Width of the image in pixels.
    """
    if not isinstance(outline, list):
        return False
    right, low = (max(max(each[axis::2]) for each in outline) for axis in (0, 1))
    leaves = right > width + 1 or low > height + 1
    return leaves and right <= height + 1 and low <= width + 1


def _is_polygon(values: list[Any]) -> bool:
    """Whether values are one polygon: numbers, or a list of [x, y]."""
    return bool(values) and (not isinstance(values[0], list) or _is_pairs(values))


def _is_pairs(values: list[Any]) -> bool:
    return (
        bool(values)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in values)
        and (not isinstance(values[0][0], list))
    )
