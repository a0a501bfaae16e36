"""What is in the splits of a folder: sizes, people, duplicates, and what is wrong with images."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxdistill import config
from jaxdistill.data import decode, layouts, loader
from jaxdistill.data.dataset import Example
from jaxdistill.data.sources.base import Source
from jaxdistill.data.sources.selection import sources_of
from jaxdistill.runtime.errors import DataError

_AHEAD = 64  # images that are read before their results are taken
_FULL = 1.0


class CheckedImage(NamedTuple):
    """What was found out about an image."""

    split: str
    """Key of the split below `data`."""
    name: str
    place: int
    """Its place among the images of the split, from 0."""
    size: tuple[int, int] = (0, 0)
    """Height and width in pixels."""
    person: float | None = None
    """Share of the pixels that are a person; None without a mask."""
    pixels: str = ""
    """Digest of the size and the pixels: equal digests, equal images."""
    problem: str = ""
    """Why the image cannot be used; empty if it can."""


@dataclass
class CheckedSplit:
    """What was found out about a split."""

    source: Source[Any]
    entries: Sequence[Any]
    """What the source knows of each image."""
    images: list[CheckedImage] = field(default_factory=list)
    omissions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of images by the reason why they are left out."""
    notes: Sequence[str] = ()
    """How the annotations are read, where that was found out from them."""

    @property
    def usable(self) -> list[CheckedImage]:
        """The images that can be used."""
        return [image for image in self.images if not image.problem]

    @property
    def problems(self) -> list[CheckedImage]:
        """The images that cannot be used."""
        return [image for image in self.images if image.problem]

    @property
    def empty(self) -> list[CheckedImage]:
        """The images whose mask shows nobody."""
        return [image for image in self.usable if image.person == 0]

    @property
    def full(self) -> list[CheckedImage]:
        """The images whose mask shows nothing else than a person."""
        return [image for image in self.usable if image.person == _FULL]

    def example(self, image: CheckedImage) -> Example:
        """Reads an image of the split again, with its mask.

        Args:
          image: One of `usable`.
        """
        return read_example(self.source, self.entries[image.place])


class DataCheck(NamedTuple):
    """What was found out about a folder."""

    settings: config.Data
    """The section `data` of the configuration, with the splits that were found."""
    layout_note: str
    """What the folder was taken for; empty where nothing had to be found."""
    splits: Mapping[str, CheckedSplit]
    """By the key below `data`."""
    duplicates: Sequence[Sequence[CheckedImage]]
    """Groups of images with equal pixels."""

    @property
    def across(self) -> Sequence[Sequence[CheckedImage]]:
        """Groups of images with equal pixels that are in training as well as in validation."""
        return [group for group in self.duplicates if _is_across(group)]

    @property
    def within(self) -> Sequence[Sequence[CheckedImage]]:
        """Groups of images with equal pixels of which all are in training, or in validation."""
        return [group for group in self.duplicates if not _is_across(group)]


def _is_across(group: Sequence[CheckedImage]) -> bool:
    return len({each.split == "validation" for each in group}) > 1


def check_data(
    settings: config.Data, progress: Callable[[int, int], None] = lambda done, total: None
) -> DataCheck:
    """Reads all images and masks of a folder once, and prepares nothing.

    Args:
      settings: The section `data` of a configuration; a validation split may be missing.
      progress: Called with the number of images that were read, and of all.

    Raises:
      DataError: The layout is not known, or the annotations cannot be read at all. What is wrong
        with single images is in the result.
    """
    layout = layouts.recognise(settings, need_validation=False)
    found = list(_sources(layout.settings))
    for source in found:
        source.check()
    splits = {  # what a person is in masks is found out before any is read
        source.split: CheckedSplit(source, source.entries(), notes=source.notes())
        for source in found
    }
    total = sum(len(split.entries) for split in splits.values())
    done = 0
    for split in splits.values():
        for image in _look_at_all(split, loader.decoding_threads(settings.workers)):
            split.images.append(image)
            progress(done := done + 1, total)
        split.omissions = split.source.left_out()
    by_pixels: dict[str, list[CheckedImage]] = defaultdict(list)
    for split in splits.values():
        for image in split.usable:
            by_pixels[image.pixels].append(image)
    duplicates = [group for group in by_pixels.values() if len(group) > 1]
    return DataCheck(layout.settings, layout.note, splits, duplicates)


def _sources(settings: config.Data) -> Iterator[Source[Any]]:
    yield from sources_of(settings, "train")
    if settings.validation != settings.train:
        yield from sources_of(settings, "validation")


def _look_at_all(split: CheckedSplit, workers: int) -> Iterator[CheckedImage]:
    """Yields the images in order; threads check a few of them ahead."""
    entries = list(enumerate(split.entries))
    with ThreadPoolExecutor(workers, thread_name_prefix="check-data") as pool:
        for start in range(0, len(entries), _AHEAD):
            yield from pool.map(
                lambda each: _look_at(split.source, each[0], each[1]),
                entries[start : start + _AHEAD],
            )


def _look_at(source: Source[Any], place: int, entry: Any) -> CheckedImage:
    name = source.name(entry)
    try:
        image, mask = read_example(source, entry)
    except (DataError, decode.ImageError) as error:
        return CheckedImage(source.split, name, place, problem=str(error))
    person = None if mask is None else float((mask > 127).mean())
    return CheckedImage(source.split, name, place, image.shape[:2], person, _digest(image))


def read_example(source: Source[Any], entry: Any) -> Example:
    """Reads and decodes an image of a source, with its mask.

    Args:
      source: The source.
      entry: One of its entries.

    Raises:
      ImageError: The image cannot be decoded.
      DataError: The image or its annotation is wrong.
    """
    example = source.load(entry)
    if example.problem:
        raise decode.ImageError(f"{example.name}: {example.problem}")
    mask = decode.decode_mask(example.mask) if example.mask else None
    return Example(decode.decode(example.image, example.upright), mask)


def _digest(image: UInt8[np.ndarray, "h w 3"]) -> str:
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
