"""Data sets of folders that `layouts` writes, and what they hold."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from layouts import Photo

from jaxdistill import config, data
from jaxdistill.data import Dataset, decode, splits
from jaxdistill.data.layouts import recognise


def opened(root: Path, **more) -> data.Data:
    """Opens a folder whose layout is recognised."""
    return data.open(root, image_size=32, prepared=root / "prepared", **more)


def train_split(root: Path) -> Dataset:
    """Opens the training split of a folder that needs no validation split."""
    settings = config.Data(root=root, prepared=root / "prepared")
    return splits.open_split(recognise(settings, need_validation=False).settings, "train")


def omissions(dataset: Dataset) -> dict[str, int]:
    """Returns how many images or people are left out, by the reason."""
    [account] = dataset.accounts
    return {count.reason: count.number for count in account.omissions}


def assert_same(dataset: Dataset, photos: Sequence[Photo]) -> None:
    """Compares images and masks, pixel for pixel."""
    assert len(dataset) == len(photos)
    for example, photo in zip(dataset, photos, strict=True):
        np.testing.assert_array_equal(example.image, decode.decode(photo.image))
        np.testing.assert_array_equal(example.mask, photo.mask * 255)
