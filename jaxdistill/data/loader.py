"""Batches of a dataset, decoded in threads; each batch is a function of (seed, step) alone."""

import os
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Int

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.data.augment import copy_paste
from jaxdistill.data.dataset import Dataset
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import ConfigError, DataError
from jaxdistill.types import Batch

if TYPE_CHECKING:  # slow to import, and needed only where batches are read
    import grain


_PASTE, _SIZE = 1, 2  # what a seed is drawn for, so that the draws are independent


def epoch_indices(dataset: Dataset, repeat: int) -> Int[np.ndarray, " n"]:
    """Returns the examples of an epoch, before they are shuffled, by their index.

    Args:
      dataset: The training split.
      repeat: How many times an epoch has each example of `data.train`, the dataset's first part.
    """
    every = np.arange(len(dataset))
    return np.concatenate([*[every[: dataset.accounts[0].size]] * (repeat - 1), every])


def steps_per_epoch(dataset: Dataset, batch_size: int, repeat: int = 1) -> int:
    """Returns the number of whole batches in an epoch.

    Args:
      dataset: The training split.
      batch_size: Examples per step, over all processes.
      repeat: See `epoch_indices`.

    Raises:
      DataError: The epoch is smaller than a batch (`split-too-small`).
    """
    examples = len(epoch_indices(dataset, repeat))
    if examples < batch_size:
        raise DataError(
            f"training.batch_size is {batch_size}, but an epoch has only {examples} images; "
            f"choose a smaller batch",
            code="split-too-small",
        )
    return examples // batch_size


