"""What the formats have in common in which each image has an annotation file of its own."""

import hashlib
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from jaxdistill.data import decode, image_files
from jaxdistill.data.sources import drawing, images
from jaxdistill.data.sources.base import Source, SourceExample, read
from jaxdistill.data.sources.coco_json import NO_OUTLINE, NOBODY
from jaxdistill.data.sources.outlines import Outline
from jaxdistill.runtime.errors import DataError

NO_ANNOTATION = "images without an annotation file"
NO_IMAGE = "annotation files without an image"
LARGEST = 2**28
"""Largest size of an annotation file in bytes; LabelMe's may hold the image."""


class People(NamedTuple):
    """The people of an image, as its annotation file describes them."""

    outlines: Sequence[Outline] = ()
    """An outline of each, in pixels, or in shares of the image where the source says so."""
    without_outline: int = 0
    """Number of people who have none: a box, a line, a point."""
    size: tuple[int, int] | None = None
    """Height and width of the image; None where the file does not say."""


class Entry(NamedTuple):
    """An image with people."""

    id: int
    """Place in the order, counted from 1."""
    name: str
    """Path relative to the folder of the images."""
    image: Path
    annotation: Path
    people: People


class Drawn(NamedTuple):
    """An image of known size with people, as `drawing.draw` takes it."""

    name: str
    height: int
    width: int
    people: Sequence[Outline]


@dataclass(frozen=True)
class Annotated(Source[Entry]):
    """Images that each have an annotation file of their own, in a folder that mirrors theirs.

    Images without a person are left out, as they are from COCO's files. Masks are drawn as COCO's.
    """

    HAS_MASKS = True
    ENDINGS: ClassVar[Collection[str]]
    """Suffixes of annotation files."""

    @abstractmethod
    def read_people(self, file: Path, content: bytes) -> People:
        """Reads an annotation file.

        Args:
          file: Its path, for messages.
          content: Its content.

        Raises:
          DataError: The content is not of the format.
        """

    def scaled(self, people: People, size: tuple[int, int]) -> Sequence[Outline]:
        """Returns the outlines of people in pixels.

        Args:
          people: As they were read.
          size: Height and width of the image.
        """
        return people.outlines

    def image_of(self, entry: Entry) -> bytes | None:
        """Returns the content of an image that is not a file of its own; None if it is one."""
        return None

    def list_images(self) -> Sequence[Entry]:
        """Returns the images with people, sorted by name; see the base class."""
        return self._listing[0]

    def omissions(self) -> Mapping[str, Sequence[str]]:
        """Returns images without annotations or people, people without an outline, and so on."""
        return self._listing[1]

    def fingerprint(self) -> str:
        """Returns a fingerprint of the files, and of who is a person in them."""
        files = images.with_formats(super().fingerprint(), self.images, self.excluded)
        own = f"{files} {self.settings.category!r}"
        return hashlib.sha256(own.encode(errors="replace")).hexdigest()[:32]

    def file(self, entry: Entry) -> Path:
        """Returns the image file; see the base class."""
        return entry.image

    def load(self, entry: Entry) -> SourceExample:
        """Reads an image and draws its mask; see the base class."""
        example = images.read_image(entry.id, entry.name, entry.image, self.image_of(entry))
        if example.problem:
            return example
        size = entry.people.size or decode.decode(example.image, upright=True).shape[:2]
        upright = images.is_upright(example.image, size)
        if upright is None:
            height, width = decode.decode(example.image, upright=True).shape[:2]
            raise DataError(
                f"{entry.annotation}: the image is {size[0]} x {size[1]} (height x width) there, "
                f"but {entry.image} is {height} x {width}; they must have one size",
                code="image-size-differs",
            )
        outlines = self.scaled(entry.people, size)
        drawn = drawing.draw(Drawn(entry.name, size[0], size[1], outlines))
        mask = decode.encode_mask(drawn.mask)
        return example._replace(upright=upright, mask=mask, empty_people=drawn.empty)

    def pairs(self) -> Iterator[tuple[str, Path | None, Path | None]]:
        """Yields name, image and annotation file, of which one may be missing, sorted by name.

        Raises:
          DataError: It cannot be told to which image a file belongs (`ambiguous-mask`).
        """
        assert self.annotations is not None
        annotations = self.annotation_files(self.annotations)
        root = self.images.resolve()
        for key, paths in sorted(images.by_key(self.images, self.excluded).items()):
            own = {path: annotations.pop(f"{key}{path.suffix}", None) for path in sorted(paths)}
            common = annotations.pop(key, None)
            sharing = [path for path, file in own.items() if file is None]
            if common and len(sharing) > 1:
                raise self.ambiguous(sharing)
            for path, file in own.items():
                yield images.printable_name(path, root), path, file or common
        for key, file in sorted(annotations.items()):
            yield key, None, file

    def ambiguous(self, paths: Sequence[Path]) -> DataError:
        """Returns the error for images that have one annotation file.

        Args:
          paths: The images.
        """
        names = " and ".join(images.printable_name(path, self.images.resolve()) for path in paths)
        return DataError(
            f"data.{self.split}: {self.images}: {names} have one annotation file; rename or remove "
            f"what is too many",
            code="ambiguous-mask",
        )

    def annotation_files(self, folder: Path) -> dict[str, Path]:
        """Returns the annotation files in a folder and below, by their path without the suffix."""
        root = folder.resolve()
        return {
            images.key_of(path, root): path
            for path in image_files.files_below(root, ())
            if path.suffix.lower() in self.ENDINGS and not path.name.startswith(".")
        }

    @cached_property
    def _listing(self) -> tuple[Sequence[Entry], Mapping[str, Sequence[str]]]:
        omissions: dict[str, list[str]] = defaultdict(list)
        entries: list[Entry] = []
        for name, image, file in self.pairs():
            if image is None:
                omissions[NO_IMAGE].append(name)
                continue
            people = None if file is None else self.read_people(file, read(file, LARGEST))
            if people is None or file is None:
                omissions[NO_ANNOTATION].append(name)
                continue
            omissions[NO_OUTLINE] += [name] * people.without_outline
            if people.outlines:
                entries.append(Entry(len(entries) + 1, name, image, file, people))
            else:
                omissions[NOBODY].append(name)
        if not entries:
            raise self._nobody(omissions)
        unsupported = images.unsupported(self.images, self.excluded)
        found = {**omissions, **unsupported}
        return entries, {reason: names for reason, names in found.items() if names}

    def _nobody(self, omissions: Mapping[str, Sequence[str]]) -> DataError:
        counts = ", ".join(f"{len(names)} {reason}" for reason, names in omissions.items() if names)
        has_boxes = bool(omissions.get(NO_OUTLINE))
        return DataError(
            f"data.{self.split}: {self.annotations}: no image shows a person with an outline: "
            f"{counts}; expected {self.LAYOUT}, and data.category (now {self.settings.category!r}) "
            f"as the name or number of a person",
            code="no-segmentation" if has_boxes else "no-people",
        )
