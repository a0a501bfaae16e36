"""A user's own batches: forms that are accepted, order, resuming, and clear refusals."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from refused import refused

from jaxdistill import data
from jaxdistill.data import user_batches
from jaxdistill.data.augment import Augmentation
from jaxdistill.runtime.errors import DataError
from jaxdistill.types import Batch

SIZE = (32, 64)


def images(count: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


def masks(count: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, *SIZE, 1), np.uint8)


def three() -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images(seed=seed), masks(seed=seed)) for seed in range(3)]


def first(batches: object) -> Batch:
    return next(data.batches(batches, steps_per_epoch=1).train_batches(4))  # type: ignore[arg-type]


def test_batches_repeat_without_end_and_ids_count_up() -> None:
    ours = data.batches(three())
    assert (ours.batch_size, ours.image_size, ours.steps_per_epoch(4)) == (4, SIZE, 3)
    assert ours.augmentation == Augmentation("none", None)
    taken = list(itertools.islice(ours.train_batches(4, seed=1), 7))
    assert [batch.ids.tolist() for batch in taken[:2]] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    np.testing.assert_array_equal(taken[4].images, images(seed=1))
    assert taken[6].ids.tolist() == [25, 26, 27, 28]


@pytest.mark.parametrize("size", [SIZE, list(SIZE), None])
def test_the_size_may_be_a_list(size: tuple[int, int] | None) -> None:
    assert next(data.batches(three(), image_size=size).train_batches(4)).images.shape[1:3] == SIZE


@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(start: int) -> None:
    ours = data.batches(three())
    whole = list(itertools.islice(ours.train_batches(4), 7))[start:]
    resumed = itertools.islice(ours.train_batches(4, start_step=start), 7 - start)
    for one, other in zip(whole, resumed, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    "batch",
    [
        {"images": images(), "masks": masks()},
        {"image": images(), "mask": masks()[..., 0].astype(bool), "other": None},
        (images(), masks().astype(np.float32)),
        [images(), masks()[..., 0]],
        (images().tolist(), masks()),
    ],
    ids=["dictionary", "bool", "float masks", "list", "lists"],
)
def test_every_form_becomes_the_same_batch(batch: object) -> None:
    if isinstance(batch, tuple) and isinstance(batch[0], list):
        batch = (np.asarray(batch[0], np.uint8), batch[1])
    found = first([batch])
    np.testing.assert_array_equal(found.images, images())
    np.testing.assert_array_equal(found.masks, masks())
    assert (found.images.dtype, found.masks.dtype) == (np.uint8, np.uint8)
    assert found.weights.tolist() == found.labelled.tolist() == [1, 1, 1, 1]
    assert (found.weights.dtype, found.ids.dtype) == (np.float32, np.int64)


def test_floats_stay_floats_and_missing_masks_are_unknown() -> None:
    found = first([{"images": images() / 255}])
    assert found.images.dtype == np.float32
    np.testing.assert_allclose(found.images, images() / np.float32(255), rtol=1e-6)
    assert not found.labelled.any()
    assert not found.masks.any()
    assert not first([(images(), None)]).labelled.any()


def test_a_batch_is_passed_on_as_it_is() -> None:
    ones = np.ones(4, np.float32)
    batch = Batch(images(), masks(), ones, ones, np.array([7, 8, 9, 3]))
    assert first([batch]) is batch


def test_a_function_starts_a_new_pass() -> None:
    calls = []

    def passes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        calls.append(len(calls))
        for seed in range(2):
            yield images(seed=seed), masks(seed=len(calls))

    ours = data.batches(passes, passes, steps_per_epoch=2)
    assert len(list(itertools.islice(ours.train_batches(4), 4))) == 4
    assert len(list(ours.validation_batches(4))) == 2
    assert len(calls) == 4  # the first batch, two passes of training, one of validation


def test_processes_get_their_rows() -> None:
    ours = data.batches(three(), three())
    for method in (ours.train_batches, ours.validation_batches):
        whole = next(method(4))
        parts = [next(method(4, process_index=p, process_count=2)) for p in range(2)]
        for field, (left, right) in zip(whole, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(field, np.concatenate([left, right]))


def test_a_small_last_validation_batch_is_padded() -> None:
    ours = data.batches(three(), [(images(), masks()), (images(1), masks(1))])
    *_, last = ours.validation_batches(4)
    assert last.images.shape == (4, *SIZE, 3)
    assert last.weights.tolist() == last.labelled.tolist() == [1, 0, 0, 0]
    assert last.ids.tolist() == [5, 0, 0, 0]
    assert ours.validation is not None
    assert [ours.validation.name_of(id) for id in (5, 0)] == ["example 5", "padding"]


def test_without_a_validation_split_there_are_no_batches() -> None:
    assert list(data.batches(three()).validation_batches(4)) == []


def test_a_description_counts_batches() -> None:
    [line] = data.describe(data.batches(three(), three()[:2]))
    assert "3 training batches of 4" in line
    assert "2 validation batches" in line


def test_what_can_be_read_only_once_is_refused() -> None:
    for once in (iter(three()), (batch for batch in three())):
        with refused(DataError, "one-pass-iterator", "train"):
            data.batches(once)
        with refused(DataError, "one-pass-iterator", "validation"):
            data.batches(three(), once)
    with refused(DataError, "not-iterable", "int"):
        data.batches(7)  # type: ignore[arg-type]


def test_an_unknown_number_of_steps_is_refused() -> None:
    with refused(DataError, "unknown-steps-per-epoch"):
        data.batches(lambda: iter(three())).steps_per_epoch(4)


def test_empty_batches_are_refused() -> None:
    with refused(DataError, "no-batches"):
        data.batches([])


def test_batches_of_other_sizes_are_refused() -> None:
    ours = data.batches([*three(), (images(3), masks(3))], [(images(5), masks(5))])
    with refused(DataError, "batch-size-differs", "3 images"):
        list(itertools.islice(ours.train_batches(4), 4))
    with refused(DataError, "batch-size-differs", "5 images"):
        list(ours.validation_batches(4))
    with refused(DataError, "batch-not-divisible"):
        next(ours.train_batches(4, process_count=3))
    with refused(DataError, "image-size-differs", "32 x 64"):
        next(data.batches(three(), image_size=64).train_batches(4))


@pytest.mark.parametrize(
    ("batch", "code"),
    [
        (images(), "unknown-batch"),
        ({"pixels": images()}, "unknown-batch"),
        ((images(),), "unknown-batch"),
        ((images().transpose(0, 3, 1, 2), masks()), "bad-images"),
        ((images()[..., :1], masks()), "bad-images"),
        ((images()[0], masks()[0]), "bad-images"),
        ((images(0), masks(0)), "bad-images"),
        ((images().astype(np.float32), masks()), "bad-images"),
        ((images().astype(np.int64), masks()), "bad-images"),
        ((np.full((4, *SIZE, 3), np.nan), masks()), "bad-images"),
        ((images(), masks() * 255), "bad-masks"),
        ((images(), masks() - 0.5), "bad-masks"),
        ((images(), masks()[:, :16]), "bad-masks"),
        ((images(), masks(3)), "bad-masks"),
    ],
)
def test_a_batch_of_another_form_is_refused(batch: object, code: str) -> None:
    with refused(DataError, code, "train batches"):
        data.batches([batch])


def test_ids_of_a_single_batch_start_where_they_are_told() -> None:
    assert user_batches.to_batch((images(2), None), first_id=10).ids.tolist() == [10, 11]