def train_batches(
    dataset: Dataset,
    data: config.Data,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> "grain.DatasetIterator[Batch]":
    """Returns an endless iterator of batches, shuffled anew for each epoch.

    The batch of a step depends on (seed, step) alone, so a resumed run starts at its step at no
    cost. An epoch has `steps_per_epoch` batches and shows no example more often than `data.repeat`
    says. Which examples are left over changes with the shuffle.

    Args:
      dataset: The training split.
      data: Settings; `image_size`, `sizes`, `mask_resize`, `copy_paste`, `repeat` and `workers` are
        used.
      batch_size: Examples per step, over all processes.
      seed: Seed of the order, of sizes, and of what is pasted.
      start_step: First step whose batch is returned.
      process_index: Index of this process; it gets its own rows of each batch.
      process_count: Number of processes that share a batch.

    Returns:
      An iterator; its `close()` ends its threads.

    Raises:
      DataError: The dataset is smaller than a batch (`split-too-small`), or a batch cannot be
        divided among the processes (`batch-not-divisible`).
    """
    import grain

    steps = steps_per_epoch(dataset, batch_size, data.repeat)
    repeated = epoch_indices(dataset, data.repeat)
    places = grain.MapDataset.range(len(repeated)).seed(seed).shuffle()
    indices = places[: steps * batch_size].map(lambda place: int(repeated[place]))
    # The index keeps growing across epochs.
    examples = indices.map_with_index(_TrainExamples(dataset, data, batch_size, seed))
    epoch = _local(examples, batch_size, process_index, process_count)
    return _read(epoch.repeat()[start_step:], decoding_threads(data.workers))


def validation_batches(
    dataset: Dataset,
    data: config.Data,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> "grain.DatasetIterator[Batch]":
    """Returns an iterator over all examples once, in order.

    The last batch is filled up with padding of weight 0.

    Args:
      dataset: The validation split.
      data: Settings; `image_size`, `mask_resize` and `workers` are used.
      batch_size: Examples per step, over all processes.
      process_index: Index of this process; it gets its own rows of each batch.
      process_count: Number of processes that share a batch.

    Raises:
      DataError: A batch cannot be divided among the processes (`batch-not-divisible`).
    """
    import grain

    steps = -(-len(dataset) // batch_size)
    indices = grain.MapDataset.range(steps * batch_size)
    examples = indices.map(lambda index: _example(dataset, index, data, data.image_size))
    local = _local(examples, batch_size, process_index, process_count)
    return _read(local, decoding_threads(data.workers))


def decoding_threads(workers: int | None) -> int:
    """Returns the number of threads that decode images.

    Args:
      workers: `data.workers`; None chooses by the platform.
    """
    if workers is not None:
        return workers
    if jax.default_backend() == "cpu":
        return 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    own = (cores or 1) // distributed.processes_on_machine()
    return min(max(2, own - 2), 32)


def size_of_step(data: config.Data, seed: int, step: int) -> tuple[int, int]:
    """Returns height and width of the images of a step's batch.

    Args:
      data: Settings; `image_size` and `sizes` are used.
      seed: The run's seed.
      step: The step.
    """
    if not data.sizes:
        return data.image_size
    return data.sizes[np.random.default_rng([seed, step, _SIZE]).integers(len(data.sizes))]


def check_divisible(batch_size: int, process_count: int) -> None:
    """Checks that each process gets the same number of rows of a batch.

    Args:
      batch_size: Examples per step, over all processes.
      process_count: Number of processes that share a batch.

    Raises:
      DataError: The numbers do not divide (`batch-not-divisible`).
    """
    if batch_size % process_count:
        raise DataError(
            f"training.batch_size {batch_size} cannot be divided among {process_count} processes; "
            f"choose a multiple of {process_count}",
            code="batch-not-divisible",
        )


class _TrainExamples:
    """Loads training examples; what is random depends on the seed and the place in the run."""

    def __init__(self, dataset: Dataset, data: config.Data, batch_size: int, seed: int) -> None:
        self._dataset, self._data, self._seed = dataset, data, seed
        self._batch_size = batch_size
        self._donors = np.flatnonzero(dataset.labelled)
        if data.copy_paste and not len(self._donors):
            raise ConfigError(
                "data.copy_paste: no training image has a mask, whose people could be pasted; set "
                "data.copy_paste to 0",
                code="masks-needed",
            )

    def __call__(self, place: int, index: int) -> Batch:
        """Returns an example, possibly with the people of another one.

        Args:
          place: Number of the example since the start of the run, over all processes.
          index: Its index in the dataset.
        """
        size = size_of_step(self._data, self._seed, place // self._batch_size)
        example = _example(self._dataset, index, self._data, size)
        if not self._data.copy_paste:
            return example
        random = np.random.default_rng([self._seed, place, _PASTE])
        if random.random() >= self._data.copy_paste:
            return example
        donor = _example(self._dataset, int(random.choice(self._donors)), self._data, size)
        image, mask = copy_paste.paste(
            random, example.images, example.masks[..., 0], donor.images, donor.masks[..., 0]
        )
        return example._replace(images=image, masks=mask[..., None])


def _local(
    examples: "grain.MapDataset[Batch]", batch_size: int, process_index: int, process_count: int
) -> "grain.MapDataset[Batch]":
    """Returns examples in batches: the rows of this process of each of them."""
    check_divisible(batch_size, process_count)
    # Every global batch is `process_count` local ones in a row.
    return examples.batch(batch_size // process_count)[process_index::process_count]


def _read(local: "grain.MapDataset[Batch]", workers: int) -> "grain.DatasetIterator[Batch]":
    import grain

    return iter(local.to_iter_dataset(grain.ReadOptions(workers, prefetch_buffer_size=2 * workers)))


def _example(dataset: Dataset, index: int, data: config.Data, size: tuple[int, int]) -> Batch:
    """Returns one example at a size, or padding for an index past the end."""
    if index >= len(dataset):
        blank, none = np.zeros((*size, 4), np.uint8), np.zeros((), np.float32)
        return Batch(blank[..., :3], blank[..., 3:], none, none, np.zeros((), np.int64))
    image, mask = dataset[index]
    blank = np.zeros(size, np.uint8)
    return Batch(
        image_ops.resize_image(image, size),
        (blank if mask is None else image_ops.resize_mask(mask, size, data.mask_resize))[..., None],
        np.ones((), np.float32),
        np.asarray(mask is not None, np.float32),
        dataset.ids[index],
    )
