"""A validation split that is drawn from the training images by their names."""

from pathlib import Path

import coco_folders
import layouts
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refused import refused

from jaxdistill import config, data
from jaxdistill.data.sources.part import Part
from jaxdistill.runtime.errors import ConfigError, DataError

names = st.sets(st.text(min_size=1), max_size=30)


@given(names, names, st.floats(0.01, 0.99))
def test_added_images_move_no_other_and_no_image_is_in_both(before, added, share):
    def divide(names):
        return [{name for name in names if Part(share, drawn).holds(name)} for drawn in (1, 0)]

    drawn, rest = divide(before)
    assert drawn | rest == before
    assert not drawn & rest
    more_drawn, more_rest = divide(before | added)
    assert drawn <= more_drawn
    assert rest <= more_rest


def test_the_share_is_that_of_many_images():
    drawn = sum(Part(0.1, True).holds(f"{number}.jpg") for number in range(5000))
    assert 420 < drawn < 580


def test_names_of_windows_and_macos_are_the_same_names():
    part = Part(0.5, True)
    for number in range(50):
        assert part.holds(f"a/\u00e4{number}.png") == part.holds(f"a\\a\u0308{number}.png")


def opened(root: Path, share: str) -> data.Data:
    return data.open(root, validation=share, image_size=32, prepared=root / "prepared")


def test_images_are_divided_and_stay_where_they_are(tmp_path):
    photos = layouts.photos(30)
    layouts.mask_folder(tmp_path, photos[:20])
    before = opened(tmp_path, "30%")
    train, drawn = set(before.train.names), set(before.validation.names)
    assert train | drawn == {photo.name for photo in photos[:20]}
    assert not train & drawn
    assert "0.3" in data.describe(before)[1]
    layouts.mask_folder(tmp_path, photos)
    after = opened(tmp_path, "30%")
    assert train <= set(after.train.names)
    assert drawn <= set(after.validation.names)
    assert len(after.train) + len(after.validation) == 30
    assert after.train.fingerprint != opened(tmp_path, "50%").train.fingerprint


def test_what_is_left_out_is_counted_in_its_part(tmp_path):
    layouts.mask_folder(tmp_path, layouts.photos(20))
    for number in range(10):
        (tmp_path / f"masks/{number + 1}.png").unlink()
    found = opened(tmp_path, "50%")
    counts = [split.accounts[0].omissions[0].number for split in (found.train, found.validation)]
    assert sum(counts) == 10
    assert all(counts)


def test_images_of_coco_are_drawn_too(tmp_path):
    root = coco_folders.discs(tmp_path, train=20, validation=1)
    whole = data.coco(root, prepared=tmp_path / "prepared")
    part = data.coco(root, validation="25%", prepared=tmp_path / "prepared")
    assert len(part.train) + len(part.validation) == len(whole.train)
    assert set(part.train.names) | set(part.validation.names) == set(whole.train.names)
    plain = data.image_folder(
        root / "images", train="train2017", validation="25%", prepared=tmp_path / "prepared"
    )
    assert set(plain.validation.names) == set(part.validation.names)


def test_too_few_images_are_refused(tmp_path):
    layouts.mask_folder(tmp_path, layouts.photos(2))
    with refused(DataError, "drawn-split-empty", "data.validation"):
        _ = opened(tmp_path, "1%").validation


def test_the_share_is_a_key(tmp_path):
    settings = config.Data(root=tmp_path, train={"annotations": None}, validation="12.5 %")
    assert settings.validation == settings.train.model_copy(update={"share": 0.125})
    assert config.Data.model_validate(settings.model_dump()) == settings
    losses = ["data.validation=10%", "data.train.images=a"]
    assert config.load("demo", losses).data.validation.images == Path("a")


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("data.validation=ten", "wrong-type"),
        ("data.validation=0%", "out-of-range"),
        ("data.validation=100%", "out-of-range"),
        ("data.train.share=0.1", "conflicting-keys"),
        ("data.train=10%", "wrong-type"),
    ],
)
def test_what_is_no_share_is_refused(override, code):
    with refused(ConfigError, code, "data."):
        config.load("demo", [override])
