"""Images with a COCO instances file; the mask of an image is the union of its people."""

import contextlib
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxdistill.data import decode, image_files
from jaxdistill.data.sources import categories, coco_json, coco_layout, drawing, outlines
from jaxdistill.data.sources.base import Source, SourceExample, read
from jaxdistill.data.sources.layout import Found, Root
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError

_FIRST_TRANSPOSED = 5  # EXIF orientations 5 to 8 swap height and width


@dataclass(frozen=True)
class Coco(Source[coco_json.CocoImage]):
    """The images of a COCO instances file that show a person with an outline.

    Crowds (`iscrowd: 1`) are people if `data.include_crowds` is set.

    Ids are COCO's, and the order is that of the file.
    """

    NAME = "coco"
    HAS_MASKS = True
    LAYOUT = (
        "a folder in COCO layout below data.root: images, and an instances file (JSON) as "
        "`annotations`"
    )

    @classmethod
    def recognise(cls, root: Root) -> Found | None:
        """Finds instances files and the folders of their images; see the base class."""
        return coco_layout.recognise(root)

    def list_images(self) -> Sequence[coco_json.CocoImage]:
        """Returns the images with people; see the base class."""
        images = self._listing.images
        missing = [image.name for image in images if not files.is_file(self.file(image))]
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(
                f"{self._file}: the image {missing[0]}{others} is not in {self.images}",
                code="missing-image",
            )
        return images

    def omissions(self) -> Mapping[str, Sequence[str]]:
        """Returns crowds, people without an outline, and images without people."""
        return self._listing.omissions

    def fingerprint(self) -> str:
        """Returns a fingerprint of the files, and of who is a person in them."""
        own = super().fingerprint()
        if self.settings.include_crowds:
            own = hashlib.sha256(f"{own} with crowds".encode()).hexdigest()[:32]
        if not categories.is_wanted(self.settings.category, "person"):
            category = f"{own} {self.settings.category!r}"
            own = hashlib.sha256(category.encode(errors="replace")).hexdigest()[:32]
        if self._has_turned_tiff():  # they were once stored as if they were upright
            own = hashlib.sha256(f"{own} turned TIFF".encode()).hexdigest()[:32]
        return own

    def file(self, entry: coco_json.CocoImage) -> Path:
        """Returns the image file, also where Windows or macOS wrote its name differently."""
        path = self.images / entry.name
        if files.is_file(path):
            return path
        name = entry.name.replace("\\", "/")
        forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        return next((p for form in forms if files.is_file(p := self.images / form)), path)

    def load(self, entry: coco_json.CocoImage) -> SourceExample:
        """Reads an image and draws its mask; see the base class."""
        path = self.file(entry)
        data = read(path, decode.MAX_FILE_BYTES)
        declared = (entry.height, entry.width)
        try:
            upright = decode.decode(data).shape[:2] != declared or (
                self._is_ambiguous(entry) and self._dataset_is_upright
            )
            shape = decode.decode(data, upright).shape[:2] if upright else declared
        except decode.ImageError as error:
            return SourceExample(entry.id, entry.name, problem=str(error))
        if shape != declared:
            raise DataError(
                f"{self._file}: {entry.name} is {declared[0]} x {declared[1]} (height x width) "
                f"there, but {path} is {shape[0]} x {shape[1]}; mask and image must have one size",
                code="image-size-differs",
            )
        drawn = drawing.draw(entry)
        return SourceExample(
            entry.id,
            entry.name,
            data,
            upright,
            decode.encode_mask(drawn.mask),
            empty_people=drawn.empty,
            doubt=_doubt(entry),
        )

    def _has_turned_tiff(self) -> bool:
        for path in image_files.files_below(self.images, ()):
            if path.suffix.lower() in (".tif", ".tiff"):
                with contextlib.suppress(decode.ImageError):
                    if decode.orientation(path)[0] != 1:
                        return True
        return False

    def _is_ambiguous(self, entry: coco_json.CocoImage) -> bool:
        """Whether the size in the annotations leaves open how the image is to be oriented.

        COCO's sizes tell whether masks are drawn on the pixels as stored or on the upright image,
        except for images that are upside down, mirrored, or square.
        """
        orientation, _ = decode.orientation(self.file(entry))
        return orientation != 1 and self._is_declared_upright(entry) is None

    def _is_declared_upright(self, entry: coco_json.CocoImage) -> bool | None:
        """Whether a transposed image has its upright size in the annotations; None if unknown."""
        orientation, size = decode.orientation(self.file(entry))
        if orientation < _FIRST_TRANSPOSED or size[0] == size[1]:
            return None
        return size != (entry.height, entry.width)

    @cached_property
    def _dataset_is_upright(self) -> bool:
        """Orientation convention of the annotation file.

        It is taken from the first transposed image that is not square; without one, masks are
        drawn on the pixels as stored.
        """
        for image in self.list_images():
            with contextlib.suppress(decode.ImageError):
                if (upright := self._is_declared_upright(image)) is not None:
                    return upright
        return False

    @cached_property
    def _listing(self) -> coco_json.Listing:
        settings = self.settings
        return coco_json.images_with_people(
            self._file, self._content(), settings.include_crowds, settings.category
        )

    @property
    def _file(self) -> Path:
        assert self.annotations is not None
        return self.annotations

    def _content(self) -> bytes:
        return read(self._file, self.MAX_ANNOTATION_BYTES)


def _doubt(image: coco_json.CocoImage) -> str:
    """Returns why the outlines of an image are probably wrong; empty if they are not."""
    if all(map(outlines.is_share, image.people)):
        return (
            "all corners lie in [0, 1], as shares of the image; expected pixels: multiply x by the "
            "width and y by the height"
        )
    if any(outlines.fits_turned_only(one, image.height, image.width) for one in image.people):
        return (
            "an outline leaves the image, and would fit if the image were turned by 90 degrees: "
            "height and width are those of the pixels as stored, the outline was drawn on the "
            "upright image; write the upright height and width, and the EXIF orientation is applied"
        )
    return ""
