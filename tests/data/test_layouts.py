"""Recognised layouts: what a folder is taken for, and what is refused."""

import json
from pathlib import Path

import coco_folders
import layouts
import numpy as np
import pytest
from coco_folders import Folder
from layouts import put
from refused import refused

from jaxdistill import config, data
from jaxdistill.data import SOURCES
from jaxdistill.data.layouts import recognise
from jaxdistill.data.sources.layout import kind_of
from jaxdistill.runtime.errors import ConfigError, DataError

PHOTOS = layouts.photos(3)


def found(root: Path, **more) -> config.Data:
    layout = recognise(config.Data(root=root, **more))
    assert str(root) in layout.note
    return layout.settings


def places(settings: config.Data) -> tuple[str, ...]:
    splits = (settings.train, settings.validation)
    return tuple(str(path) for split in splits for path in (split.images, split.annotations))


def coco(root: Path, images: str, annotations: str) -> None:
    folder = Folder(root, config.Split(images=Path(images), annotations=Path(annotations)))
    folder.person(folder.image("1.png"))
    folder.write()


MASKS = [
    ("images/train", "masks/train", "images/val", "masks/val"),
    ("Images/train2017", "Masks/train2017", "Images/val2017", "Masks/val2017"),
    ("train/images", "train/masks", "valid/images", "valid/masks"),
    ("training/imgs", "training/gt", "validation/imgs", "validation/gt"),
    ("train", "train_masks", "val", "val_masks"),
    ("train_images", "train_masks", "valid_images", "valid_masks"),
    ("JPEGImages/train", "SegmentationClass/train", "JPEGImages/dev", "SegmentationClass/dev"),
    ("train/images", "train/annotations", "test/images", "test/annotations"),
]


@pytest.mark.parametrize("expected", MASKS)
def test_folders_of_masks_are_found(tmp_path, expected):
    for images, masks in (expected[:2], expected[2:]):
        layouts.mask_folder(tmp_path, PHOTOS, images, masks)
    settings = found(tmp_path)
    assert (settings.source, places(settings)) == ("mask_folder", expected)


@pytest.mark.parametrize("folder", ["{}", "images/{}"])
def test_masks_beside_their_images_are_found(tmp_path, folder):
    for split in ("train", "val"):
        place = folder.format(split)
        layouts.mask_folder(tmp_path, PHOTOS, place, place, "_mask.png")
    settings = found(tmp_path)
    assert settings.source == "mask_folder"
    assert settings.train.images == settings.train.annotations == Path(folder.format("train"))


COCO = [
    (
        ("images/train", "annotations/instances_train.json"),
        ("images/val", "annotations/instances_val.json"),
    ),
    (
        ("images/train2017", "annotations/instances_train2017.json"),
        ("images/val2017", "annotations/instances_val2017.json"),
    ),
    (("train", "train/_annotations.coco.json"), ("valid", "valid/_annotations.coco.json")),
    (("train", "train.json"), ("validation", "validation.json")),
    (("images", "people-train.json"), ("images", "people-val.json")),
    (("train/data", "train/labels.json"), ("val/data", "val/labels.json")),
]


@pytest.mark.parametrize("expected", COCO)
def test_instances_files_are_found(tmp_path, expected):
    for split in expected:
        coco(tmp_path, *split)
    put(tmp_path / "annotations/captions_train.json", b"{}")
    settings = found(tmp_path)
    assert (settings.source, places(settings)) == ("coco", (*expected[0], *expected[1]))


def test_a_task_of_cvat_is_found(tmp_path):
    coco(tmp_path, "images/default", "annotations/instances_default.json")
    settings = recognise(config.Data(root=tmp_path), need_validation=False).settings
    assert places(settings)[:2] == ("images/default", "annotations/instances_default.json")


def test_an_instances_file_as_large_as_coco_s_own_is_found(tmp_path):
    """Its keys are megabytes apart, in the order that COCO's files have."""
    for split in ("train", "val"):
        coco(tmp_path, f"images/{split}", f"annotations/instances_{split}.json")
        file = tmp_path / f"annotations/instances_{split}.json"
        content = json.loads(file.read_text())
        padding = "x" * 2**17
        content["images"][0]["flickr_url"] = content["annotations"][0]["note"] = padding * 20
        order = ("images", "annotations", "categories")
        text = json.dumps({"info": {}, **{key: content[key] for key in order}})
        file.write_text(text)
        assert text.index('"annotations"') > 2**20
        assert len(text) - text.index('"annotations"') > 2**20
    assert found(tmp_path).source == "coco"


