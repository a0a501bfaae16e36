"""Batches from a user's own input pipeline, behind the interface of `Data`."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Literal

import numpy as np

from jaxdistill.data.augment import Augmentation, Kind
from jaxdistill.data.loader import check_divisible
from jaxdistill.data.user_batches import to_batch
from jaxdistill.runtime.errors import DataError
from jaxdistill.types import Batch

Batches = Iterable[Any] | Callable[[], Iterator[Any]]
"""Batches that can be read again and again: an iterable, or a function that starts an iterator."""


class IterableData:
    """Training and validation batches from any iterable, with the same methods as `Data`.

    A batch is a `Batch`, a dictionary with `images` and optionally `masks`, or a tuple of both.
    Images are RGB, (B, height, width, 3), uint8 or floats in [0, 1]; height and width are multiples
    of 32. Masks are (B, height, width) or (B, height, width, 1) of 0 and 1; None: unknown. A batch
    holds the examples of one step, over all processes. Examples get ids in the order in which they
    are read, from 1.

    Args:
      train: Batches of one pass over the training split, all of one size: a list, a data loader, or
        a function that returns an iterator. The passes are read one after the other.
      validation: Batches of the validation split; the last one may be smaller. None: there is no
        validation split.
      steps_per_epoch: Number of training batches in an epoch. None: the length of `train`.
      image_size: Height and width of the images. None: those of the first batch.
      augment: Augmentation of the training batches; see `config.Data`.
      crop: Smallest area of random crops, as a fraction of the image's; None: no crops.

    Raises:
      DataError: An iterator is given, which can be read only once (`one-pass-iterator`), or a first
        batch is not valid (see `to_batch`).
    """

    settings = None
    """`Data` has the configuration here."""

    def __init__(
        self,
        train: Batches,
        validation: Batches | None = None,
        *,
        steps_per_epoch: int | None = None,
        image_size: int | tuple[int, int] | None = None,
        augment: Kind = "none",
        crop: float | None = None,
    ) -> None:
        self.train = BatchSplit(train, "train")
        """The training split."""
        self.validation = None if validation is None else BatchSplit(validation, "validation")
        """The validation split; None if there is none."""
        first = self.train.first()
        self.batch_size: int = len(first.images)
        """Examples in a training batch."""
        if isinstance(image_size, int):
            image_size = (image_size, image_size)
        height, width = image_size or first.images.shape[1:3]
        self.image_size: tuple[int, int] = height, width
        """Height and width of the images in batches."""
        self.train_sizes = (self.image_size,)
        """Heights and widths of the training images."""
        self.augmentation = Augmentation(augment, crop)
        """The augmentation of the training split."""
        self._steps = steps_per_epoch

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of training batches in an epoch.

        Args:
          batch_size: Examples per step, over all processes.

        Raises:
          DataError: The number is not known (`unknown-steps-per-epoch`).
        """
        del batch_size
        steps = self._steps if self._steps is not None else self.train.length
        if steps is None:
            raise DataError(
                "steps_per_epoch: the training batches have no length; give the number of batches "
                "in an epoch",
                code="unknown-steps-per-epoch",
            )
        return steps

    def train_batches(
        self,
        batch_size: int,
        seed: int = 0,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Batch]:
        """Returns an endless iterator of training batches.

        Args:
          batch_size: Examples per step, over all processes.
          seed: Not used: the order is that of the batches.
          start_step: First step whose batch is returned; the batches before it are skipped.
          process_index: Index of this process; it gets its own rows of each batch.
          process_count: Number of processes that share a batch. All read the same batches.

        Raises:
          DataError: A batch is not valid, or has another number of examples (`batch-size-differs`).
        """
        del seed
        check_divisible(batch_size, process_count)
        for step, raw in enumerate(self.train.endless()):
            if step < start_step:
                continue
            batch = self._converted(self.train, raw, 1 + step * batch_size)
            if len(batch.images) != batch_size:
                raise _size_differs(self.train, len(batch.images), batch_size)
            yield _rows(batch, process_index, process_count)

    def validation_batches(
        self, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        """Returns an iterator over the validation split; smaller batches are padded.

        Args:
          batch_size: Examples per step, over all processes.
          process_index: Index of this process; it gets its own rows of each batch.
          process_count: Number of processes that share a batch. All read the same batches.

        Raises:
          DataError: A batch is not valid, or has too many examples (`batch-size-differs`).
        """
        check_divisible(batch_size, process_count)
        if self.validation is None:
            return
        for step, raw in enumerate(self.validation.once()):
            batch = self._converted(self.validation, raw, 1 + step * batch_size)
            if len(batch.images) > batch_size:
                raise _size_differs(self.validation, len(batch.images), batch_size)
            yield _rows(_padded(batch, batch_size), process_index, process_count)

    def describe(self) -> list[str]:
        """Returns a line that describes the data; see `data.describe`."""
        height, width = self.image_size
        steps = self._steps if self._steps is not None else self.train.length
        validation = "no validation split"
        if self.validation is not None:
            count = self.validation.length
            validation = f"{'an unknown number of' if count is None else count} validation batches"
        return [
            f"data: {'an unknown number of' if steps is None else steps} training batches of "
            f"{self.batch_size} images per epoch, {height} x {width}; {validation}"
        ]

    def _converted(self, split: "BatchSplit", raw: Any, first_id: int) -> Batch:
        batch = to_batch(raw, first_id, split.where)
        if batch.images.shape[1:3] != self.image_size:
            raise DataError(
                f"{split.where}: images are {batch.images.shape[1]} x {batch.images.shape[2]} "
                f"(height x width); expected {self.image_size[0]} x {self.image_size[1]}, as in "
                f"the first batch or as image_size",
                code="image-size-differs",
            )
        return batch


batches = IterableData
"""Another name of `IterableData`, for a call that reads `data.batches(...)`."""


class BatchSplit:
    """A split that is known by its batches alone.

    Args:
      batches: An iterable, or a function that returns an iterator.
      name: `train` or `validation`, for messages.

    Raises:
      DataError: The batches can be read only once (`one-pass-iterator`), or are not iterable
        (`not-iterable`).
    """

    fingerprint = None
    """Unknown; a `Dataset` has a digest of its images here."""
    content_keys = None
    """Unknown; a `Dataset` has a key for each image here."""

    def __init__(self, batches: Batches, name: Literal["train", "validation"]) -> None:
        self.where = f"{name} batches"
        """The split in messages."""
        self.length: int | None = len(batches) if isinstance(batches, Sized) else None
        """Number of batches in a pass; None if it is not known."""
        self._batches = batches
        if isinstance(batches, Iterator):
            raise DataError(
                f"{self.where}: {type(batches).__name__} can be read only once, but every epoch "
                f"reads the batches again; give a list, a data loader, or the function that makes "
                f"the iterator",
                code="one-pass-iterator",
            )
        if not isinstance(batches, Iterable) and not callable(batches):
            raise DataError(
                f"{self.where}: expected an iterable of batches, or a function that returns an "
                f"iterator; got {type(batches).__name__}",
                code="not-iterable",
            )

    def once(self) -> Iterator[Any]:
        """Returns an iterator over the batches as the user made them."""
        # A data loader may be callable too; an iterable is never called.
        return iter(self._batches if isinstance(self._batches, Iterable) else self._batches())

    def endless(self) -> Iterator[Any]:
        """Returns an iterator over one pass after the other.

        Raises:
          DataError: A pass has no batch (`no-batches`).
        """
        while True:
            count = 0
            for count, batch in enumerate(self.once(), start=1):  # noqa: B007
                yield batch
            if not count:
                raise DataError(f"{self.where}: there is no batch", code="no-batches")

    def first(self) -> Batch:
        """Returns the first batch.

        Raises:
          DataError: There is none (`no-batches`), or it is not valid (see `to_batch`).
        """
        return to_batch(next(self.endless()), 1, self.where)

    def name_of(self, id: int) -> str:
        """Returns a name for an example.

        Args:
          id: Id of the example: its place in the order, from 1; 0 is padding.
        """
        return f"example {id}" if id else "padding"


def _padded(batch: Batch, size: int) -> Batch:
    missing = size - len(batch.images)
    if not missing:
        return batch
    return Batch(
        *(
            np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
            for array in map(np.asarray, batch)
        )
    )


def _rows(batch: Batch, process_index: int, process_count: int) -> Batch:
    """Returns the rows of one process; every process has the same number of them."""
    if process_count == 1:
        return batch
    count = len(batch.images) // process_count
    rows = slice(process_index * count, (process_index + 1) * count)
    return Batch(*(array[rows] for array in batch))


def _size_differs(split: BatchSplit, got: int, expected: int) -> DataError:
    return DataError(
        f"{split.where}: a batch has {got} images, but training.batch_size is {expected}; leave "
        f"smaller last batches out of training, or change the batch size",
        code="batch-size-differs",
    )
