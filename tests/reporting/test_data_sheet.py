"""The contact sheet of a data set: small images on which people are marked."""

import numpy as np
import pytest

from jaxdistill import config
from jaxdistill.data import data_check
from jaxdistill.data.data_check import CheckedImage, DataCheck
from jaxdistill.reporting import data_sheet


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (500, 400)])
def test_images_of_any_shape_become_tiles(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    for mask in (None, np.zeros(size, np.uint8), np.full(size, 255, np.uint8)):
        tile = data_sheet.overlay(image, mask)
        assert 1 <= tile.width <= 240
        assert 1 <= tile.height <= 180


def test_people_are_marked() -> None:
    image, mask = np.full((180, 240, 3), 128, np.uint8), np.zeros((180, 240), np.uint8)
    mask[40:140, 60:180] = 255
    tile = np.asarray(data_sheet.overlay(image, mask)).astype(int)
    red, green, _ = tile[90, 120]
    assert red > green + 30
    assert np.ptp(tile[10, 10]) == 0


def test_each_group_of_duplicates_is_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("train", "train"), ("train", "validation")] * 4000
    groups = [
        [CheckedImage(split, f"{number}.png", number) for split in pair]
        for number, pair in enumerate(pairs)
    ]
    looked_at = []
    is_across = data_check._is_across
    monkeypatch.setattr(
        data_check, "_is_across", lambda group: looked_at.append(group) or is_across(group)
    )
    lines = data_sheet.summary(DataCheck(config.Data(), "", {}, groups))
    assert len(looked_at) <= 4 * len(groups)  # and not as often as there are pairs of groups
    assert "4000 groups of equal images within a split" in lines[0]
    assert "4000 images are in training and in validation" in lines[-1]
