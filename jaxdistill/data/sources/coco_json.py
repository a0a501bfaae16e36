"""Reading of COCO instances files, which are untrusted JSON, and drawing of their masks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as coco_mask
from pydantic import FailFast, Field, TypeAdapter, ValidationError

from jaxdistill.data.sources import outlines
from jaxdistill.data.sources.outlines import Outline, Polygons, Rle, Segmentation, Side
from jaxdistill.runtime.errors import DataError

_MAX_OUTLINE = 1e6
"""Longest outline of a person, in pixels. pycocotools stores five steps per pixel, and does not
check whether it got the memory."""

_Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]


@dataclass(frozen=True, slots=True)
class _Category:
    id: _Id
    name: str


@dataclass(frozen=True, slots=True)
class _Image:
    id: _Id
    file_name: str
    height: Side
    width: Side


@dataclass(frozen=True, slots=True)
class _Annotation:
    image_id: _Id
    category_id: _Id
    iscrowd: int = 0
    segmentation: Segmentation = None


@dataclass(frozen=True, slots=True)
class _Instances:
    categories: Annotated[list[_Category], FailFast()]
    images: Annotated[list[_Image], FailFast()]
    annotations: Annotated[list[_Annotation], FailFast()]


_INSTANCES = TypeAdapter(_Instances)


class CocoImage(NamedTuple):
    """An image with people, as the annotation file describes it."""

    id: int
    """Id of the image in the file."""
    name: str
    """Path of the file, relative to the folder of the images, and never outside of it."""
    height: int
    """Height in pixels."""
    width: int
    """Width in pixels."""
    people: tuple[Outline, ...]
    """Outline of each person."""


CROWD = "people of a crowd (iscrowd: 1), whom data.include_crowds=true takes"
NO_OUTLINE = "people without an outline (segmentation null or [], a box, a line)"
NOBODY = "images without a person"


class Listing(NamedTuple):
    """The images of a file that show people, and what is left out."""

    images: Sequence[CocoImage]
    """Images with people, in the file's order."""
    omissions: Mapping[str, Sequence[str]]
    """Names of images by what of them is left out: `CROWD`, `NO_OUTLINE`, `NOBODY`."""


def images_with_people(annotations: Path, data: bytes, include_crowds: bool = False) -> Listing:
    """Returns the images that show a person who has an outline.

    Args:
      annotations: Name of the file, for messages.
      data: Content of the file: COCO instances.
      include_crowds: Whether annotations with `iscrowd: 1` are people, too.

    Raises:
      DataError: The content is not valid COCO instances (`not-json`, `not-coco`, `bad-file-name`,
        `duplicate-image-id`, `unknown-image-id`), has no category `person` (`no-person-category`),
        or shows nobody (`no-people`), or nobody with an outline (`no-segmentation`).
    """
    instances = _parse(annotations, data)
    person = {category.id for category in instances.categories if _is_person(category)}
    if not person:
        names = ", ".join(sorted(category.name for category in instances.categories)[:10])
        raise DataError(
            f"{annotations}: categories: none is named 'person'; there are: {names or '-'}",
            code="no-person-category",
        )
    people: dict[int, list[Outline]] = {}
    names_by_id = {image.id: image.file_name for image in instances.images}
    for image in instances.images:
        if image.id in people:
            raise DataError(
                f"{annotations}: images: two have the id {image.id}", code="duplicate-image-id"
            )
        people[image.id] = []
    omissions: dict[str, list[str]] = {CROWD: [], NO_OUTLINE: [], NOBODY: []}
    for index, annotation in enumerate(instances.annotations):
        if annotation.category_id not in person:
            continue
        if annotation.image_id not in people:
            raise DataError(
                f"{annotations}: annotations[{index}]: there is no image with the id "
                f"{annotation.image_id}",
                code="unknown-image-id",
            )
        if annotation.iscrowd and not include_crowds:
            omissions[CROWD].append(names_by_id[annotation.image_id])
        elif (outline := outlines.read(annotation.segmentation)) is None:
            omissions[NO_OUTLINE].append(names_by_id[annotation.image_id])
        else:
            people[annotation.image_id].append(outline)
    omissions[NOBODY] = [image.file_name for image in instances.images if not people[image.id]]
    if not any(people.values()):
        raise _nobody(annotations, omissions)
    images = [
        CocoImage(
            image.id,
            _inside(annotations, image.file_name),
            image.height,
            image.width,
            tuple(people[image.id]),
        )
        for image in instances.images
        if people[image.id]
    ]
    return Listing(images, {reason: names for reason, names in omissions.items() if names})


