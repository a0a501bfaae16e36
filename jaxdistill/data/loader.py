"""Splits as batches: shuffled, decoded in threads, and each a function of (seed, step) alone."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int, UInt8

from jaxdistill import config
from jaxdistill.data import builder, decode, image_ops
from jaxdistill.data.sources.coco import CocoFolder
from jaxdistill.data.sources.image_folder import PlainFolder
from jaxdistill.runtime.errors import UserError, first_line
from jaxdistill.types import Batch


class Photograph(NamedTuple):
    """An example as it was found, before resizing."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"] | None
    """Grey levels; 255 is a person. None where there is none."""


class Dataset:
    """The dataset of a split, in the order of the data sets that it is made of, and within each in
    its own; any of them can be had at once."""

    def __init__(self, *parts: builder.Pictures) -> None:
        self._parts = [_Part(part) for part in parts]
        lengths = [len(part.names) for part in self._parts]
        self._starts = np.cumsum([0, *lengths]).tolist()
        self.ids: Int[np.ndarray, " n"] = _distinct([part.ids for part in self._parts])
        """COCO's; pictures without one are counted, after the largest that there is."""
        self.names: Sequence[str] = [name for part in self._parts for name in part.names]
        """Of the files, each relative to its folder."""
        self.labelled: Bool[np.ndarray, " n"] = np.repeat(
            [part.labelled for part in self._parts], lengths
        )
        """Which have a mask."""
        self.fingerprint: str = _joined([part.fingerprint for part in self._parts])
        """Of all pictures and masks, wherever they lie: equal data, equal fingerprint."""
        self.folders = [part.folder for part in self._parts]
        """Where the prepared data sets lie."""

    def __len__(self) -> int:
        return len(self.ids)

    def name_of(self, picture: int) -> str:
        """The file of an id, relative to the pictures' folder; `padding` where there is none."""
        [found] = np.nonzero(self.ids == picture)
        return self.names[found[0]] if len(found) else "padding"

    def __getitem__(self, index: int) -> Photograph:
        """Decodes one example.

        Raises:
          UserError: the prepared data set is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = bisect_right(self._starts, index) - 1
        return self._parts[place].photograph(index - self._starts[place])


class _Part:
    """One prepared data set, open."""

    def __init__(self, builder: builder.Pictures) -> None:
        metadata = builder.info.metadata
        self.labelled = builder.labelled
        self.folder = builder.data_path
        encoded = ("image", "mask") if self.labelled else ("image",)
        try:
            self.ids = np.asarray(metadata["ids"], np.int64)
            self.names = [str(name) for name in metadata["names"]]
            self.fingerprint = str(metadata["fingerprint"])
            self.records = builder.as_data_source(
                "+".join(metadata["parts"]),
                decoders={feature: tfds.decode.SkipDecoding() for feature in encoded},
            )
            if {self.ids.shape, (len(self.names),)} != {(len(self.records),)}:
                raise ValueError("its lists are of different lengths")
        except Exception as error:  # whatever TFDS stumbles over in its own files
            raise self._damaged("", error) from None

    def photograph(self, index: int) -> Photograph:
        try:
            record = self.records[index]
            image = decode.decode(record["image"], bool(record["upright"]))
            mask = decode.decode_mask(record["mask"]) if self.labelled else None
        except Exception as error:  # array_record has no exceptions of its own
            raise self._damaged(f" at {self.names[index]}", error) from None
        return Photograph(image, mask)

    def _damaged(self, where: str, error: Exception) -> UserError:
        return UserError(
            f"the prepared data set {self.folder} is damaged{where} ({first_line(error)}); "
            "delete that folder, and it is built anew"
        )


def _distinct(parts: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " n"]:
    """All ids; those of the second part on are counted on from the largest before them."""
    ids = parts[0]
    for part in parts[1:]:
        ids = np.concatenate([ids, max(0, ids.max()) + part])
    return ids


def _joined(fingerprints: Sequence[str]) -> str:
    if len(fingerprints) == 1:
        return fingerprints[0]
    return hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()


def open_split(data: config.Data, split: Literal["train", "validation"]) -> Dataset:
    """The dataset of a configured split; the first time, this builds its data set.

    Raises:
      UserError: see `prepared.prepare`.
    """
    sources = [_source(data, getattr(data, split), title=split)]
    if split == "train" and data.unlabelled is not None:
        more = config.Split(images=data.unlabelled, annotations=None)
        sources.append(_source(data, more, title="unlabelled"))
    return Dataset(*(builder.prepare(source, data.prepared) for source in sources))


def warn_of_overlap(data: config.Data) -> Iterator[str]:
    """A line for each plain folder to learn from that the pictures to measure on are in as well."""
    validation = (data.root / data.validation.images).resolve()
    plain = [data.unlabelled, None if data.train.labelled else data.train.images]
    for folder in filter(None, plain):
        if validation.is_relative_to((data.root / folder).resolve()):
            yield (
                f"warning: {data.root / folder}, with all that lies below it, is learnt from, and "
                f"{validation} is measured on: the scores will be too good"
            )


def _source(data: config.Data, split: config.Split, title: str) -> builder.Source:
    root = data.root.absolute()
    images = root / split.images
    if split.annotations is None:
        if not images.is_dir():
            raise UserError(
                f"{title}: {images} does not exist; expected a folder of pictures: data.root "
                f"{root}, in it {split.images}"
            )
        return PlainFolder(title, images, data.workers, data.prepared.absolute())
    annotations = root / split.annotations
    for path, exists in ((images, images.is_dir()), (annotations, annotations.is_file())):
        if not exists:
            raise UserError(
                f"{title}: {path} does not exist; expected a folder in COCO layout: data.root "
                f"{root}, in it the pictures in {split.images} and the file {split.annotations}"
            )
    return CocoFolder(title, images, data.workers, annotations)


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Whole batches in one pass over a split.

    Raises:
      UserError: there is not one.
    """
    if len(dataset) < batch_size:
        raise UserError(
            f"training.batch_size is {batch_size}, but the split has only {len(dataset)} pictures"
        )
    return len(dataset) // batch_size


