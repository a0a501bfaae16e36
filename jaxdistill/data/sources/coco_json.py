"""COCO annotation files: untrusted JSON to pictures and masks of people, or to a clear error."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as coco_mask
from pydantic import FailFast, Field, TypeAdapter, ValidationError

from jaxdistill.runtime.errors import UserError

LARGEST_FILE = 2**32
"""Bytes: nine times COCO's own."""
_LONGEST_OUTLINE = 1e6
"""Pixels, of one person. pycocotools stores each of five steps per pixel, and does not look whether
it got the memory."""

_Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Side = Annotated[int, Field(gt=0, lt=2**31)]
_Coordinate = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Rle:
    """Run lengths down the columns, beginning with background; a string is COCO's compression."""

    size: tuple[_Side, _Side]  # height, width
    counts: str | list[Annotated[int, Field(ge=0, lt=2**32)]]


@dataclass(frozen=True, slots=True)
class _Category:
    id: _Id
    name: str


@dataclass(frozen=True, slots=True)
class _Image:
    id: _Id
    file_name: str
    height: _Side
    width: _Side


@dataclass(frozen=True, slots=True)
class _Annotation:
    image_id: _Id
    category_id: _Id
    iscrowd: int = 0
    segmentation: list[list[_Coordinate]] | Rle | None = None


@dataclass(frozen=True, slots=True)
class _Instances:
    categories: Annotated[list[_Category], FailFast()]
    images: Annotated[list[_Image], FailFast()]
    annotations: Annotated[list[_Annotation], FailFast()]


_INSTANCES = TypeAdapter(_Instances)


class Picture(NamedTuple):
    """A picture with people: what the annotation file says of it."""

    id: int
    name: str
    """File, relative to the folder of the pictures, and never outside of it."""
    height: int
    width: int
    people: tuple[list[list[float]] | Rle, ...]
    """Segmentation of each person."""


def pictures_with_people(annotations: Path, data: bytes) -> list[Picture]:
    """The pictures that show at least one person who is not part of a crowd, in the file's order.

    A person whose outline encloses nothing is none.

    Args:
      annotations: names the file in errors.
      data: what it holds, a COCO instances file.

    Raises:
      UserError: names the place in the file and what was expected there.
    """
    instances = _parse(annotations, data)
    person = {category.id for category in instances.categories if _is_person(category)}
    if not person:
        names = ", ".join(sorted(category.name for category in instances.categories)[:10])
        raise UserError(f"{annotations}: no category is named 'person'; there are: {names or '-'}")

    people: dict[int, list[list[list[float]] | Rle]] = {}
    for image in instances.images:
        if image.id in people:
            raise UserError(f"{annotations}: two images have the id {image.id}")
        people[image.id] = []
    empty: list[str] = []
    for index, annotation in enumerate(instances.annotations):
        if annotation.category_id not in person or annotation.iscrowd:
            continue
        where = f"{annotations}: annotations[{index}]"
        if annotation.image_id not in people:
            raise UserError(f"{where}: there is no image with the id {annotation.image_id}")
        if annotation.segmentation is None:
            raise UserError(f"{where}: a person without 'segmentation'; masks cannot be made")
        if _encloses(annotation.segmentation):
            people[annotation.image_id].append(annotation.segmentation)
        else:
            empty.append(where)
    if empty and not any(people.values()):
        raise UserError(
            f"{empty[0]}: its 'segmentation' encloses nothing, and so it is with every person; "
            f"masks cannot be made from boxes"
        )
    return [
        Picture(
            image.id,
            _inside(annotations, image.file_name),
            image.height,
            image.width,
            tuple(people[image.id]),
        )
        for image in instances.images
        if people[image.id]
    ]


def draw(picture: Picture) -> UInt8[np.ndarray, "h w"]:
    """The union of a picture's people, 1 inside and 0 outside.

    Raises:
      UserError: names the picture and what is wrong with a segmentation.
    """
    mask = np.zeros((picture.height, picture.width), np.uint8)
    for segmentation in picture.people:
        if isinstance(segmentation, Rle):
            mask |= _decode_rle(picture, segmentation)
        else:
            mask |= _fill_polygons(picture, segmentation)
    return mask