def _nobody(annotations: Path, omissions: Mapping[str, Sequence[str]]) -> DataError:
    if boxes := omissions[NO_OUTLINE]:
        return DataError(
            f"{annotations}: no person has an outline, and masks cannot be made from boxes; "
            f"{len(boxes)} people, the first one in {boxes[0]}, have a 'segmentation' that is null "
            f"or [], a box, or a line",
            code="no-segmentation",
        )
    crowds = len(omissions[CROWD])
    hint = f"; {crowds} are {CROWD.removeprefix('people ')}" if crowds else ""
    return DataError(
        f"{annotations}: no image has a person outside of a crowd{hint}", code="no-people"
    )


class Drawing(NamedTuple):
    """The people of an image."""

    mask: UInt8[np.ndarray, "h w"]
    """1 inside of a person and 0 outside."""
    empty: int
    """Number of people whose outline covers no pixel."""


def draw(image: CocoImage) -> Drawing:
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
        elif outlines.is_share(outline) and mask.size > 1:
            one = np.zeros_like(mask)  # a pixel at most, by rounding
        else:
            one = _fill_polygons(image, outline)
        empty += not one.any()
        mask |= one
    return Drawing(mask, empty)


def _parse(annotations: Path, data: bytes) -> _Instances:
    try:
        # Windows programs write a byte-order mark, or UTF-16.
        encoding = json.detect_encoding(data)
        return _INSTANCES.validate_json(data if encoding == "utf-8" else data.decode(encoding))
    except UnicodeDecodeError as error:
        raise DataError(f"{annotations}: not a JSON file: {error}", code="not-json") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            reason = first["ctx"]["error"]
            raise DataError(f"{annotations}: not a JSON file: {reason}", code="not-json") from None
        # The location also names branches of unions, which mean nothing to a user.
        parts = [part for part in first["loc"] if not str(part).startswith(("list[", "Rle"))]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
        place = place.lstrip(".") or "top level"
        got = f", got {first['input']!r:.60}" if first["type"] != "missing" else ""
        raise DataError(
            f"{annotations}: not a COCO instances file: {place}: "
            f"{first['msg'].replace('Input should', 'should')}{got}",
            code="not-coco",
        ) from None


def _is_person(category: _Category) -> bool:
    return category.name.strip().lower() == "person"


def _inside(annotations: Path, name: str) -> str:
    for flavour in (PurePosixPath(name), PureWindowsPath(name)):
        if flavour.anchor or ".." in flavour.parts or not flavour.parts or "\0" in name:
            raise DataError(
                f"{annotations}: file_name {name!r} is not a path inside the folder of the images",
                code="bad-file-name",
            )
    return name


def _damaged(image: CocoImage, problem: str) -> DataError:
    return DataError(
        f"a segmentation of {image.name} is damaged: {problem}", code="damaged-segmentation"
    )


def _decode_rle(image: CocoImage, rle: Rle) -> UInt8[np.ndarray, "h w"]:
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


def _decompress(image: CocoImage, text: str) -> list[int]:
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


def _fill_polygons(image: CocoImage, polygons: Polygons) -> UInt8[np.ndarray, "h w"]:
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