@pytest.mark.parametrize(
    ("images", "masks"), [("train", "train/masks"), ("images/train", "images/train/gt")]
)
def test_masks_in_a_folder_of_the_images_are_found(tmp_path, images, masks):
    layouts.mask_folder(tmp_path, PHOTOS, images, masks)
    settings = recognise(config.Data(root=tmp_path), need_validation=False).settings
    assert (settings.source, str(settings.train.annotations)) == ("mask_folder", masks)
    opened = data.open(
        tmp_path,
        source="mask_folder",
        train={"images": images, "annotations": masks},
        validation={"images": images, "annotations": masks},
        prepared=tmp_path / "prepared",
    )
    assert len(opened.train) == len(PHOTOS)


def test_other_folders_with_a_name_of_masks_do_not_hide_the_masks(tmp_path):
    """As in Pascal VOC, and beside boxes in YOLO's text files."""
    layouts.mask_folder(tmp_path, PHOTOS, "JPEGImages", "SegmentationClass")
    put(tmp_path / "Annotations/1.xml", b"<annotation/>")
    settings = recognise(config.Data(root=tmp_path), need_validation=False).settings
    assert settings.source == "mask_folder"
    put(tmp_path / "labels/1.txt", b"0 0.5 0.5 0.1 0.1")
    with refused(DataError, "ambiguous-layout", "data.source=mask_folder"):
        recognise(config.Data(root=tmp_path), need_validation=False)
    chosen = config.Data(root=tmp_path, source="mask_folder")
    assert recognise(chosen, need_validation=False).settings.train == settings.train


def test_files_that_cannot_be_read_do_not_matter(tmp_path):
    for split in ("train", "test"):
        layouts.mask_folder(tmp_path, PHOTOS, split, "elsewhere")
    (tmp_path / "broken.json").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "train/broken.json").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty.json").touch()
    put(tmp_path / "train/.ipynb_checkpoints/1-checkpoint.png", PHOTOS[0].image)
    assert places(found(tmp_path)) == ("train", "None", "test", "None")
    opened = data.open(tmp_path, prepared=tmp_path / "prepared").train
    assert len(opened) == len(PHOTOS)


def test_the_default_names_are_taken_as_they_always_were(tmp_path):
    coco_folders.discs(tmp_path, train=2, validation=1)
    layouts.mask_folder(tmp_path, PHOTOS, "images/train2017", "masks/train2017")
    settings = config.Data(root=tmp_path)
    assert recognise(settings) == (settings, "")


def test_folders_without_masks_are_found(tmp_path):
    for split in ("train", "test"):
        layouts.mask_folder(tmp_path, PHOTOS, split, "elsewhere")
    settings = found(tmp_path)
    assert settings.source is None
    assert places(settings) == ("train", "None", "test", "None")


def test_named_splits_are_not_searched_for(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS)
    split = config.Split(images=Path("images"), annotations=None)
    for named in ({"train": split}, {"validation": split}):
        settings = config.Data(root=tmp_path, **named)
        assert recognise(settings) == (settings, "")
    assert recognise(config.Data()).settings == config.Data()


def test_default_annotations_are_none_where_the_source_reads_none(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS, "a")
    named = config.Split(images=Path("a"), annotations=config.Data().train.annotations)
    for validation in (named.model_copy(update={"share": 0.5}), named):
        more = {"train": named, "validation": validation, "root": tmp_path}
        read = recognise(config.Data(source="image_folder", **more)).settings
        assert (read.train.annotations, read.validation.annotations) == (None, None)
        assert (read.train.images, read.validation.share) == (named.images, validation.share)
        kept = config.Data(source="coco", **more)
        assert recognise(kept).settings == kept


def test_a_default_validation_split_that_is_not_there_is_left_out_on_request(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS, "a", "b")
    train = config.Split(images=Path("a"), annotations=Path("b"))
    settings = config.Data(root=tmp_path, source="mask_folder", train=train)
    layout = recognise(settings, need_validation=False)
    assert layout.settings.validation == train
    assert "val2017" in layout.note
    assert recognise(settings).settings == settings
    (tmp_path / settings.validation.images).mkdir(parents=True)
    assert recognise(settings, need_validation=False).settings == settings


