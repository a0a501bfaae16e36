"""COCO folders in the making, for tests: pictures, people and their outlines."""

import io
import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from jaxdistill import config
from jaxdistill.data import loader

SPLIT = config.Split(images="images", annotations="people.json")
SQUARE = [[1.0, 1.0, 6.0, 1.0, 6.0, 6.0, 1.0, 6.0]]


class Folder:
    """A COCO folder in the making."""

    def __init__(self, root):
        self.root = root
        (root / "images").mkdir()
        self.instances = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "person"}],
        }

    def picture(self, name, data=None, size=(8, 12), **changed):
        """Adds a picture, by default 8 high and 12 wide, without people."""
        if data is None:
            data = encode(photograph(*size))
        (self.root / "images" / name).write_bytes(data)
        number = len(self.instances["images"]) + 1
        image = {"id": number, "file_name": name, "height": size[0], "width": size[1]}
        self.instances["images"].append(image | changed)
        return number

    def person(self, picture, segmentation=SQUARE, **changed):
        annotation = {"image_id": picture, "category_id": 3, "segmentation": segmentation}
        self.instances["annotations"].append(annotation | changed)

    def open(self, text=None):
        text = json.dumps(self.instances) if text is None else text
        path = self.root / "people.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        prepared = self.root / "prepared"
        data = config.Data(root=self.root, train=SPLIT, prepared=prepared, image_size=(32, 32))
        return loader.open_split(data, "train")


def photograph(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def encode(pixels, kind="PNG", **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def rle(mask, compressed):
    """The reference's encoding, by way of pycocotools."""
    encoded = coco_mask.encode(np.asfortranarray(mask))
    if compressed:
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": runs if flat[0] == 0 else [0, *runs]}
