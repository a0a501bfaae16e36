"""Drawing of people's outlines as masks, as pycocotools draws COCO's."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as coco_mask

from jaxdistill.data.sources import outlines
from jaxdistill.data.sources.outlines import Bitmap, Holed, Outline, Polygons, Rle
from jaxdistill.runtime.errors import DataError

_MAX_OUTLINE = 1e6
"""Longest outline of a person, in pixels. pycocotools stores five steps per pixel, and does not
check whether it got the memory."""


class Drawable(Protocol):
    """An image with outlines of people."""

    @property
    def name(self) -> str:
        """Name of the image, for messages."""

    @property
    def height(self) -> int:
        """Height in pixels."""

    @property
    def width(self) -> int:
        """Width in pixels."""

    @property
    def people(self) -> Sequence[Outline]:
        """Outline of each person."""


class Drawing(NamedTuple):
    """The people of an image."""

    mask: UInt8[np.ndarray, "h w"]
    """1 inside of a person and 0 outside."""
    empty: int
    """Number of people whose outline covers no pixel."""


def draw(image: Drawable) -> Drawing:
    """Draws the union of the people in an image.

    Args:
      image: An image with its segmentations.

    Returns:
      The mask, and how many people are not in it.

    Raises:
      DataError: A segmentation is wrong (`damaged-segmentation`), has another size than the image
        (`segmentation-size-differs`), or would take too much memory (`segmentation-too-large`).
    """
    mask, empty = np.zeros((image.height, image.width), np.uint8), 0
    for outline in image.people:
        if isinstance(outline, Rle):
            one = _decode_rle(image, outline)
        elif isinstance(outline, Bitmap):
            one = _place(image, outline)
        elif isinstance(outline, Holed):
            one = _fill_polygons(image, outline.polygons)
            if outline.holes:
                one = one & (1 - _fill_polygons(image, outline.holes))
        elif outlines.is_share(outline) and mask.size > 1:
            one = np.zeros_like(mask)  # a pixel at most, by rounding
        else:
            one = _fill_polygons(image, outline)
        empty += not one.any()
        mask |= one
    return Drawing(mask, empty)


def _place(image: Drawable, bitmap: Bitmap) -> UInt8[np.ndarray, "h w"]:
    """Puts a bitmap to its place in the image."""
    mask = np.zeros((image.height, image.width), np.uint8)
    pixels = bitmap.pixels()
    height, width = pixels.shape
    bottom, right = bitmap.top + height, bitmap.left + width
    if bitmap.top < 0 or bitmap.left < 0 or bottom > image.height or right > image.width:
        raise _damaged(
            image,
            f"a bitmap reaches from ({bitmap.left}, {bitmap.top}) to ({right}, {bottom}), out of "
            f"the image, which is {image.height} x {image.width} (height x width)",
        )
    mask[bitmap.top : bottom, bitmap.left : right] = pixels
    return mask


def _damaged(image: Drawable, problem: str) -> DataError:
    return DataError(
        f"a segmentation of {image.name} is damaged: {problem}", code="damaged-segmentation"
    )


def _decode_rle(image: Drawable, rle: Rle) -> UInt8[np.ndarray, "h w"]:
    """Decodes run lengths in Python: pycocotools trusts the counts, and writes past the end."""
    if tuple(rle.size) != (image.height, image.width):
        raise DataError(
            f"a segmentation of {image.name} is {rle.size[0]} x {rle.size[1]} (height x width), "
            f"but the image is {image.height} x {image.width}",
            code="segmentation-size-differs",
        )
    runs = _decompress(image, rle.counts) if isinstance(rle.counts, str) else rle.counts
    if any(run < 0 for run in runs) or sum(runs) != image.height * image.width:
        raise _damaged(
            image, f"its run lengths do not add up to {image.height} x {image.width} pixels"
        )
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.repeat(values, runs).reshape(image.width, image.height).T


def _decompress(image: Drawable, text: str) -> list[int]:
    """Decodes COCO's string form of run lengths.

    Each character holds five bits and a continuation flag. From the third run on, a value is the
    difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 30:
            raise _damaged(image, "its counts are not a COCO RLE string")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise _damaged(image, "its RLE string is cut off")
    return runs


def _fill_polygons(image: Drawable, polygons: Polygons) -> UInt8[np.ndarray, "h w"]:
    height, width = image.height, image.width
    for polygon in polygons:
        x, y = np.asarray(polygon).reshape(-1, 2).T
        # pycocotools walks along every edge pixel by pixel: a far corner takes time and memory.
        if x.min() < -width or x.max() > 2 * width or y.min() < -height or y.max() > 2 * height:
            raise _damaged(
                image, f"it has corners far outside of the image, which is {height} x {width}"
            )
    if sum(map(_perimeter, polygons)) > _MAX_OUTLINE:
        raise DataError(
            f"a segmentation of {image.name} has an outline of more than "
            f"{_MAX_OUTLINE / 1e6:.0f} million pixels",
            code="segmentation-too-large",
        )
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def _perimeter(polygon: list[float]) -> float:
    """Returns the length of an outline in steps of pycocotools, along each edge's longer axis."""
    corners = np.asarray(polygon).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())
