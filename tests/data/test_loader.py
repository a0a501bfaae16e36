"""Batches: order, shards, resuming, padding, and no thread left behind."""

import itertools
import threading
import time
from collections import Counter

import numpy as np
import pytest
from coco_folders import Folder, box, encode
from refused import refused

from jaxdistill import config
from jaxdistill.data import image_ops, loader, splits
from jaxdistill.data.dataset import Dataset
from jaxdistill.runtime.errors import DataError

COUNT = 14


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small images, each of one grey level, which is its id; the left half is a person."""
    folder = Folder(tmp_path_factory.mktemp("coco"))
    for number in range(10, 10 + COUNT):
        height, width = 10 + number, 40 - number
        image = np.full((height, width, 3), number, np.uint8)
        folder.person(
            folder.image(f"{number}.png", encode(image), (height, width), id=number),
            box(0, 0, height, width / 2),
        )
    folder.write()
    return folder.data(image_size=(32, 64))


@pytest.fixture(scope="module")
def dataset(data):
    return splits.open_split(data, "train")


def take(count, iterator):
    taken = list(itertools.islice(iterator, count))
    iterator.close()
    return taken


def ids(taken):
    return [batch.ids.tolist() for batch in taken]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def test_a_batch_holds_resized_images_and_their_masks(data, dataset):
    (batch,) = take(1, loader.train_batches(dataset, data, 4, seed=0))
    assert (batch.images.shape, batch.images.dtype) == ((4, 32, 64, 3), np.uint8)
    assert (batch.masks.shape, batch.masks.dtype) == ((4, 32, 64, 1), np.uint8)
    assert (batch.weights.dtype, batch.ids.dtype) == (np.float32, np.int64)
    assert batch.weights.tolist() == batch.labelled.tolist() == [1, 1, 1, 1]
    for image, mask, number in zip(batch.images, batch.masks, batch.ids, strict=True):
        assert (image == number).all()
        assert mask[:, :30].all()
        assert not mask[:, 35:].any()


def test_masks_are_resized_as_configured_from_one_prepared_data_set(data, dataset):
    moved = data.model_copy(update={"mask_resize": "nearest"})
    assert splits.open_split(moved, "train").folders == dataset.folders
    size = data.image_size
    for settings in (data, moved):
        (batch,) = take(1, loader.validation_batches(dataset, settings, COUNT))
        for mask, index in zip(batch.masks, range(COUNT), strict=True):
            expected = image_ops.resize_mask(dataset[index].mask, size, settings.mask_resize)
            np.testing.assert_array_equal(mask[..., 0], expected)


def test_an_epoch_shows_no_example_twice_and_each_has_its_own_order(data, dataset):
    taken = ids(take(30, loader.train_batches(dataset, data, 4, seed=0)))
    epochs = [flat(taken[start : start + 3]) for start in range(0, 30, 3)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    # What is left over changes, so every example gets its turn.
    assert {number for epoch in epochs for number in epoch} == set(dataset.ids.tolist())


def test_an_epoch_shows_every_example_when_batches_divide_them(data, dataset):
    for epoch in range(3):
        iterator = loader.train_batches(dataset, data, 7, seed=1, start_step=2 * epoch)
        assert sorted(flat(ids(take(2, iterator)))) == sorted(dataset.ids)


def test_the_order_depends_on_the_seed_and_seeds_do_not_repeat_each_other_an_epoch_later(
    data, dataset
):
    orders = {
        tuple(flat(ids(take(10, loader.train_batches(dataset, data, 7, seed))))[start:][:14])
        for seed in range(4)
        for start in (0, 14, 28)
    }
    assert len(orders) == 12


@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_a_resumed_run_sees_the_batches_of_an_untouched_one(data, dataset, start):
    untouched = take(9, loader.train_batches(dataset, data, 4, seed=3))[start:]
    resumed = take(9 - start, loader.train_batches(dataset, data, 4, seed=3, start_step=start))
    for one, other in zip(untouched, resumed, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)


class Counting(Dataset):
    """Remembers which examples were asked for."""

    def __init__(self, dataset):
        self.__dict__.update(vars(dataset))
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def test_resuming_late_reads_no_more_than_resuming_early(data, dataset):
    counting = Counting(dataset)
    iterator = loader.train_batches(counting, data, 4, seed=0, start_step=10**12)
    next(iterator)
    time.sleep(0.2)
    iterator.close()
    assert len(counting.read) <= 4 * (1 + 2 * loader.decoding_threads(data.workers))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("start", [0, 5])
def test_processes_share_each_batch_in_order(data, dataset, count, start):
    whole = ids(take(7, loader.train_batches(dataset, data, 4, 5, start)))
    shares = [
        ids(take(7, loader.train_batches(dataset, data, 4, 5, start, process, count)))
        for process in range(count)
    ]
    assert [flat(together) for together in zip(*shares, strict=True)] == whole


def test_a_batch_must_divide_among_processes(data, dataset):
    with refused(DataError, "batch-not-divisible", "3 processes"):
        loader.train_batches(dataset, data, 4, 0, 0, 0, 3)


def test_validation_shows_everything_once_in_order_and_pads_the_end(data, dataset):
    taken = list(loader.validation_batches(dataset, data, 4))
    assert [batch.images.shape for batch in taken] == [(4, 32, 64, 3)] * 4
    assert flat(ids(taken)) == [*dataset.ids, 0, 0]
    assert np.concatenate([batch.weights for batch in taken]).tolist() == [1] * COUNT + [0] * 2
    assert taken[-1].labelled.tolist() == [1, 1, 0, 0]
    assert not taken[-1].images[2:].any()
    assert not taken[-1].masks[2:].any()


def test_validation_is_shared_among_processes_with_equally_many_batches(data, dataset):
    whole = ids(loader.validation_batches(dataset, data, 4))
    shares = [ids(loader.validation_batches(dataset, data, 4, p, 2)) for p in range(2)]
    assert [flat(together) for together in zip(*shares, strict=True)] == whole


def test_a_split_smaller_than_a_batch_is_refused(data, dataset):
    assert loader.steps_per_epoch(dataset, 4) == 3
    assert loader.steps_per_epoch(dataset, COUNT) == 1
    with refused(DataError, "split-too-small", "batch_size is 15"):
        loader.train_batches(dataset, data, COUNT + 1, seed=0)
    assert len(list(loader.validation_batches(dataset, data, COUNT + 1))) == 1


def test_images_of_one_s_own_are_repeated_among_additional_ones(data, tmp_path):
    folder = Folder(tmp_path)
    for number in range(100, 105):
        image = np.full((20, 30, 3), number, np.uint8)
        name = folder.image(f"{number}.png", encode(image), (20, 30), id=number)
        folder.person(name, box(0, 0, 20, 15))
    folder.write()
    more = {"images": tmp_path / "images", "annotations": tmp_path / "people.json"}
    changed = data.model_copy(update={"additional": config.Additional(**more), "repeat": 3})
    dataset = splits.open_split(changed, "train")
    assert len(dataset) == COUNT + 5
    assert dataset.labelled.all()
    assert loader.steps_per_epoch(dataset, 4, repeat=3) == (3 * COUNT + 5) // 4
    for epoch in range(2):  # 47 images, of which the last three of the shuffled ones are left over
        start = 11 * epoch
        batches = take(11, loader.train_batches(dataset, changed, 4, seed=0, start_step=start))
        shown = Counter(flat(ids(batches)))
        own = [shown[number] for number in dataset.ids[:COUNT]]
        others = [shown[number] for number in dataset.ids[COUNT:]]
        assert max(own) == 3
        assert max(others) == 1
        assert sum(own) + sum(others) == 44
    assert loader.steps_per_epoch(splits.open_split(changed, "validation"), 4) == COUNT // 4


def test_a_closed_iterator_leaves_no_thread_behind(data, dataset):
    before = set(threading.enumerate())
    iterator = loader.train_batches(dataset, data, 4, seed=0)
    next(iterator)
    started = set(threading.enumerate()) - before
    assert len(started) == loader.decoding_threads(data.workers)
    iterator.close()
    for thread in started:
        thread.join(5)
        assert not thread.is_alive()


def test_an_error_while_reading_reaches_the_reader(data, dataset, monkeypatch):
    def damaged(self, index):
        raise DataError("damaged", code="prepared-data-damaged")

    monkeypatch.setattr(Dataset, "__getitem__", damaged)
    iterator = loader.train_batches(dataset, data, 4, seed=0)
    with refused(DataError, "prepared-data-damaged") as raised:
        next(iterator)
    assert str(raised.value) == "damaged"
    iterator.close()


def test_a_gpu_gets_more_decoding_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader.jax, "default_backend", lambda: "cpu")
    assert loader.decoding_threads(None) == 2
    monkeypatch.setattr(loader.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: set(range(26)))
    assert loader.decoding_threads(None) == 24
    assert loader.decoding_threads(5) == 5
