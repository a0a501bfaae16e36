"""The interface of data sources."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, NamedTuple, TypeVar

from jaxdistill import config
from jaxdistill.data import image_files
from jaxdistill.data.sources.digests import digest_files
from jaxdistill.data.sources.layout import Found, Root
from jaxdistill.data.sources.part import Part
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError

Entry = TypeVar("Entry")
"""What a source knows about an image before the file is read."""


class SourceExample(NamedTuple):
    """An image as it is written into a prepared data set, or the reason why it is left out."""

    id: int
    """Id of the image, unique in its source."""
    name: str
    """Path of the file, relative to the folder of the images."""
    image: bytes = b""
    """Content of the file."""
    upright: bool = False
    """Whether the image is to be rotated by its EXIF orientation."""
    mask: bytes = b""
    """PNG in which white is a person; empty where the source has no masks."""
    problem: str = ""
    """Why the image cannot be decoded; empty if it can."""
    empty_people: int = 0
    """Number of people in the annotations who cover no pixel of the mask."""
    doubt: str = ""
    """Why the mask is probably wrong, with the remedy; empty if there is no doubt."""

    @property
    def content_key(self) -> str:
        """32 hexadecimal digits that stand for the pixels: equal keys, equal pixels."""
        digest = hashlib.sha256(bytes([self.upright]))
        digest.update(self.image)
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Source(ABC, Generic[Entry]):
    """Images in a folder, with or without masks.

    A subclass reads one annotation format. It lists the images, reads each of them with its mask,
    and is registered in `jaxdistill.data.SOURCES`.
    """

    split: str
    """Key of the split below `data`, for messages: `train`, `validation`, `unlabelled`,
    `additional`."""
    images: Path
    """Folder of the images."""
    annotations: Path | None = None
    """File or folder of the annotations; None for a source without masks."""
    excluded: tuple[Path, ...] = ()
    """Folders whose images do not belong to the source, such as that of prepared data sets."""
    digests: Path | None = field(default=None, kw_only=True)
    """Folder in which the digests of the files' contents are remembered; None reads them anew."""
    settings: config.Data = field(default=config.Data(), kw_only=True)
    """The section `data`, whose keys say what a person is: `include_crowds`, `mask_values`."""

    part: Part | None = field(default=None, kw_only=True)
    """The part of the images that belongs to the split; None for all of them."""

    NAME: ClassVar[str]
    """Name in lower case with underscores, by which prepared data sets are filed."""
    HAS_MASKS: ClassVar[bool]
    """Whether every example has a mask."""
    LAYOUT: ClassVar[str]
    """The expected files, for messages, such as `a folder of images and a folder of masks`."""

    @classmethod
    def recognise(cls, root: Root) -> Found | None:
        """Returns the splits of a folder that has the layout of this source; None if it has not.

        Args:
          root: The folder.
        """
        return None

    @abstractmethod
    def list_images(self) -> Sequence[Entry]:
        """Returns an entry for each image, in the order of the data set.

        Raises:
          DataError: There is no image, or one is missing.
        """

    def omissions(self) -> Mapping[str, Sequence[str]]:
        """Returns what `list_images` leaves out: for each reason, the names of the images.

        A reason is a plural, such as `images without a person`.
        """
        return {}

    def notes(self) -> Sequence[str]:
        """Returns lines about how the annotations are read, where that was found out from them."""
        return ()

    @abstractmethod
    def file(self, entry: Entry) -> Path:
        """Returns the image file of an entry."""

    def name(self, entry: Entry) -> str:
        """Returns the path of an image relative to the folder of the images."""
        path = self.file(entry)
        for root in (self.images, self.images.resolve()):
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return path.name

    def size(self, entry: Entry) -> int:
        """Returns about how many bytes an image takes."""
        path = self.file(entry)
        return path.stat().st_size if path.is_file() else 0

    def entries(self) -> Sequence[Entry]:
        """Returns what `list_images` lists of the images that belong to the split.

        Raises:
          DataError: See `list_images`; or none belongs to the split (`drawn-split-empty`).
        """
        listed = self.list_images()
        if self.part is None:
            return listed
        own = [entry for entry in listed if self.part.holds(self.name(entry))]
        if not own:
            raise DataError(
                f"data.{self.split}: a share of {self.part.share:.2%} of {len(listed)} images "
                f"leaves none to one of the splits; choose another share as data.validation",
                code="drawn-split-empty",
            )
        return own

    def left_out(self) -> Mapping[str, Sequence[str]]:
        """Returns what `omissions` names of the images that belong to the split."""
        return {
            reason: own
            for reason, names in self.omissions().items()
            if (own := [name for name in names if self.part is None or self.part.holds(name)])
        }

    def key(self) -> str:
        """Returns 32 hexadecimal digits by which the prepared data set of the split is found."""
        own = self.fingerprint()
        if self.part is None:
            return own
        return hashlib.sha256(f"{own} {self.part}".encode()).hexdigest()[:32]

    @abstractmethod
    def load(self, entry: Entry) -> SourceExample:
        """Reads an image and its mask. Several threads call this method.

        Returns:
          The example. Its `problem` is set if the image cannot be decoded; such images are left out
          as long as they are rare.

        Raises:
          DataError: The image or its annotation is wrong in a way that must not be ignored.
        """

    def fingerprint(self) -> str:
        """Returns 32 hexadecimal digits that change when the files of the source change.

        The default covers names and contents of all files in `images` and `annotations`. A file is
        not read again as long as its size and modification time stay (`digests`).
        """
        digest = hashlib.sha256()
        if self.annotations is not None and not self.annotations.is_dir():
            digest.update(read(self.annotations, self.MAX_ANNOTATION_BYTES))
        for root in filter(None, (self.images, self.annotations)):
            if root.is_dir():
                digest_files(digest, list(_files(root, self.excluded)), root, self.digests)
        return digest.hexdigest()[:32]

    MAX_ANNOTATION_BYTES: ClassVar[int] = 2**32
    """Largest size of an annotation file: nine times COCO's own."""

    def check(self) -> None:
        """Checks that the folder of the images and the annotations exist.

        Raises:
          DataError: One does not (`missing-images`, `missing-annotations`).
        """
        if not self.images.is_dir():
            root = self.settings.root
            if root is not None and not root.is_dir():
                fault = "is not a folder" if root.exists() else "does not exist"
                raise DataError(
                    f"data.root: {root.absolute()} {fault}; expected the folder with "
                    f"data.{self.split}.images, {self.images}",
                    code="missing-images",
                )
            advice = ""
            if root is not None and self.annotations is None and _holds_images(root):
                advice = f"; for the images in {root}: data.train.images=. data.validation=10%"
            raise DataError(
                f"data.{self.split}: there is no folder {self.images}; expected {self.LAYOUT}"
                f"{advice}",
                code="missing-images",
            )
        if self.annotations is not None and not self.annotations.exists():
            raise DataError(
                f"data.{self.split}.annotations: {self.annotations} does not exist; expected "
                f"{self.LAYOUT}",
                code="missing-annotations",
            )


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in image_files.SUFFIXES for path in folder.iterdir())


def read(path: Path, limit: int) -> bytes:
    """Returns the content of a file.

    Args:
      path: The file.
      limit: The largest size that is read, in bytes.

    Raises:
      DataError: The file cannot be read (`unreadable-file`).
    """
    try:
        return files.read(path, limit)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}", code="unreadable-file"
        ) from None


def _files(root: Path, excluded: Sequence[Path]) -> Iterator[Path]:
    skipped = {folder.resolve() for folder in excluded}
    for folder, folders, names in files.walk(root):
        folders[:] = sorted(name for name in folders if (folder / name).resolve() not in skipped)
        for name in sorted(names):
            yield folder / name
