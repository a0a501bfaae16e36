"""A folder in COCO's layout whose pictures are drawn: for whoever needs pictures, whichever."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdistill import config

_PATCHES = 20  # along either side; noise in every pixel would be slow to decode


def draw(root: Path, data: config.Data, count: int) -> None:
    """Draws so many pictures of `data.image_size` to learn from, and one to measure on."""
    random = np.random.default_rng(0)
    for split, number in ((data.train, count), (data.validation, 1)):
        (root / split.images).mkdir(parents=True, exist_ok=True)
        (root / split.annotations).parent.mkdir(parents=True, exist_ok=True)
        height, width = data.image_size
        images, annotations = [], []
        for index in range(1, number + 1):
            name = f"{index:012}.jpg"
            patches = random.integers(0, 256, (_PATCHES, _PATCHES, 3), np.uint8)
            Image.fromarray(patches).resize((width, height)).save(root / split.images / name)
            images.append({"id": index, "file_name": name, "height": height, "width": width})
            outline = random.uniform(0, 1, (12, 2)) * (width, height)
            annotations.append(
                {
                    "id": index,
                    "image_id": index,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": [outline.ravel().tolist()],
                }
            )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}],
        }
        (root / split.annotations).write_text(json.dumps(content))
