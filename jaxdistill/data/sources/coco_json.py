"""Reading of COCO instances files, which are untrusted JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, NamedTuple

from pydantic import FailFast, Field, TypeAdapter

from jaxdistill.data.sources import categories, json_files, outlines
from jaxdistill.data.sources.outlines import Outline, Segmentation, Side
from jaxdistill.runtime.errors import DataError

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


def images_with_people(
    annotations: Path,
    data: bytes,
    include_crowds: bool = False,
    category: str | int = "person",
) -> Listing:
    """Returns the images that show a person who has an outline.

    Args:
      annotations: Name of the file, for messages.
      data: Content of the file: COCO instances.
      include_crowds: Whether annotations with `iscrowd: 1` are people, too.
      category: Name, in any case, or id of the category that is a person.

    Raises:
      DataError: The content is not valid COCO instances (`not-json`, `not-coco`, `bad-file-name`,
        `duplicate-image-id`, `unknown-image-id`), has no such category (`no-person-category`),
        or shows nobody (`no-people`), or nobody with an outline (`no-segmentation`).
    """
    instances = _parse(annotations, data)
    person = categories.find(
        category, [(each.id, each.name) for each in instances.categories], str(annotations)
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


def _parse(annotations: Path, data: bytes) -> _Instances:
    return json_files.parse(
        annotations,
        data,
        _INSTANCES,
        lambda problem: DataError(
            f"{annotations}: not a COCO instances file: {problem}", code="not-coco"
        ),
    )


def _inside(annotations: Path, name: str) -> str:
    for flavour in (PurePosixPath(name), PureWindowsPath(name)):
        if flavour.anchor or ".." in flavour.parts or not flavour.parts or "\0" in name:
            raise DataError(
                f"{annotations}: file_name {name!r} is not a path inside the folder of the images",
                code="bad-file-name",
            )
    return name
