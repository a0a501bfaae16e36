"""Training at several sizes: which batch has which, and what it costs in programs."""

import itertools
from collections import Counter
from contextlib import closing

import numpy as np
import pytest
from coco_folders import discs
from refused import refused

from jaxdistill import config, losses, models
from jaxdistill.data import loader, splits
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.teachers.base import OutputShapes
from jaxdistill.training.pairing import feature_pairs
from jaxdistill.training.preflight import check_sizes

SIZES = [[32, 32], [32, 64], [64, 64]]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> config.Data:
    root = discs(tmp_path_factory.mktemp("discs"))
    return config.Data(root=root, prepared=root / "prepared", image_size=(64, 64), sizes=SIZES)


@pytest.fixture(scope="module")
def dataset(data):
    return splits.open_split(data, "train")


def take(count, iterator):
    with closing(iterator):
        return list(itertools.islice(iterator, count))


def sizes(batches) -> list[tuple[int, int]]:
    assert all(batch.images.shape[:3] == batch.masks.shape[:3] for batch in batches)
    return [batch.images.shape[1:3] for batch in batches]


def test_each_batch_has_one_of_the_sizes_and_each_size_its_share(data, dataset) -> None:
    drawn = [loader.size_of_step(data, seed=0, step=step) for step in range(300)]
    assert all(count > 70 for count in Counter(drawn).values())
    assert len(set(drawn)) == 3
    assert sizes(take(12, loader.train_batches(dataset, data, 4, seed=0))) == drawn[:12]
    assert drawn != [loader.size_of_step(data, seed=1, step=step) for step in range(300)]


@pytest.mark.parametrize("start", [1, 5])
def test_a_resumed_run_and_every_process_have_the_sizes_of_an_untouched_one(
    data, dataset, start
) -> None:
    untouched = take(8, loader.train_batches(dataset, data, 4, seed=3))[start:]
    resumed = take(8 - start, loader.train_batches(dataset, data, 4, seed=3, start_step=start))
    share = take(8 - start, loader.train_batches(dataset, data, 4, 3, start, 1, 2))
    for one, other, part in zip(untouched, resumed, share, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.images[2:], part.images)


def test_validation_is_at_the_image_size_and_without_sizes_all_is(data, dataset) -> None:
    assert set(sizes(take(9, loader.validation_batches(dataset, data, 4)))) == {(64, 64)}
    alone = data.model_copy(update={"sizes": ()})
    assert set(sizes(take(6, loader.train_batches(dataset, alone, 4, seed=0)))) == {(64, 64)}


def test_a_number_alone_is_a_square() -> None:
    assert config.Data(sizes=[256, [320, 384]]).sizes == ((256, 256), (320, 384))


class Detector:
    """A teacher of features at stride 8, or of one size."""

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        self.size = size

    def output_shapes(self, image_size: tuple[int, int]) -> OutputShapes:
        height, width = self.size or (image_size[0] // 8, image_size[1] // 8)
        return OutputShapes(None, ((height, width, 4),))


def pairs(detector: Detector, tap: str, resize: bool):
    feature = config.Feature(tensor="deep", tap=tap, hidden_channels=None, resize=resize)
    terms = {"feature": losses.Feature(pairs=(feature,), weight=1.0)}
    student = models.create(encoder="tf_efficientnet_lite0", decoder_channels=(8, 8, 4, 4, 4))
    [pair] = feature_pairs(student, terms, detector, (64, 64), [(96, 96), (128, 128)])
    return pair.size


def test_a_projector_fits_the_images_of_all_sizes() -> None:
    assert pairs(Detector(), "encoder.3", resize=False) is None
    assert pairs(Detector((8, 8)), "encoder.3", resize=True) == (8, 8)
    assert pairs(Detector((9, 9)), "encoder.3", resize=True) == (9, 9)
    with refused(ConfigError, "feature-size"):
        pairs(Detector((8, 8)), "encoder.3", resize=False)
    with refused(ConfigError, "feature-size", "data.sizes"):
        pairs(Detector(), "encoder.4", resize=True)


def test_a_size_that_the_student_cannot_compute_is_refused() -> None:
    student = models.create(encoder="tf_efficientnet_lite0", decoder_channels=(8, 8, 4, 4, 4))
    with refused(ConfigError, "image-size", "data.sizes"):
        check_sizes(student, (64, 64), [(96, 96), (100, 100)])
