"""A folder of images without masks."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxdistill.data import decode, image_files
from jaxdistill.data.sources.base import Source, SourceExample
from jaxdistill.data.sources.contents import digest_files
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError


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

    def fingerprint(self) -> str:
        """Returns a fingerprint of the images alone: other files in the folder do not matter."""
        digest = hashlib.sha256()
        paths = [self.file(entry) for entry in self.list_images()]
        digest_files(digest, paths, self.images.resolve(), self.digests)
        return digest.hexdigest()[:32]

    def list_images(self) -> Sequence[Entry]:
        """Returns the images; see the base class."""
        found = image_files.find_images([str(self.images)], [], self.excluded)
        root = self.images.resolve()
        return [
            Entry(number, _printable(image.source.relative_to(root)), image)
            for number, image in enumerate(found, start=1)
        ]

    def omissions(self) -> Mapping[str, Sequence[str]]:
        """Returns the images of formats that cannot be decoded."""
        found = image_files.unsupported_images([str(self.images)], [], self.excluded)
        root = self.images.resolve()
        names = [_printable(path.relative_to(root)) for path in found]
        return {f"images of {image_files.UNSUPPORTED}": names} if names else {}

    def file(self, entry: Entry) -> Path:
        """Returns the image file; see the base class."""
        return entry.image.source

    def load(self, entry: Entry) -> SourceExample:
        """Reads an image; see the base class."""
        try:
            data = entry.image.read()
            decode.decode(data, upright=True)
        except OSError as error:
            if error.errno not in files.STRUCTURE_ERRORS:  # the image may be intact
                raise DataError(
                    f"{entry.image.source}: cannot be read: {error.strerror}",
                    code="unreadable-file",
                ) from None
            return SourceExample(entry.id, entry.name, problem=error.strerror or str(error))
        except decode.ImageError as error:
            return SourceExample(entry.id, entry.name, problem=str(error))
        return SourceExample(entry.id, entry.name, data, upright=True)


def _printable(path: Path) -> str:
    """Returns a name without bytes that are not text."""
    return os.fsencode(path).decode(errors="backslashreplace")
