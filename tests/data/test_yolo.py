"""YOLO: classes by name or number, lines that are none, and the folders that `data.yaml` names."""

import contextlib
from pathlib import Path

import layouts
import pytest
from folder_data import assert_same, omissions, opened, train_split
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import put
from refused import refused

from jaxdistill import config
from jaxdistill.data import Dataset, splits
from jaxdistill.data.sources.annotated import NO_ANNOTATION
from jaxdistill.data.sources.coco_json import NO_OUTLINE, NOBODY
from jaxdistill.data.sources.yolo import Yolo
from jaxdistill.runtime.errors import DataError, UserError

PHOTOS = layouts.photos()


def yolo_split(root: Path, **more) -> Dataset:
    split = config.Split(images=Path("images"), annotations=Path("labels"))
    settings = config.Data(
        root=root, source="yolo", train=split, prepared=root.parent / "prepared", **more
    )
    return splits.open_split(settings, "train")


def test_images_without_people_or_annotations_are_counted(tmp_path):
    layouts.yolo(tmp_path, PHOTOS, "images/train", "labels/train")
    labels = tmp_path / "labels/train"
    (labels / "1.txt").unlink()
    put(labels / "2.txt", b"")
    put(labels / "3.txt", b"1 0.5 0.5 0.2 0.2\n")
    dataset = train_split(tmp_path)
    assert omissions(dataset) == {NO_ANNOTATION: 1, NOBODY: 2, NO_OUTLINE: 1}
    assert_same(dataset, PHOTOS[3:])


def test_two_images_with_one_text_file_are_not_guessed(tmp_path):
    root = layouts.yolo(tmp_path / "data", PHOTOS)
    put(root / "images/1.jpg", PHOTOS[1].image)
    with refused(DataError, "ambiguous-mask", "1.jpg and 1.png"):
        yolo_split(root)
    put(root / "labels/1.jpg.txt", (root / "labels/2.txt").read_bytes())
    assert_same(yolo_split(root), [PHOTOS[1], *PHOTOS])


def test_classes_of_yolo_are_known_by_name_or_number(tmp_path):
    root = layouts.yolo(tmp_path / "data", PHOTOS)
    assert_same(yolo_split(root, category=1), PHOTOS)
    put(root / "data.yaml", b"names: {0: cat, 1: PERSON}")
    assert_same(yolo_split(root), PHOTOS)
    with refused(DataError, "no-person-category", "cat (0), PERSON (1)"):
        yolo_split(root, category="dog")
    (root / "data.yaml").unlink()
    assert_same(yolo_split(root, category=1), PHOTOS)
    with refused(DataError, "no-person-category", "data.yaml"):
        yolo_split(root)
    for path in (root / "labels").iterdir():
        lines = [line for line in path.read_text().splitlines() if line.startswith("1")]
        path.write_text("\n".join(f"0{line[1:]}" for line in lines))
    dataset = yolo_split(root)
    assert_same(dataset, PHOTOS)
    assert len(dataset.accounts[0].notes) == 1


def test_text_files_of_other_programs_are_read(tmp_path):
    """With a byte-order mark as of an editor on Windows, and classes as NumPy writes them."""
    root = layouts.yolo(tmp_path / "data", PHOTOS)
    for path in (root / "labels").iterdir():
        lines = path.read_text().splitlines()
        text = "\r\n".join(f"{float(line[0]):.3e}{line[1:]}" for line in lines)
        path.write_bytes(text.encode("utf-8-sig"))
    assert_same(yolo_split(root), PHOTOS)


@pytest.mark.parametrize("prefix", ["", "./", "../"])
def test_folders_that_yolos_description_names_are_found(tmp_path, prefix):
    layouts.yolo(tmp_path, PHOTOS, "a/images/b", "a/labels/b")
    layouts.yolo(tmp_path, PHOTOS[:1], "c/images", "c/labels")
    text = f"names: [dog, person]\ntrain: {prefix}a/images/b\nval: {prefix}c/images\ntest: [x]\n"
    put(tmp_path / "data.yaml", text.encode())
    found = opened(tmp_path)
    assert str(found.settings.train.annotations) == "a/labels/b"
    assert_same(found.train, PHOTOS)
    assert_same(found.validation, PHOTOS[:1])


@pytest.mark.parametrize("text", ["names: [", "3", "train: /etc/images", "train: nowhere/images"])
def test_another_description_is_no_layout(tmp_path, text):
    put(tmp_path / "data.yaml", text.encode())
    with refused(DataError, "unknown-layout"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("1 a b", "damaged-annotation"),
        ("x 0.1 0.1 0.2 0.2 0.3 0.3", "damaged-annotation"),
        ("1 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "damaged-annotation"),
        ("1 10 10 200 20 30 30", "damaged-annotation"),
        ("1 nan 0.1 0.2 0.2 0.3 0.3", "damaged-annotation"),
    ],
)
def test_a_line_that_is_not_of_yolo_is_named(tmp_path, line, code):
    root = layouts.yolo(tmp_path / "data", PHOTOS)
    put(root / "labels/2.txt", f"\n{line}\n".encode())
    with refused(DataError, code, "2.txt:2"):
        yolo_split(root)
    put(root / "data.yaml", b"names: 3")
    with refused(DataError, code, "data.yaml"):
        yolo_split(root)


def test_boxes_alone_are_refused(tmp_path):
    root = layouts.yolo(tmp_path / "data", PHOTOS)
    for path in (root / "labels").iterdir():
        path.write_text("1 0.5 0.5 0.2 0.2")
    with refused(DataError, "no-segmentation", "4 "):
        yolo_split(root)


texts = st.text(max_size=30) | st.from_regex(r"[01]( -?[0-9.]{1,4}){0,9}", fullmatch=True)


@settings(max_examples=60)
@given(st.lists(texts, max_size=4))
def test_no_text_file_does_harm(tmp_path_factory, lines):
    root = tmp_path_factory.getbasetemp()
    source = Yolo("train", root, root, settings=config.Data(category=1))
    with contextlib.suppress(UserError):
        people = source.read_people(root / "a.txt", "\n".join(lines).encode())
        assert len(source.scaled(people, (8, 12))) == len(people.outlines)
