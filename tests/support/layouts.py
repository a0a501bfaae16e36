"""Writers of data layouts for tests: the same images and masks in every layout."""

import base64
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from coco_folders import encode
from PIL import Image
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


def yolo(
    root: Path, photos: Sequence[Photo], images: str = "images", labels: str = "labels"
) -> Path:
    """Writes images, text files of the class 1 among others, and `data.yaml`."""
    put(root / "data.yaml", b"names: [dog, Person]\n")
    for photo in photos:
        put(root / images / photo.name, photo.image)
        height, width = photo.mask.shape
        lines = ["0 0.1 0.1 0.9 0.1 0.9 0.9"]
        for polygon in photo.polygons:
            shares = [value / (height if i % 2 else width) for i, value in enumerate(polygon)]
            lines.append(" ".join(["1", *(f"{share:.6f}" for share in shares)]))
        put((root / labels / photo.name).with_suffix(".txt"), "\n".join(lines).encode())
    return root


def labelme(root: Path, photos: Sequence[Photo], folder: str = "", *, inside: bool = False) -> Path:
    """Writes images and JSON files beside them, or JSON files with the images inside."""
    for photo in photos:
        path = root / folder / photo.name
        if not inside:
            put(path, photo.image)
        shapes = [_shape("dog", [0, 0, 9, 0, 9, 9])]
        shapes += [_shape("Person", polygon) for polygon in photo.polygons]
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": path.name,
            "imageData": base64.b64encode(photo.image).decode() if inside else None,
            "imageHeight": photo.mask.shape[0],
            "imageWidth": photo.mask.shape[1],
        }
        put(path.with_suffix(".json"), json.dumps(content).encode())
    return root


def _shape(label: str, polygon: Sequence[float], kind: str = "polygon", **more) -> dict:
    points = np.reshape(polygon, (-1, 2)).tolist()
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **more}


def labelme_mask(photo: Photo) -> dict:
    """Returns the shape of a painted mask, as LabelMe writes it."""
    top, left, bottom, right = bounds(photo.mask)
    part = encode(Image.fromarray(photo.mask[top:bottom, left:right].astype(bool)))
    corners = [left, top, right - 1, bottom - 1]
    return _shape("person", corners, "mask", mask=base64.b64encode(part).decode())


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the first row and column of a mask, and those behind its last ones."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def supervisely(
    root: Path, photos: Sequence[Photo], name: str = "ds", kind: str = "bitmap"
) -> Path:
    """Writes a data set whose people are bitmaps or polygons."""
    put(root / "meta.json", b'{"classes": [{"title": "person", "shape": "any"}], "tags": []}')
    for photo in photos:
        put(root / name / "img" / photo.name, photo.image)
        objects = [sly_polygon("dog", [0, 0, 9, 0, 9, 9])]
        if kind == "bitmap":
            objects.append(sly_bitmap("Person", photo.mask))
        else:
            objects += [sly_polygon("Person", polygon) for polygon in photo.polygons]
        height, width = photo.mask.shape
        content = {"size": {"height": height, "width": width}, "tags": [], "objects": objects}
        put(root / name / "ann" / f"{photo.name}.json", json.dumps(content).encode())
    return root


def sly_polygon(
    title: str, polygon: Sequence[float], holes: Sequence[Sequence[float]] = ()
) -> dict:
    """Returns a polygon as Supervisely writes it."""
    exterior, *interior = (np.reshape(each, (-1, 2)).tolist() for each in (polygon, *holes))
    points = {"exterior": exterior, "interior": interior}
    return {"classTitle": title, "geometryType": "polygon", "points": points, "bitmap": None}


def sly_bitmap(title: str, mask: np.ndarray) -> dict:
    """Returns a bitmap as Supervisely writes it: a PNG with a transparent background."""
    top, left, bottom, right = bounds(mask)
    part = mask[top:bottom, left:right].astype(np.uint8)
    image = Image.frombytes("P", part.shape[::-1], part.tobytes())
    image.putpalette([0, 0, 0, 255, 255, 255])
    data = base64.b64encode(zlib.compress(encode(image, transparency=0))).decode()
    return {
        "classTitle": title,
        "geometryType": "bitmap",
        "bitmap": {"data": data, "origin": [left, top]},
    }


def hugging_face(
    root: Path,
    photos: Sequence[Photo],
    split: str = "train",
    kind: str = "arrow",
    columns: tuple[str, str] = ("image", "mask"),
) -> Path:
    """Writes a split as `save_to_disk` does, or as Parquet files, in two files."""
    image, mask = columns
    rows = [
        {
            "id": number,
            image: {"bytes": photo.image, "path": photo.name},
            mask: {"bytes": encode(photo.mask * np.uint8(255)), "path": None},
        }
        for number, photo in enumerate(photos)
    ]
    stored = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"id": pa.int64(), image: stored, mask: stored})
    half = -(-len(rows) // 2)
    names = []
    for number, part in enumerate((rows[:half], rows[half:])):
        table = pa.Table.from_pylist(part, schema)
        if kind == "parquet":
            path = root / f"data/{split}-{number:05}-of-00002.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(table, path, row_group_size=2)
            continue
        path = root / split / f"data-{number:05}-of-00002.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            writer.write_table(table)
        names.append({"filename": path.name})
    if kind == "arrow":
        put(root / split / "state.json", json.dumps({"_data_files": names}).encode())
        put(root / split / "dataset_info.json", b"{}")
        put(root / "dataset_dict.json", b'{"splits": ["train", "validation"]}')
    return root


def traced(photo: Photo) -> Photo:
    """Returns an image whose polygons are traced from its mask, and fit it nearly.

    The outline is traced at four times the size, so that its corners lie on the edges of pixels.
    """
    large = cv2.resize(photo.mask, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    found, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = [((each.reshape(-1, 2) + 0.5) / 4).reshape(-1).tolist() for each in found]
    return photo._replace(polygons=[each for each in polygons if len(each) >= 6])


def faulty(root: Path) -> list[Photo]:
    """Writes a folder of masks in which a good deal is wrong, and returns the sound images in it.

    The first four are in training, and those from the fourth on in validation.
    """
    sound = photos(6)
    mask_folder(root, sound[:4], "images/train", "masks/train")
    mask_folder(root, sound[3:], "images/val", "masks/val")
    copy = sound[0]._replace(name="copy.png")
    empty = sound[4]._replace(name="empty.png", mask=sound[4].mask * 0)
    full = photos(1, 20, 40)[0]
    full = full._replace(name="full.png", mask=full.mask * 0 + 1)
    mask_folder(root, [copy, empty, full], "images/train", "masks/train")
    put(root / "images/train/lonely.png", sound[5].image)
    put(root / "images/val/cut.png", sound[0].image[:200])
    put(root / "masks/val/cut.png", encode(sound[0].mask * np.uint8(255)))
    put(root / "images/val/small.png", encode(np.zeros((4, 4, 3), np.uint8)))
    put(root / "masks/val/small.png", encode(sound[0].mask * np.uint8(255)))
    return sound
