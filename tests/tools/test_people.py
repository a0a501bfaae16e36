"""The data set of people, made from a folder that looks like its source."""

from pathlib import Path

import numpy as np
import people
import pytest
from PIL import Image
from refused import refused

from jaxdistill import config
from jaxdistill.data import layouts
from jaxdistill.data.splits import open_split
from jaxdistill.runtime.errors import ConfigError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 12x8 pixels, and masks of half the size that are white on the left."""
    root = tmp_path_factory.mktemp("source")
    (root / "Training_Images").mkdir()
    (root / "Ground_Truth").mkdir()
    mask = np.zeros((4, 6), np.uint8)
    mask[:, :3] = 255
    for name in [*range(1, 290), 300]:
        random = np.random.default_rng(name)
        image = Image.fromarray(random.integers(0, 256, (8, 12, 3), np.uint8))
        image.save(root / "Training_Images" / f"{name}.jpg")
        Image.fromarray(mask).save(root / "Ground_Truth" / f"{name}.png")
    return root


def names(root: Path, split: str) -> set[str]:
    images, masks = ({path.stem for path in (root / k / split).iterdir()} for k in KINDS)
    assert images == masks
    return images


KINDS = ("images", "masks")


def test_training_validation_and_test_images_are_disjoint(source: Path, tmp_path: Path) -> None:
    people.main([str(source), str(tmp_path / "people")])
    people.main([str(source), str(tmp_path / "test"), "--test"])
    train, validation = (names(tmp_path / "people", split) for split in ("train", "val"))
    test = names(tmp_path / "test", "val")
    assert [len(split) for split in (train, validation, test)] == [160, 40, 90]
    assert len(train | validation | test) == 290
    assert names(tmp_path / "test", "train") == train


def test_the_layout_is_recognised_and_masks_have_the_size_of_their_image(
    source: Path, tmp_path: Path
) -> None:
    people.main([str(source), str(tmp_path / "people")])
    settings = config.Data(root=tmp_path / "people", image_size=(8, 12))
    settings = layouts.recognise(settings).settings
    assert settings.source == "mask_folder"
    assert len(open_split(settings, "validation")) == 40
    mask = np.asarray(Image.open(tmp_path / "people" / "masks" / "val" / "003.png"))
    assert mask.shape == (8, 12)
    np.testing.assert_array_equal(mask, np.repeat([[255, 0]], 6, 1).repeat(8, 0))


def test_a_wrong_source_and_a_folder_that_exists_are_refused(source: Path, tmp_path: Path) -> None:
    with refused(ConfigError, "no-such-file"):
        people.main([str(tmp_path), str(tmp_path / "people")])
    assert not list(tmp_path.iterdir())
    with refused(ConfigError, "folder-not-empty"):
        people.main([str(source), str(tmp_path)])
