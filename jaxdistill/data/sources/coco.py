"""A folder in COCO layout: pictures with at least one person, and the union of their people."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxdistill.data import decode
from jaxdistill.data.builder import Loaded, Source
from jaxdistill.data.sources import coco_json
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import UserError

_ON_ITS_SIDE = 5  # EXIF orientations from here on turn by 90 degrees


@dataclass(frozen=True)
class CocoFolder(Source[coco_json.Picture]):
    """Pictures by COCO's ids, in the annotation file's order; a mask is the union of the people."""

    annotations: Path

    NAME = "coco_person"
    LABELLED = True

    @property
    def listing(self) -> str:
        return self.annotations.name

    def fingerprint(self) -> str:
        """Of the annotations' bytes and the pictures' names, sizes and times."""
        digest = hashlib.sha256(self._content())
        for folder, folders, names in files.walk(self.images):
            folders.sort()
            for name in sorted(names):
                path = folder / name
                status = path.stat() if path.exists() else path.lstat()
                place = path.relative_to(self.images)
                line = f"{place}\0{status.st_size}\0{status.st_mtime_ns}\0"
                digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()[:32]

    def find(self) -> Sequence[coco_json.Picture]:
        found = coco_json.pictures_with_people(self.annotations, self._content())
        if not found:
            raise UserError(f"{self.annotations}: no image has a person outside of a crowd")
        missing = [picture.name for picture in found if not self.file(picture).is_file()]
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(
                f"{self.annotations} names the picture {missing[0]}{others}, "
                f"which is not in {self.images}"
            )
        return found

    def file(self, found: coco_json.Picture) -> Path:
        return self.images / found.name

    def load(self, found: coco_json.Picture) -> Loaded:
        path = self.file(found)
        data = _read(path, decode.LARGEST_FILE)
        declared = (found.height, found.width)
        try:
            upright = decode.decode(data).shape[:2] != declared or (
                self._may_be_either(found) and self._others_are_upright
            )
            shape = decode.decode(data, upright).shape[:2] if upright else declared
        except decode.PictureError as error:
            return Loaded(found.id, found.name, problem=str(error))
        if shape != declared:
            raise UserError(
                f"mask and image of different size (height x width): {self.annotations} says "
                f"{declared[0]} x {declared[1]}, {path} is {shape[0]} x {shape[1]}"
            )
        mask = decode.encode_mask(coco_json.draw(found))
        return Loaded(found.id, found.name, data, upright, mask)

    def _may_be_either(self, found: coco_json.Picture) -> bool:
        """COCO's sizes say whether its masks are for the pictures as stored, or turned upright; but
        not of one that is upside down, mirrored, or square."""
        orientation, _ = decode.orientation(self.file(found))
        return orientation != 1 and self._says(found) is None

    def _says(self, found: coco_json.Picture) -> bool | None:
        """Whether a picture that lies on its side is declared upright; None for any other."""
        orientation, size = decode.orientation(self.file(found))
        if orientation < _ON_ITS_SIDE or size[0] == size[1]:
            return None
        return size != (found.height, found.width)

    @cached_property
    def _others_are_upright(self) -> bool:
        """As the first picture says that says it; as stored, if none does."""
        for found in self.find():
            with contextlib.suppress(decode.PictureError):
                if (says := self._says(found)) is not None:
                    return says
        return False

    def _content(self) -> bytes:
        return _read(self.annotations, coco_json.LARGEST_FILE)


def _read(path: Path, most: int) -> bytes:
    try:
        return files.read(path, most)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