def test_a_split_that_is_missing_is_asked_for_and_can_be_drawn(tmp_path):
    layouts.mask_folder(tmp_path, PHOTOS)
    with refused(DataError, "validation-needed", "data.validation=10%"):
        recognise(config.Data(root=tmp_path))
    assert places(recognise(config.Data(root=tmp_path), need_validation=False).settings)
    settings = found(tmp_path, validation="40%")
    assert places(settings) == ("images", "masks") * 2
    assert settings.validation.share == 0.4


def test_an_unknown_layout_is_refused_with_what_was_seen(tmp_path):
    put(tmp_path / "stuff/a.txt", b"")
    put(tmp_path / "b.pdf", b"")
    with refused(DataError, "unknown-layout", "stuff/ (1 .txt), 1 .pdf") as raised:
        recognise(config.Data(root=tmp_path))
    assert all(name in str(raised.value) for name in ("coco", "mask_folder", "image_folder"))


def test_several_layouts_are_refused_and_can_be_chosen_from(tmp_path):
    for split in ("train", "val"):
        layouts.mask_folder(tmp_path, PHOTOS, f"images/{split}", f"masks/{split}")
        coco(tmp_path, f"images/{split}", f"{split}.json")
    with refused(DataError, "ambiguous-layout", "mask_folder"):
        recognise(config.Data(root=tmp_path))
    assert found(tmp_path, source="coco").train.annotations == Path("train.json")
    assert found(tmp_path, source="mask_folder").train.annotations == Path("masks/train")


def test_two_instances_files_for_one_split_are_refused(tmp_path):
    for name in ("train_a.json", "train_b.json", "val.json"):
        coco(tmp_path, "images", name)
    with refused(DataError, "ambiguous-layout", "train_a.json"):
        recognise(config.Data(root=tmp_path))


def test_a_source_without_recognition_keeps_its_folders(tmp_path, monkeypatch):
    class Own(SOURCES["coco"]):
        recognise = classmethod(data.Source.recognise.__func__)

    monkeypatch.setattr(SOURCES, "_entries", {**SOURCES._entries, "own": Own})
    settings = config.Data(root=tmp_path, source="own")
    assert recognise(settings) == (settings, "")
    with refused(ConfigError, "unknown-data-source", "mask_folder"):
        recognise(config.Data(root=tmp_path, source="maskfolder"))


@pytest.mark.parametrize("content", ["[]", '{"images": 3, "annotations": 0, "categories": ""}'])
def test_other_json_files_are_not_instances(tmp_path, content):
    put(tmp_path / "train.json", content.encode())
    name = json.dumps({"images": [{"file_name": "../../x.png"}], "annotations": 0, "categories": 0})
    put(tmp_path / "val.json", name.encode())
    with refused(DataError, "unknown-layout"):
        recognise(config.Data(root=tmp_path))


@pytest.mark.parametrize(("count", "warned"), [(1, True), (2, True), (3, False)])
def test_a_validation_on_next_to_nothing_is_warned_of(tmp_path, count, warned):
    for split, photos in (("train", PHOTOS), ("val", PHOTOS[:count])):
        layouts.mask_folder(tmp_path, photos, f"images/{split}", f"masks/{split}")
    opened = data.open(tmp_path, image_size=32, prepared=tmp_path / "prepared")
    assert any(line.startswith("warning: scores on") for line in data.describe(opened)) == warned


def test_data_of_a_folder_are_opened_in_one_line(tmp_path):
    for split in ("train", "val"):
        layouts.mask_folder(tmp_path, PHOTOS, f"images/{split}", f"masks/{split}")
    opened = data.open(tmp_path, image_size=32, prepared=tmp_path / "prepared")
    np.testing.assert_array_equal(opened.train[0].mask, PHOTOS[0].mask * 255)
    first, *_ = data.describe(opened)
    assert first == opened.layout_note
    assert "mask_folder" in first
    again = data.from_config(opened.settings)
    assert (again.settings, again.layout_note) == (opened.settings, "")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train", "train"),
        ("Train2017", "train"),
        ("training_2", "train"),
        ("val", "validation"),
        ("VALID", "validation"),
        ("validation", "validation"),
        ("test", "test"),
        ("trains", None),
        ("value", None),
        ("contest", None),
        ("", None),
    ],
)
def test_splits_are_known_by_their_names(name, kind):
    assert kind_of(name) == kind
