"""`check_data`: counts, duplicates, and masks that show nobody or nothing else."""

import io
from pathlib import Path

import layouts
import numpy as np
import pytest
from coco_folders import encode
from layouts import put
from PIL import Image
from refused import refused

from jaxdistill import config
from jaxdistill.data import check_data
from jaxdistill.runtime.errors import DataError

PHOTOS = layouts.photos()


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    sound = layouts.faulty(tmp_path)
    found = check_data(config.Data(root=tmp_path))
    train, validation = found.splits["train"], found.splits["validation"]
    assert [image.name for image in train.empty] == ["empty.png"]
    assert [image.name for image in train.full] == ["full.png"]
    assert [image.name for image in validation.problems] == ["cut.png", "small.png"]
    assert sum(len(names) for names in train.omissions.values()) == 1
    groups = [sorted((image.split, image.name) for image in g) for g in found.duplicates]
    assert groups == [
        [("train", "1.png"), ("train", "copy.png")],
        [("train", "4.png"), ("validation", "4.png")],
        [("train", "empty.png"), ("validation", "5.png")],
    ]
    assert len(found.across) == 2
    for image in train.images[:2]:
        assert image.person == pytest.approx(sound[image.place].mask.mean())
        np.testing.assert_array_equal(train.example(image).mask, sound[image.place].mask * 255)
    assert len(train.usable) == 7


def test_equal_pixels_are_duplicates_whatever_the_file(tmp_path: Path) -> None:
    layouts.mask_folder(tmp_path, PHOTOS[:1])
    image = Image.open(io.BytesIO(PHOTOS[0].image))
    put(tmp_path / "images/again.bmp", encode(image, "BMP"))
    put(tmp_path / "masks/again.png", encode(PHOTOS[0].mask * np.uint8(255)))
    [group] = check_data(config.Data(root=tmp_path)).duplicates
    assert {image.name for image in group} == {"1.png", "again.bmp"}


def test_values_of_masks_that_are_not_understood_are_refused_at_once(tmp_path: Path) -> None:
    layouts.mask_folder(tmp_path, PHOTOS, person=15)
    read: list[int] = []
    with refused(DataError, "unknown-mask-values", "15 ("):
        check_data(config.Data(root=tmp_path), lambda done, total: read.append(done))
    assert not read


def test_a_folder_needs_no_validation_split(tmp_path: Path) -> None:
    layouts.mask_folder(tmp_path / "data", PHOTOS)
    found = check_data(config.Data(root=tmp_path / "data"))
    assert list(found.splits) == ["train"]
    drawn = check_data(config.Data(root=tmp_path / "data", validation="40%"))
    assert sum(len(split.images) for split in drawn.splits.values()) == len(PHOTOS)