def train_batches(
    dataset: Dataset,
    data: config.Data,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Batches without end, newly shuffled for each epoch; `close()` ends its threads.

    The batch of a step depends on (seed, step) alone, so a run that resumes starts at its step at
    no cost. An epoch has `steps_per_epoch` batches and shows no example twice; which ones are left
    over changes with the shuffle.

    Args:
      batch_size: dataset per step over all processes; each process gets its own slice of them.
      seed: of the order.
      start_step: the first step whose batch is wanted.
      process_index, process_count: this process among those that share the batch.
    """
    steps = steps_per_epoch(dataset, batch_size)
    indices = grain.MapDataset.range(len(dataset)).seed(seed).shuffle()
    indices = indices[: steps * batch_size]
    epoch = _local(dataset, data, indices, batch_size, process_index, process_count)
    return _read(epoch.repeat()[start_step:], data.workers)


def validation_batches(
    dataset: Dataset,
    data: config.Data,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """All dataset once and in order; the last batch is filled up with padding of weight 0."""
    steps = -(-len(dataset) // batch_size)
    indices = grain.MapDataset.range(steps * batch_size)
    local = _local(dataset, data, indices, batch_size, process_index, process_count)
    return _read(local, data.workers)


def _local(
    dataset: Dataset,
    data: config.Data,
    indices: grain.MapDataset[int],
    batch_size: int,
    process_index: int,
    process_count: int,
) -> grain.MapDataset[Batch]:
    """One pass over `indices` in batches, of each of which a process gets its own slice."""
    if batch_size % process_count:
        raise UserError(
            f"training.batch_size {batch_size} does not divide among {process_count} processes"
        )
    # Every global batch is `process_count` local ones in a row.
    loaded = indices.map(lambda index: _example(dataset, index, data.image_size))
    return loaded.batch(batch_size // process_count)[process_index::process_count]


def _read(local: grain.MapDataset[Batch], workers: int) -> grain.DatasetIterator[Batch]:
    return iter(local.to_iter_dataset(grain.ReadOptions(workers, prefetch_buffer_size=2 * workers)))


def _example(dataset: Dataset, index: int, size: tuple[int, int]) -> Batch:
    """One example, or padding for an index past the end."""
    if index >= len(dataset):
        blank, none = np.zeros((*size, 4), np.uint8), np.zeros((), np.float32)
        return Batch(blank[..., :3], blank[..., 3:], none, none, np.zeros((), np.int64))
    image, mask = dataset[index]
    blank = np.zeros(size, np.uint8)
    return Batch(
        image_ops.resize_photograph(image, size),
        (blank if mask is None else image_ops.resize_mask(mask, size))[..., None],
        np.ones((), np.float32),
        np.asarray(mask is not None, np.float32),
        dataset.ids[index],
    )
