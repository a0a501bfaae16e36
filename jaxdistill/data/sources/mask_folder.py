"""Images and masks as files of equal names in two folders, or in one."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from jaxdistill import config
from jaxdistill.data import decode, mask_values
from jaxdistill.data.image_files import SUFFIXES as IMAGE_SUFFIXES
from jaxdistill.data.mask_values import MaskEncoding
from jaxdistill.data.sources import images
from jaxdistill.data.sources.base import Source, SourceExample, read
from jaxdistill.data.sources.layout import IMAGE_FOLDERS, Found, Root
from jaxdistill.runtime.errors import DataError

_FOLDERS = (
    *("masks", "mask", "annotations", "annots", "labels", "gt", "groundtruth", "ground_truth"),
    *("segmentation", "segmentations", "segmentationclass", "segmentationclasspng", "seg", "segs"),
    *("matte", "mattes", "matting", "alpha", "alphas", "target", "targets", "png_masks"),
)
"""Usual names of a folder of masks, in lower case."""
SUFFIXES = tuple(
    f"{joint}{word}"
    for joint in "_-."
    for word in ("mask", "masks", "matte", "seg", "segmentation", "label", "gt", "alpha", "person")
)
"""Endings that the name of a mask may have besides that of its image, as in `1_mask.png`."""
NO_MASK = "images without a mask"
NO_IMAGE = "masks without an image"
_LOOKED_AT = 64
"""Number of masks from which it is found out what a person is."""


class Entry(NamedTuple):
    """An image and its mask."""

    id: int
    """Place in the order, counted from 1."""
    name: str
    """Path relative to the folder of the images."""
    image: Path
    mask: Path


class _Listing(NamedTuple):
    entries: Sequence[Entry]
    omissions: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class MaskFolder(Source[Entry]):
    """Images, and masks that are image files.

    The mask of `images/a/1.jpg` is `masks/a/1.png`, `masks/a/1.jpg.png` or `masks/a/1_mask.png`
    (see `SUFFIXES`), in any format that can be decoded. Both may be in one folder if the masks have
    such an ending. `data.mask_values` says what a person is.
    """

    NAME = "mask_folder"
    HAS_MASKS = True
    LAYOUT = (
        "a folder of images and, as `annotations`, a folder of masks with the same names, such as "
        "images/1.jpg and masks/1.png"
    )

    @classmethod
    def recognise(cls, root: Root) -> Found | None:
        """Finds folders of masks beside folders of images, or in them; see the base class."""

        def hold_images(*folders: str) -> bool:
            return all(map(root.has_images, folders))

        pairs = root.parallel(IMAGE_FOLDERS, _FOLDERS, hold_images)
        because = ", ".join(f"masks in {other} beside {one}" for one, other in pairs.values())
        folders = root.split_folders()
        if not pairs:
            pairs = {
                kind: (name, other)
                for kind, name in folders.items()
                for other in root.named_in(name, _FOLDERS)
                if _names_in(root, name) & _names_in(root, other)
            }
            because = f"masks in {', '.join(other for _, other in pairs.values())}"
        if not pairs:
            pairs = {kind: (name, name) for kind, name in folders.items() if _mixed(root, name)}
            names = ", ".join(one or "." for one, _ in pairs.values())
            because = f"masks among the images in {names}"
        splits = {
            kind: config.Split(images=Path(one), annotations=Path(other))
            for kind, (one, other) in pairs.items()
        }
        return Found(splits, because) if splits else None

    def check(self) -> None:
        """Checks that both folders exist; see the base class."""
        super().check()
        if self.annotations is not None and self.annotations.is_file():
            raise DataError(
                f"data.{self.split}.annotations: {self.annotations} is a file; expected a folder "
                f"of masks, or an instances file of COCO that ends in .json",
                code="missing-annotations",
            )

    def list_images(self) -> Sequence[Entry]:
        """Returns the images that have a mask, sorted by name; see the base class."""
        return self._listing.entries

    def omissions(self) -> Mapping[str, Sequence[str]]:
        """Returns images without a mask, masks without an image, and formats that are not read."""
        return self._listing.omissions

    def notes(self) -> Sequence[str]:
        """Returns what was found out about the values of the masks."""
        found = self._encoding.note
        return [found] if found and self.settings.mask_values is None else []

    def fingerprint(self) -> str:
        """Returns a fingerprint of the files, and of what a person is in the masks."""
        own = super().fingerprint()
        for folder in filter(None, (self.images, self.annotations)):
            own = images.with_formats(own, folder, self.excluded)
        if self.settings.mask_values is None:
            return own
        return hashlib.sha256(f"{own} {self.settings.mask_values}".encode()).hexdigest()[:32]

    def file(self, entry: Entry) -> Path:
        """Returns the image file; see the base class."""
        return entry.image

    def load(self, entry: Entry) -> SourceExample:
        """Reads an image and its mask; see the base class."""
        example = images.read_image(entry.id, entry.name, entry.image)
        if example.problem:
            return example
        try:
            mask = mask_values.person(_stored(entry.mask), self._encoding)
        except decode.ImageError as error:
            return SourceExample(entry.id, entry.name, problem=f"its mask {entry.mask}: {error}")
        except mask_values.UnknownValuesError as error:
            raise self._unknown(entry.mask, error) from None
        upright = images.is_upright(example.image, mask.shape)
        if upright is None:
            height, width = decode.decode(example.image, upright=True).shape[:2]
            raise DataError(
                f"{entry.mask}: the mask is {mask.shape[0]} x {mask.shape[1]} (height x width), "
                f"but its image {entry.image} is {height} x {width}; they must have one size",
                code="image-size-differs",
            )
        return example._replace(upright=upright, mask=decode.encode_mask(mask))

    @cached_property
    def _encoding(self) -> MaskEncoding:
        """How the masks are read: as configured, or as some of them show."""
        if self.settings.mask_values is not None:
            return MaskEncoding(self.settings.mask_values)
        entries = self._listing.entries
        chosen = entries[:: -(-len(entries) // _LOOKED_AT)]
        try:
            return mask_values.find_out(_decodable(entry.mask for entry in chosen))
        except mask_values.UnknownValuesError as error:
            raise self._unknown(self.annotations, error) from None

    def _unknown(self, place: Path | None, error: mask_values.UnknownValuesError) -> DataError:
        return mask_values.unknown(f"data.{self.split}", place, error)

    @cached_property
    def _listing(self) -> _Listing:
        assert self.annotations is not None
        shared = self.annotations.resolve() == self.images.resolve()
        skipped = (*self.excluded, *(() if shared else (self.annotations,)))
        found = images.by_key(self.images, skipped)
        masks = self._masks(self.annotations)
        if shared:  # of two files of such names in one folder, one is the other's mask
            masks = {key: paths for key, paths in masks.items() if _base(key, found) != key}
            found = {key: paths for key, paths in found.items() if key not in masks}
        pairs, without = self._pair(found, masks)
        if not pairs:
            raise DataError(
                f"data.{self.split}: no mask in {self.annotations} has the name of an image in "
                f"{self.images}; there are {len(found)} images, such as {_first(found)}, and "
                f"{len(masks)} masks, such as {_first(masks)}; expected {self.LAYOUT}",
                code="no-mask-pairs",
            )
        roots = self.images.resolve(), self.annotations.resolve()
        named = sorted((images.printable_name(path, roots[0]), path) for path in pairs)
        entries = [
            Entry(number, name, path, pairs[path])
            for number, (name, path) in enumerate(named, start=1)
        ]
        lonely = {path for paths in masks.values() for path in paths} - set(pairs.values())
        omissions = {
            NO_MASK: sorted(images.printable_name(path, roots[0]) for path in without),
            NO_IMAGE: sorted(images.printable_name(path, roots[1]) for path in lonely),
            **images.unsupported(self.images, skipped),
        }
        return _Listing(entries, {reason: names for reason, names in omissions.items() if names})

    def _masks(self, folder: Path) -> dict[str, list[Path]]:
        """Returns the masks by their path without the suffix."""
        try:
            return images.by_key(folder, self.excluded)
        except DataError as error:
            if error.code != "no-images":
                raise
            raise DataError(
                f"data.{self.split}.annotations: there is no image in {folder}; expected "
                f"{self.LAYOUT}, or an instances file of COCO that ends in .json; for any other "
                f"format set data.source",
                code="no-images",
            ) from None

    def _pair(
        self, found: Mapping[str, Sequence[Path]], masks: Mapping[str, Sequence[Path]]
    ) -> tuple[dict[Path, Path], list[Path]]:
        """Returns the mask of each image, and the images without one.

        Args:
          found: The images by their path without the suffix.
          masks: The masks by their path without the suffix.

        Raises:
          DataError: An image has several masks, or a mask has several images (`ambiguous-mask`).
        """
        with_ending: dict[str, list[Path]] = defaultdict(list)
        for key, paths in masks.items():
            with_ending[_base(key, found)] += paths
        pairs: dict[Path, Path] = {}
        without: list[Path] = []
        taken: set[Path] = set()
        for key, paths in found.items():
            for path in paths:
                by_full_name = masks.get(f"{key}{path.suffix}")
                own = by_full_name or masks.get(key) or with_ending.get(key) or ()
                if len(own) > 1 or taken.intersection(own):
                    names = " and ".join(sorted(each.name for each in {*paths, *own}))
                    raise DataError(
                        f"data.{self.split}: {path.parent}: it cannot be told which mask belongs "
                        f"to which image: {names}; rename or remove what is too many",
                        code="ambiguous-mask",
                    )
                taken.update(own)
                if own:
                    pairs[path] = own[0]
                else:
                    without.append(path)
        return pairs, without


def _mixed(root: Root, folder: str) -> bool:
    """Whether the images in a folder have masks beside them, by the endings of their names."""
    stems = _names_in(root, folder)
    return any(_base(stem, dict.fromkeys(stems)) != stem for stem in stems)


def _names_in(root: Root, folder: str) -> set[str]:
    """Returns the names of the images directly in a folder, without suffixes."""
    return {Path(name).stem for name in root.files_in(folder, IMAGE_SUFFIXES)}


def _base(key: str, found: Mapping[str, object]) -> str:
    """Returns the key of the image to which a mask of that key belongs by its ending."""
    for suffix in SUFFIXES:
        if key.lower().endswith(suffix) and (base := key[: -len(suffix)]) in found:
            return base
    return key


def _first(paths: Mapping[str, Sequence[Path]]) -> str:
    return next((path[0].name for path in paths.values()), "-")


def _decodable(masks: Iterator[Path]) -> Iterator[decode.Stored]:
    for mask in masks:
        try:
            yield _stored(mask)
        except decode.ImageError:  # counted when its image is read
            continue


def _stored(mask: Path) -> decode.Stored:
    return decode.decode_stored(read(mask, decode.MAX_FILE_BYTES))
