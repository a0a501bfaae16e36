"""A folder of photographs, as anyone has it: all pictures in it and below, without masks."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxdistill.data import decode, image_files
from jaxdistill.data.builder import Loaded, Source


class Photograph(NamedTuple):
    """A picture's file; its id is its place in the order, counted from 1."""

    id: int
    name: str
    picture: image_files.Picture


@dataclass(frozen=True)
class PlainFolder(Source[Photograph]):
    """Pictures folder by folder, sorted by name, turned upright as the EXIF orientation says."""

    prepared: Path
    """Where data sets are written to: no photographs of the user's."""

    NAME = "plain_folder"
    LABELLED = False

    @property
    def listing(self) -> str:
        return "the folder"

    def fingerprint(self) -> str:
        """Of the pictures' names, sizes and times."""
        digest = hashlib.sha256()
        for photograph in self.find():
            path = self.file(photograph)
            status = path.stat() if path.exists() else path.lstat()
            name = os.fsencode(path.relative_to(self.images.resolve()))
            digest.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return digest.hexdigest()[:32]

    def find(self) -> Sequence[Photograph]:
        found = image_files.find([str(self.images)], [self.prepared])
        return [
            Photograph(
                number, _printable(picture.source.relative_to(self.images.resolve())), picture
            )
            for number, picture in enumerate(found, start=1)
        ]

    def file(self, found: Photograph) -> Path:
        return found.picture.source

    def load(self, found: Photograph) -> Loaded:
        try:
            data = found.picture.read()
            decode.decode(data, upright=True)
        except OSError as error:
            return Loaded(found.id, found.name, problem=error.strerror or str(error))
        except decode.PictureError as error:
            return Loaded(found.id, found.name, problem=str(error))
        return Loaded(found.id, found.name, data, upright=True)


def _printable(path: Path) -> str:
    """A name whose bytes are no text is still one that can be printed."""
    return os.fsencode(path).decode(errors="backslashreplace")
