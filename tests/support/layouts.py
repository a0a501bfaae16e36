"""Writers of data layouts for tests: the same images and masks in every layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from coco_folders import encode
from pycocotools import mask as coco_mask


class Photo(NamedTuple):
    """An image, and its people as a mask and, where they are, as polygons."""

    name: str
    """Path of the file in the folder of the images."""
    image: bytes
    mask: np.ndarray
    """(h, w) of 0 and 1."""
    polygons: list[list[float]]
    """x, y, x, y, ... in pixels; their union is the mask."""


def photos(count: int = 4, height: int = 24, width: int = 32) -> list[Photo]:
    """Returns images of noise with two polygons each, no two alike."""
    made = []
    for number in range(1, count + 1):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        left, top = rng.integers(0, 6, 2).tolist()
        polygons = [
            [left, top, left + 13.0, top, left + 13.0, top + 9.5, left + 5.0, top + 15.25, left, 9],
            [20.0, 14.0, 31.0, 14.0, 25.0, 22.0],
        ]
        made.append(Photo(f"{number}.png", encode(image), draw(polygons, height, width), polygons))
    return made


def draw(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Draws the union of polygons as pycocotools does."""
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def put(path: Path, data: bytes) -> Path:
    """Writes a file and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def mask_folder(
    root: Path,
    photos: Sequence[Photo],
    images: str = "images",
    masks: str = "masks",
    ending: str = ".png",
    person: int = 255,
) -> Path:
    """Writes images, and PNG masks of 0 and `person` with the images' names and an ending."""
    for photo in photos:
        put(root / images / photo.name, photo.image)
        stem = Path(photo.name).with_suffix("").as_posix()
        put(root / masks / f"{stem}{ending}", encode(photo.mask * np.uint8(person)))
    return root
