"""Folders in COCO layout for tests."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from jaxdistill import config
from jaxdistill.data import Dataset
from jaxdistill.data.splits import open_split

SPLIT = config.Split(images="images", annotations="people.json")
SQUARE = [[1.0, 1.0, 6.0, 1.0, 6.0, 6.0, 1.0, 6.0]]
TRAIN, VALIDATION = "train2017", "val2017"


class Folder:
    """A split in COCO layout in the making; `write` writes its annotations.

    Args:
      root: The folder.
      split: Where images and annotations are, relative to the root.
    """

    def __init__(self, root: Path, split: config.Split = SPLIT) -> None:
        self.root, self.split = root, split
        (root / split.images).mkdir(parents=True, exist_ok=True)
        self.instances = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "person"}],
        }

    def image(self, name: str, data: bytes | None = None, size=(8, 12), **changed) -> int:
        """Adds an image without people, and returns its id; by default 8 high and 12 wide."""
        if data is None:
            data = encode(pixels(*size))
        (self.root / self.split.images / name).write_bytes(data)
        number = len(self.instances["images"]) + 1
        image = {"id": number, "file_name": name, "height": size[0], "width": size[1]}
        self.instances["images"].append(image | changed)
        return changed.get("id", number)

    def person(self, image: int, segmentation=SQUARE, **changed) -> None:
        """Adds a person to an image."""
        annotation = {
            "id": 1 + len(self.instances["annotations"]),
            "image_id": image,
            "category_id": 3,
            "iscrowd": 0,
            "segmentation": segmentation,
        }
        self.instances["annotations"].append(annotation | changed)

    def write(self, text: str | bytes | None = None) -> Path:
        """Writes the annotations, or another text in their place."""
        text = json.dumps(self.instances) if text is None else text
        path = self.root / self.split.annotations
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def data(self, **changed) -> config.Data:
        """Returns settings with this split for training and validation."""
        settings = {"prepared": self.root / "prepared", "image_size": (32, 32), **changed}
        return config.Data(root=self.root, train=self.split, validation=self.split, **settings)

    def open(self, text: str | bytes | None = None) -> Dataset:
        """Writes the annotations, and opens the split."""
        self.write(text)
        return open_split(self.data(), "train")


def discs(root: Path, train: int = 8, validation: int = 5, side: int = 48) -> Path:
    """Writes both splits where a configuration expects them; people are bright discs."""
    for name, count in ((TRAIN, train), (VALIDATION, validation)):
        annotations = Path("annotations") / f"instances_{name}_person_only_no_crowd.json"
        folder = Folder(root, config.Split(images=Path("images") / name, annotations=annotations))
        for number in range(1, count + 1):
            rng = np.random.default_rng([number, train if name == TRAIN else 0])
            centre, radius = rng.uniform(16, side - 16, 2), rng.uniform(8, 14)
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            outline = centre + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
            grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1) + 0.5
            disc = np.square(grid - centre).sum(-1) < radius**2
            image = (rng.uniform(0, 90, (side, side, 3)) + 150 * disc[..., None]).astype(np.uint8)
            folder.person(
                folder.image(f"{number}.png", encode(image), (side, side)),
                [outline.reshape(-1).tolist()],
            )
        folder.write()
    return root


def box(top: float, left: float, bottom: float, right: float) -> list[list[float]]:
    """Returns a segmentation of one rectangle."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def pixels(height: int, width: int) -> np.ndarray:
    """Returns random pixels that depend on the size alone."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    """Returns an image file."""
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def rle(mask: np.ndarray, compressed: bool) -> dict[str, str | Sequence[int]]:
    """Returns the run lengths of a mask as pycocotools encodes them."""
    encoded = coco_mask.encode(np.asfortranarray(mask))
    if compressed:
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": runs if flat[0] == 0 else [0, *runs]}
