"""A split as examples with random access."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from jaxdistill.data import accounting, decode
from jaxdistill.runtime import files

if TYPE_CHECKING:  # slow to import, and not needed to describe a data set
    from jaxdistill.data.builder import ImageDatasetBuilder


class Example(NamedTuple):
    """An image and its mask, before they are resized."""

    image: UInt8[np.ndarray, "h w 3"]
    """RGB."""
    mask: UInt8[np.ndarray, "h w"] | None
    """Grey levels; 255 is a person. None where the image has no mask."""


class Account(NamedTuple):
    """What a prepared data set leaves out, and what is doubtful about it."""

    split: str
    """The key below `data`."""
    size: int
    """Number of images that are used."""
    omissions: Sequence[accounting.Count]
    doubts: Sequence[accounting.Count]
    notes: Sequence[str] = ()
    """How the annotations are read, where that was found out from them."""


class Dataset:
    """The examples of a split, in the order of their prepared data sets.

    Examples are decoded when they are asked for: `dataset[index]`.

    Args:
      *parts: The prepared data sets that the split consists of.
    """

    def __init__(self, *parts: "ImageDatasetBuilder") -> None:
        self._parts = [_Part(part) for part in parts]
        lengths = [len(part.names) for part in self._parts]
        self._starts = np.cumsum([0, *lengths]).tolist()
        self.ids: Int[np.ndarray, " n"] = _distinct([part.ids for part in self._parts])
        """Ids of the images. Those of the first part are its own (COCO's); those of the other parts
        are counted on from the largest id before them."""
        self.names: Sequence[str] = [name for part in self._parts for name in part.names]
        """Paths of the image files, each relative to its folder."""
        self.content_keys: Sequence[str] = [key for part in self._parts for key in part.keys]
        """A key of each image's pixels, 32 hexadecimal digits: equal keys, equal pixels."""
        self.labelled: Bool[np.ndarray, " n"] = np.repeat(
            [part.has_masks for part in self._parts], lengths
        )
        """Whether each image has a mask."""
        self.fingerprint: str = _joined([part.fingerprint for part in self._parts])
        """Digest of all images and masks, wherever they are stored: equal data, equal digest."""
        self.accounts: Sequence[Account] = [part.account for part in self._parts]
        """What each prepared data set leaves out, and what is doubtful about it."""
        self.folders = [part.folder for part in self._parts]
        """Folders of the prepared data sets."""

    def __len__(self) -> int:
        return len(self.ids)

    def name_of(self, id: int) -> str:
        """Returns the path of an image relative to its folder, or `padding` for an unknown id.

        Args:
          id: Id of the image.
        """
        [found] = np.nonzero(self.ids == id)
        return self.names[found[0]] if len(found) else "padding"

    def __getitem__(self, index: int) -> Example:
        """Decodes one example.

        Args:
          index: Its place, from 0.

        Raises:
          IndexError: There is no such place.
          DataError: The prepared data set is damaged (`prepared-data-damaged`), or cannot be read
            at the moment (`prepared-data-io`).
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = bisect_right(self._starts, index) - 1
        return self._parts[place].example(index - self._starts[place])


class _Part:
    """An open prepared data set."""

    def __init__(self, builder: "ImageDatasetBuilder") -> None:
        metadata = builder.info.metadata
        self.has_masks = builder.has_masks
        self.folder = builder.data_path
        self._builder = builder
        try:
            self._parts = "+".join(metadata["parts"])
            self.ids = np.asarray(metadata["ids"], np.int64)
            self.names = [str(name) for name in metadata["names"]]
            self.keys = [str(key) for key in metadata["content_keys"]]
            self.fingerprint = str(metadata["fingerprint"])
            omissions, doubts = (
                accounting.from_lists(metadata[kind]) for kind in ("omissions", "doubts")
            )
            notes = [str(note) for note in metadata.get("notes", ())]
            self.account = Account(builder.split, len(self.names), omissions, doubts, notes)
            self.records = self._open()
            count = len(self.records)
            if (self.ids.shape, len(self.names), len(self.keys)) != ((count,), count, count):
                raise ValueError("its lists differ in length")
        except Exception as error:  # TFDS raises nearly anything on its own damaged files
            raise self._unreadable(error) from None

    def _open(self) -> Any:
        import tensorflow_datasets as tfds

        encoded = ("image", "mask") if self.has_masks else ("image",)
        return self._builder.as_data_source(
            self._parts, decoders={feature: tfds.decode.SkipDecoding() for feature in encoded}
        )

    def example(self, index: int) -> Example:
        try:
            record = files.retry_io(lambda: self._record(index))
            image = decode.decode(record["image"], bool(record["upright"]))
            mask = decode.decode_mask(record["mask"]) if self.has_masks else None
        except Exception as error:  # array_record has no exceptions of its own
            raise self._unreadable(error, self.names[index]) from None
        return Example(image, mask)

    def _record(self, index: int) -> Any:
        try:
            return self.records[index]
        except Exception as error:
            of_system = files.os_error(error)
            if of_system is None:
                raise
            self.records = self._open()  # a reader that has failed once fails forever
            raise of_system from None

    def _unreadable(self, error: Exception, name: str = "") -> Exception:
        from jaxdistill.data import builder

        return builder.unreadable(self.folder, error, name)


def _distinct(parts: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " n"]:
    """Joins ids; those of the second part on are counted on from the largest before them."""
    ids = parts[0]
    for part in parts[1:]:
        ids = np.concatenate([ids, max(0, ids.max()) + part])
    return ids


def _joined(fingerprints: Sequence[str]) -> str:
    if len(fingerprints) == 1:
        return fingerprints[0]
    return hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()
