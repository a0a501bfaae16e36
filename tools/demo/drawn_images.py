"""Random images with masks, for benchmarks."""

from collections.abc import Iterator
from pathlib import Path

import coco_folder
import numpy as np
from coco_folder import Drawn
from PIL import Image

from jaxdistill import config
from jaxdistill.config import Size

_PATCHES = 20  # per side; noise in every pixel would be slow to decode


def draw(root: Path, data: config.Data, count: int) -> None:
    """Draws training images of `data.image_size`, and one validation image."""
    random = np.random.default_rng(0)
    coco_folder.write(root, data.train, _images(random, data.image_size, count))
    coco_folder.write(root, data.validation, _images(random, data.image_size, 1))


def _images(random: np.random.Generator, size: Size, count: int) -> Iterator[Drawn]:
    height, width = size
    for _ in range(count):
        patches = random.integers(0, 256, (_PATCHES, _PATCHES, 3), np.uint8)
        outline = random.uniform(0, 1, (12, 2)) * (width, height)
        image = Image.fromarray(patches).resize((width, height))
        yield Drawn(image, [[outline.ravel().tolist()]])
