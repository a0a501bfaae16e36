"""Copy-paste: what is pasted where, and that it depends on the seed and the step alone."""

import itertools

import numpy as np
import pytest
from coco_folders import Folder, box, encode
from hypothesis import given
from hypothesis import strategies as st
from refused import refused

import jaxdistill as jd
from jaxdistill import config
from jaxdistill.data import loader, splits
from jaxdistill.data.augment.copy_paste import paste
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.training.target_caching import check_cacheable

SIZE = (48, 64)
COUNT = 12


def blank(value: int) -> np.ndarray:
    return np.full((*SIZE, 3), value, np.uint8)


def people(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


@given(
    seed=st.integers(0, 2**32),
    rows=st.tuples(st.integers(0, 47), st.integers(0, 47)),
    columns=st.tuples(st.integers(0, 63), st.integers(0, 63)),
)
def test_people_lie_on_the_image_and_on_its_mask_alike(seed, rows, columns) -> None:
    (top, bottom), (left, right) = sorted(rows), sorted(columns)
    before = people(10, 20, 10, 20)
    shown = people(top, bottom + 1, left, right + 1)
    image, mask = paste(np.random.default_rng(seed), blank(50), before, blank(200), shown)
    assert (image.dtype, mask.dtype) == (np.uint8, np.uint8)
    assert (image.shape, mask.shape) == ((*SIZE, 3), SIZE)
    assert not (before & ~mask & 1).any()
    # On a border of the people both images count half; elsewhere the mask says whose pixel it is.
    assert (image[mask > before] >= 125).all()
    assert (image[mask == 0] <= 125).all()
    assert set(np.unique(mask)) <= {0, 1}
    new = np.argwhere(image[..., 0] != 50)
    assert len(new)
    height, width = new.max(0) - new.min(0) + 1
    assert height <= 1.25 * (bottom - top + 1) + 1
    assert width <= 1.25 * (right - left + 1) + 1


@pytest.mark.parametrize("seed", range(8))
def test_a_border_that_cut_people_off_does_so_again(seed: int) -> None:
    random = np.random.default_rng(seed)
    _, mask = paste(random, blank(0), people(0, 0, 0, 0), blank(9), people(30, 48, 20, 30))
    assert mask[-1].any()
    _, mask = paste(random, blank(0), people(0, 0, 0, 0), blank(9), people(10, 20, 0, 10))
    assert mask[:, 0].any() or mask[:, -1].any()


def test_nobody_is_pasted_from_an_empty_mask() -> None:
    image, mask = blank(1), people(1, 2, 3, 4)
    pasted = paste(np.random.default_rng(0), image, mask, blank(2), people(0, 0, 0, 0))
    assert pasted[0] is image
    assert pasted[1] is mask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of one grey level, which is their id; a person of each is 100 levels brighter."""
    folder = Folder(tmp_path_factory.mktemp("coco"))
    for number in range(1, 1 + COUNT):
        image = blank(number)
        image[10:30, 20:40] += 100
        added = folder.image(f"{number}.png", encode(image), SIZE, id=number)
        folder.person(added, box(10, 20, 30, 40))
    folder.write()
    return folder.data(image_size=SIZE, copy_paste=1.0)


@pytest.fixture(scope="module")
def dataset(data):
    return splits.open_split(data, "train")


def take(count, iterator):
    taken = list(itertools.islice(iterator, count))
    iterator.close()
    return taken


def donors(batch) -> list[set[int]]:
    """The ids of those whose people each image shows, itself left out."""
    shown = [set(np.unique(image[image > 100].astype(int) - 100)) for image in batch.images]
    return [
        {each for each in levels if 0 < each <= COUNT} - {int(own)}
        for levels, own in zip(shown, batch.ids, strict=True)
    ]


def test_people_of_other_images_are_pasted_as_often_as_wished(data, dataset) -> None:
    for probability, expected in ((1.0, 1.0), (0.5, 0.5), (0.0, 0.0)):
        settings = data.model_copy(update={"copy_paste": probability})
        batches = take(30, loader.train_batches(dataset, settings, 4, seed=0))
        pasted = [bool(each) for batch in batches for each in donors(batch)]
        # An image may be its own donor, one time in twelve.
        assert np.mean(pasted) == pytest.approx(expected, abs=0.12)
        for batch in batches:
            # Nobody is added to an image without being added to its mask.
            bright = (batch.images > 75).all(-1, keepdims=True)
            np.testing.assert_array_equal(bright.astype(np.uint8), batch.masks)
    order = [batch.ids.tolist() for batch in batches]
    again = take(30, loader.train_batches(dataset, data, 4, seed=0))
    assert [batch.ids.tolist() for batch in again] == order  # that of a run without copy-paste


@pytest.mark.parametrize("start", [1, 4])
def test_a_resumed_run_pastes_the_same(data, dataset, start) -> None:
    untouched = take(7, loader.train_batches(dataset, data, 4, seed=3))[start:]
    resumed = take(7 - start, loader.train_batches(dataset, data, 4, seed=3, start_step=start))
    shares = [
        take(7 - start, loader.train_batches(dataset, data, 4, 3, start, process, 2))
        for process in range(2)
    ]
    together = [
        [np.concatenate(parts) for parts in zip(*pair, strict=True)]
        for pair in zip(*shares, strict=True)
    ]
    for one, two, three in zip(untouched, resumed, together, strict=True):
        for left, right, whole in zip(one, two, three, strict=True):
            np.testing.assert_array_equal(left, right)
            np.testing.assert_array_equal(left, whole)
    other = take(1, loader.train_batches(dataset, data, 4, seed=4))[0]
    first = take(1, loader.train_batches(dataset, data, 4, seed=3))[0]
    assert donors(first) != donors(other)


def test_validation_images_are_left_as_they_are(data, dataset) -> None:
    for batch in take(3, loader.validation_batches(dataset, data, 4)):
        assert donors(batch) == [set()] * 4


def test_images_without_masks_receive_people_and_give_none(data, tmp_path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encode(blank(60)))
    mixed = data.model_copy(update={"unlabelled": tmp_path})
    dataset = splits.open_split(mixed, "train")
    batches = take(20, loader.train_batches(dataset, mixed, 5, seed=0))
    seen = [
        (bool(labelled), len(levels))
        for batch in batches
        for labelled, levels in zip(batch.labelled, donors(batch), strict=True)
    ]
    assert (False, 1) in seen
    assert all(count == 1 for labelled, count in seen if not labelled)
    alone = mixed.model_copy(update={"unlabelled": None})
    dataset = splits.open_split(alone, "train")
    dataset.labelled = np.zeros(len(dataset), bool)
    with refused(ConfigError, "masks-needed", "copy_paste"):
        loader.train_batches(dataset, alone, 4, seed=0)


def test_what_copy_paste_cannot_be_used_with_is_refused(data, tmp_path) -> None:
    with refused(ConfigError, "masks-needed", "copy_paste"):
        jd.data.coco(tmp_path, train=("images", None), copy_paste=0.5)
    run = {"run": "run", "teacher": {"onnx": "teacher.onnx"}, "targets": {"cache": "cache"}}
    images = {"root": "data", "augment": "flip"}
    config.check({**run, "data": images}, source="")
    with refused(ConfigError, "cannot-cache", "copy_paste"):
        config.check({**run, "data": {**images, "copy_paste": 0.5}}, source="")
    cached = CachedTeacher.__new__(CachedTeacher)
    check_cacheable(
        cached, splits.Data(data.model_copy(update={"copy_paste": 0.0})), clean_images=True
    )
    with refused(ConfigError, "cannot-cache", "copy_paste"):
        check_cacheable(cached, splits.Data(data), clean_images=True)
