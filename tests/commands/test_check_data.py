"""`check-data`: counts, duplicates, masks that show nobody or nothing else, and the sheet."""

import io
from pathlib import Path

import coco_folders
import layouts
import numpy as np
import pytest
from coco_folders import encode
from layouts import put
from PIL import Image
from refused import refused

from jaxdistill import config
from jaxdistill.commands import check_data
from jaxdistill.data.inspection import inspect
from jaxdistill.reporting import data_sheet
from jaxdistill.runtime.errors import ConfigError, DataError, OutputError

PHOTOS = layouts.photos(6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in which a good deal is wrong."""
    root = tmp_path / "some <data>"
    layouts.mask_folder(root, PHOTOS[:4], "images/train", "masks/train")
    layouts.mask_folder(root, PHOTOS[3:], "images/val", "masks/val")
    copy = PHOTOS[0]._replace(name="copy.png")
    empty = PHOTOS[4]._replace(name="empty.png", mask=PHOTOS[4].mask * 0)
    full = layouts.photos(1, 20, 40)[0]
    full = full._replace(name="full.png", mask=full.mask * 0 + 1)
    layouts.mask_folder(root, [copy, empty, full], "images/train", "masks/train")
    put(root / "images/train/lonely.png", PHOTOS[5].image)
    put(root / "images/val/cut.png", PHOTOS[0].image[:200])
    put(root / "masks/val/cut.png", encode(PHOTOS[0].mask * np.uint8(255)))
    put(root / "images/val/small.png", encode(np.zeros((4, 4, 3), np.uint8)))
    put(root / "masks/val/small.png", encode(PHOTOS[0].mask * np.uint8(255)))
    return root


def run(root: Path, *arguments: str, output: str = "sheet.html") -> tuple[int, Path]:
    path = root.parent / output
    return check_data.main([str(root), "--output", str(path), *arguments]), path


def test_what_is_wrong_is_found(root: Path) -> None:
    found = inspect(config.Data(root=root))
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
        assert image.person == pytest.approx(PHOTOS[image.place].mask.mean())
        np.testing.assert_array_equal(train.example(image).mask, PHOTOS[image.place].mask * 255)
    assert len(train.usable) == 7


def test_equal_pixels_are_duplicates_whatever_the_file(tmp_path: Path) -> None:
    layouts.mask_folder(tmp_path, PHOTOS[:1])
    image = Image.open(io.BytesIO(PHOTOS[0].image))
    put(tmp_path / "images/again.bmp", encode(image, "BMP"))
    put(tmp_path / "masks/again.png", encode(PHOTOS[0].mask * np.uint8(255)))
    [group] = inspect(config.Data(root=tmp_path)).duplicates
    assert {image.name for image in group} == {"1.png", "again.bmp"}


def test_the_sheet_is_a_page_or_an_image(root: Path, capsys: pytest.CaptureFixture) -> None:
    code, page = run(root, "--samples", "3")
    assert code == 1
    printed = capsys.readouterr().out
    assert "mask_folder" in printed
    assert "2 images are in training and in validation" in printed
    text = page.read_text()
    assert text.count("<figure>") == 3 + 3 + 1 + 1 + 4 + 2
    assert "some &lt;data&gt;" in text
    assert "<data>" not in text
    code, image = run(root, output="sheet.png")
    assert code == 1
    with Image.open(image) as opened:
        assert min(opened.size) > 500


def test_data_without_faults_are_fine(tmp_path: Path) -> None:
    root = coco_folders.discs(tmp_path / "coco", train=3, validation=2)
    assert run(root)[0] == 0
    for name in ("train", "val"):
        layouts.mask_folder(tmp_path / "plain", PHOTOS[:2] if name == "val" else PHOTOS[2:], name)
    assert run(tmp_path / "plain", "data.source=image_folder", output="plain.html")[0] == 0
    text = (tmp_path / "plain.html").read_text()
    assert "How much" not in text


def test_a_folder_needs_no_validation_split(tmp_path: Path) -> None:
    layouts.mask_folder(tmp_path / "data", PHOTOS)
    found = inspect(config.Data(root=tmp_path / "data"))
    assert list(found.splits) == ["train"]
    drawn = inspect(config.Data(root=tmp_path / "data", validation="40%"))
    assert sum(len(split.images) for split in drawn.splits.values()) == len(PHOTOS)


def test_a_configuration_names_the_data(tmp_path: Path) -> None:
    root = coco_folders.discs(tmp_path / "coco", train=3, validation=2)
    (tmp_path / "mine.yaml").write_text(f"extends: recommended\ndata: {{root: {root}}}\n")
    arguments = ["--config", str(tmp_path / "mine.yaml"), "--output", str(tmp_path / "a.html")]
    assert check_data.main(arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        ([], ConfigError, "missing-data-root"),
        (["data.rot=a"], ConfigError, "unknown-key"),
        (["a", "run=b"], ConfigError, "unknown-key"),
        (["a", "data.workers=0"], ConfigError, "out-of-range"),
        (["a", "--samples", "0"], ConfigError, "command-line"),
        (["a", "b"], ConfigError, "command-line"),
        (["/nowhere/at/all"], DataError, "missing-images"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], kind: type, code: str) -> None:
    with refused(kind, code):
        check_data.main(arguments)


def test_a_sheet_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    layouts.mask_folder(tmp_path / "data", PHOTOS[:1])
    (tmp_path / "file").write_text("")
    with refused(OutputError, "cannot-write", "--output"):
        run(tmp_path / "data", output="file/sheet.html")


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
