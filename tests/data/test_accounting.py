"""What is left out of a data set, and what is doubtful about it, is counted and named."""

import numpy as np
import pytest
from coco_folders import SQUARE, encode, pixels, rle
from folder_data import omissions
from PIL import Image
from refused import refused
from test_sources import Pairs, settings

from jaxdistill.data import SOURCES, accounting, splits
from jaxdistill.data.accounting import EMPTY_PEOPLE, UNDECODABLE
from jaxdistill.data.sources.coco_json import CROWD, NO_OUTLINE, NOBODY
from jaxdistill.runtime.errors import DataError

SHARES = [[0.1, 0.1, 0.5, 0.1, 0.5, 0.6, 0.1, 0.6]]
PAIRS = [[1.0, 1.0], [6.0, 1.0], [6.0, 6.0], [1.0, 6.0]]


def doubts(dataset):
    [account] = dataset.accounts
    return {count.reason: (count.number, list(count.names)) for count in account.doubts}


def test_nothing_is_said_of_a_data_set_without_omissions(folder):
    folder.person(folder.image("a.png"))
    assert list(accounting.describe(folder.open())) == []


def test_crowds_are_counted_and_can_be_taken(folder):
    brush = rle(np.ones((8, 12), np.uint8), compressed=False)
    for name in ("a.png", "b.png"):
        folder.person(folder.image(name))
        folder.person(len(folder.instances["images"]), brush, iscrowd=1)
    folder.person(folder.image("crowd.png"), brush, iscrowd=1)
    left = folder.open()
    assert omissions(left) == {CROWD: 3, NOBODY: 1}
    assert (left[0].mask == 255).sum() == 25
    [line] = accounting.describe(left)
    assert "2 images used" in line
    taken = splits.open_split(folder.data(include_crowds=True), "train")
    assert taken.names == ["a.png", "b.png", "crowd.png"]
    assert (taken[0].mask == 255).all()
    assert omissions(taken) == {}


def test_crowds_alone_are_refused_with_the_key_that_takes_them(folder):
    folder.person(folder.image("a.png"), rle(np.ones((8, 12), np.uint8), True), iscrowd=1)
    with refused(DataError, "no-people", "data.include_crowds"):
        folder.open()


@pytest.mark.parametrize(
    "nothing", [None, [], [[]], [[1, 1, 6, 6]], [[1.0, 1.0], [6.0, 6.0]], [1, 1, 6, 6], [[3, 4]]]
)
def test_people_without_an_outline_are_counted(folder, nothing):
    number = folder.image("a.png")
    folder.person(number)
    folder.person(number, nothing, bbox=[1, 1, 5, 5])
    dataset = folder.open()
    assert omissions(dataset) == {NO_OUTLINE: 1}
    assert (dataset[0].mask == 255).sum() == 25


@pytest.mark.parametrize("notation", [SQUARE, SQUARE[0], PAIRS, [PAIRS], [*SQUARE, PAIRS[:2]]])
def test_an_outline_is_read_in_every_notation(folder, notation):
    if notation == [*SQUARE, PAIRS[:2]]:
        notation = [*SQUARE, [1, 1, 2, 2]]
    folder.person(folder.image("a.png"), notation)
    dataset = folder.open()
    assert (dataset[0].mask == 255).sum() == 25
    assert omissions(dataset) == {}


def test_a_data_set_whose_masks_are_all_empty_is_refused_with_the_cause(folder, tmp_path):
    for name in ("a.png", "b.png"):
        folder.person(folder.image(name), SHARES)
    with refused(DataError, "all-masks-empty", "[0, 1]"):
        folder.open()
    with refused(DataError, "all-masks-empty", "[0, 1]"):  # nothing was left to be found
        folder.open()


def test_some_empty_masks_are_a_warning_with_their_number(folder):
    folder.person(folder.image("good.png"))
    folder.person(folder.image("bad.png"), SHARES)
    folder.person(folder.image("nothing.png"), rle(np.zeros((8, 12), np.uint8), True))
    dataset = folder.open()
    assert omissions(dataset) == {EMPTY_PEOPLE: 2}
    (shares, empty) = doubts(dataset).values()
    assert (shares, empty) == ((1, ["bad.png"]), (1, ["nothing.png"]))
    lines = list(accounting.describe(dataset))
    assert [line.startswith("warning: ") for line in lines] == [False, True, True]


def test_masks_of_0_and_1_are_refused(tmp_path, monkeypatch):
    class Dim(Pairs):
        NAME = "dim"

        def load(self, entry):
            return super().load(entry)._replace(mask=encode(np.eye(8, 12, dtype=np.uint8)))

    monkeypatch.setattr(SOURCES, "_entries", {**SOURCES._entries, "dim": Dim})
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encode(pixels(8, 12)))
    with refused(DataError, "all-masks-empty", "255"):
        splits.open_split(settings(tmp_path, "dim"), "train")


def test_skipped_images_are_counted(folder):
    folder.person(folder.image("cut.jpg", encode(pixels(64, 64), "JPEG")[:1500], size=(64, 64)))
    for index in range(100):
        folder.person(folder.image(f"{index}.png"))
    assert omissions(folder.open()) == {UNDECODABLE: 1}


def test_outlines_on_the_turned_image_are_a_warning_that_names_the_convention(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(pixels(48, 96), "JPEG", exif=exif)
    tall = [[1.0, 1.0, 40.0, 1.0, 40.0, 90.0, 1.0, 90.0]]
    folder.person(folder.image("turned.jpg", data, size=(48, 96)), tall)
    folder.person(folder.image("fine.jpg", data, size=(96, 48)), tall)
    [(reason, found)] = doubts(folder.open()).items()
    assert found == (1, ["turned.jpg"])
    assert "EXIF" in reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_annotations_are_read_in_every_encoding_of_json(folder, encoding):
    folder.person(folder.image("ä.png"))
    text = folder.write().read_text()
    assert folder.open(text.encode(encoding)).names == ["ä.png"]


@pytest.mark.parametrize(
    ("declared", "stored"),
    [("deep\\a.png", "deep/a.png"), ("a\u0308.png", "\u00e4.png"), ("\u00e4.png", "a\u0308.png")],
)
def test_names_from_windows_and_macos_are_found(folder, declared, stored):
    (folder.root / "images/deep").mkdir()
    folder.person(folder.image(stored, file_name=declared))
    assert len(folder.open()) == 1


@pytest.mark.parametrize("name", ["..\\a.png", "C:\\a.png", "deep\\..\\..\\a.png"])
def test_no_name_from_windows_leaves_the_folder(folder, name):
    folder.person(folder.image("a.png", file_name=name))
    with refused(DataError, "bad-file-name"):
        folder.open()