def _parse(annotations: Path, data: bytes) -> _Instances:
    try:
        return _INSTANCES.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            reason = first["ctx"]["error"]
            raise UserError(f"{annotations}: not a JSON file: {reason}") from None
        # The branches of a union are parts of the location too; their names say nothing here.
        parts = [part for part in first["loc"] if not str(part).startswith(("list[", "Rle"))]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
        place = place.lstrip(".") or "top level"
        got = f", got {first['input']!r:.60}" if first["type"] != "missing" else ""
        raise UserError(
            f"{annotations}: not a COCO instances file: {place}: "
            f"{first['msg'].replace('Input should', 'should')}{got}"
        ) from None


def _is_person(category: _Category) -> bool:
    return category.name.strip().lower() == "person"


def _encloses(segmentation: list[list[float]] | Rle) -> bool:
    return isinstance(segmentation, Rle) or any(map(_has_area, segmentation))


def _has_area(polygon: list[float]) -> bool:
    """Fewer than three corners enclose nothing."""
    return len(polygon) >= 6


def _inside(annotations: Path, name: str) -> str:
    for flavour in (PurePosixPath(name), PureWindowsPath(name)):
        if flavour.anchor or ".." in flavour.parts or not flavour.parts or "\0" in name:
            raise UserError(
                f"{annotations}: file_name {name!r} does not stay inside the folder of the pictures"
            )
    return name


def _decode_rle(picture: Picture, rle: Rle) -> UInt8[np.ndarray, "h w"]:
    """In Python rather than pycocotools, whose C code trusts the counts and writes past the end."""
    if tuple(rle.size) != (picture.height, picture.width):
        raise UserError(
            f"mask and image of different size: a segmentation of {picture.name} is "
            f"{rle.size[0]} x {rle.size[1]} (height x width), the image is "
            f"{picture.height} x {picture.width}"
        )
    counts = rle.counts
    runs = _decompress(picture, counts) if isinstance(counts, str) else counts
    if any(run < 0 for run in runs) or sum(runs) != picture.height * picture.width:
        raise UserError(
            f"a segmentation of {picture.name} is damaged: its run lengths do not add up to "
            f"{picture.height} x {picture.width} pixels"
        )
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.repeat(values, runs).reshape(picture.width, picture.height).T


def _decompress(picture: Picture, text: str) -> list[int]:
    """COCO's string form: groups of five bits, and from the third on differences to two before."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 30:
            raise UserError(f"a segmentation of {picture.name} is damaged: not a COCO RLE string")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise UserError(f"a segmentation of {picture.name} is damaged: its RLE string is cut off")
    return runs


def _fill_polygons(picture: Picture, polygons: list[list[float]]) -> UInt8[np.ndarray, "h w"]:
    height, width = picture.height, picture.width
    # pycocotools takes four numbers for a box.
    drawable = [polygon[: len(polygon) // 2 * 2] for polygon in polygons if _has_area(polygon)]
    for polygon in drawable:
        x, y = np.asarray(polygon).reshape(-1, 2).T
        # pycocotools walks every edge pixel by pixel, so a far corner would take time and memory.
        if x.min() < -width or x.max() > 2 * width or y.min() < -height or y.max() > 2 * height:
            raise UserError(
                f"a segmentation of {picture.name} has corners far outside of the image, which is "
                f"{height} x {width} (height x width)"
            )
    if sum(map(_perimeter, drawable)) > _LONGEST_OUTLINE:
        raise UserError(
            f"a segmentation of {picture.name} has an outline of more than "
            f"{_LONGEST_OUTLINE / 1e6:.0f} million pixels"
        )
    if not drawable:
        return np.zeros((height, width), np.uint8)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(drawable, height, width)))


def _perimeter(polygon: list[float]) -> float:
    """In steps along the longer axis, as pycocotools walks it."""
    corners = np.asarray(polygon).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())
