"""Writes folders in COCO's layout."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from jaxdistill import config


class Drawn(NamedTuple):
    """An image and the people in it."""

    image: Image.Image
    people: Sequence[Any]
    """One COCO segmentation each: a list of polygons, or an RLE with its size."""


def write(root: Path, split: config.Split, images: Iterable[Drawn]) -> None:
    """Writes images as JPEG files, and their annotations, where the split expects them."""
    (root / split.images).mkdir(parents=True, exist_ok=True)
    (root / split.annotations).parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    for number, drawn in enumerate(images, start=1):
        name = f"{number:012}.jpg"
        drawn.image.save(root / split.images / name, quality=92)
        width, height = drawn.image.size
        content["images"].append(
            {"id": number, "file_name": name, "height": height, "width": width}
        )
        for segmentation in drawn.people:
            content["annotations"].append(
                {
                    "id": 1 + len(content["annotations"]),
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": segmentation,
                }
            )
    (root / split.annotations).write_text(json.dumps(content), encoding="utf-8")
