"""A folder of images without masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxdistill.data import image_files
from jaxdistill.data.sources import images
from jaxdistill.data.sources.base import Source, SourceExample
from jaxdistill.data.sources.digests import fingerprint
from jaxdistill.data.sources.layout import Found, Root


class Entry(NamedTuple):
    """An image of the folder."""

    id: int
    """Place in the order, counted from 1."""
    name: str
    """Path relative to the folder."""
    image: image_files.ImageFile
    """The file."""


@dataclass(frozen=True)
class ImageFolder(Source[Entry]):
    """All images in a folder and below, sorted by name, and rotated by their EXIF orientation."""

    NAME = "image_folder"
    HAS_MASKS = False
    LAYOUT = "a folder of images below data.root"

    @classmethod
    def recognise(cls, root: Root) -> Found | None:
        """Finds folders of images; see the base class. Other layouts come before this one."""
        return root.without_masks("images without masks", image_files.SUFFIXES)

    def fingerprint(self) -> str:
        """Returns a fingerprint of the images alone: other files in the folder do not matter."""
        paths = [self.file(entry) for entry in self.list_images()]
        return fingerprint(paths, self.images.resolve(), self.digests)

    def list_images(self) -> Sequence[Entry]:
        """Returns the images; see the base class."""
        found = image_files.find_images([str(self.images)], [], self.excluded)
        root = self.images.resolve()
        return [
            Entry(number, images.printable_name(image.source, root), image)
            for number, image in enumerate(found, start=1)
        ]

    def omissions(self) -> Mapping[str, Sequence[str]]:
        """Returns the images of formats that cannot be decoded."""
        return images.unsupported(self.images, self.excluded)

    def file(self, entry: Entry) -> Path:
        """Returns the image file; see the base class."""
        return entry.image.source

    def load(self, entry: Entry) -> SourceExample:
        """Reads an image; see the base class."""
        return images.read_image(entry.id, entry.name, entry.image.source)
