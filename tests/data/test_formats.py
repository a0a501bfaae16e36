"""YOLO, LabelMe, Supervisely and Hugging Face: the same images give the same masks."""

import base64
import contextlib
import json
from pathlib import Path

import layouts
import numpy as np
import pyarrow as pa
import pytest
from coco_folders import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import Photo, put
from PIL import Image
from refused import refused

from jaxdistill import config, data
from jaxdistill.data import Dataset, decode, splits
from jaxdistill.data.layouts import recognise
from jaxdistill.data.sources.annotated import NO_ANNOTATION, NO_IMAGE
from jaxdistill.data.sources.coco_json import NO_OUTLINE, NOBODY
from jaxdistill.data.sources.labelme import LabelMe
from jaxdistill.data.sources.supervisely import Supervisely
from jaxdistill.data.sources.yolo import Yolo
from jaxdistill.runtime.errors import DataError, UserError

PHOTOS = layouts.photos()


def write_yolo(root: Path, photos: list[Photo], split: str) -> None:
    layouts.yolo(root, photos, f"images/{split}", f"labels/{split}")


def write_yolo_above(root: Path, photos: list[Photo], split: str) -> None:
    layouts.yolo(root, photos, f"{split}/images", f"{split}/labels")


def write_labelme_inside(root: Path, photos: list[Photo], split: str) -> None:
    layouts.labelme(root, photos, split, inside=True)


def write_polygons(root: Path, photos: list[Photo], split: str) -> None:
    layouts.supervisely(root, photos, split, "polygon")


def write_parquet(root: Path, photos: list[Photo], split: str) -> None:
    layouts.hugging_face(root, photos, split, "parquet")


def write_named(root: Path, photos: list[Photo], split: str) -> None:
    layouts.hugging_face(root, photos, split, columns=("picture", "person"))


WRITERS = {
    "yolo": [write_yolo, write_yolo_above],
    "labelme": [layouts.labelme, write_labelme_inside],
    "supervisely": [layouts.supervisely, write_polygons],
    "hugging_face": [layouts.hugging_face, write_parquet, write_named],
}
BY_NAME = [(name, write) for name, writers in WRITERS.items() for write in writers]


def opened(root: Path, **more) -> data.Data:
    return data.open(root, image_size=32, prepared=root.parent / "prepared", **more)


def omissions(dataset: Dataset) -> dict[str, int]:
    [account] = dataset.accounts
    return {count.reason: count.number for count in account.omissions}


def assert_same(dataset: Dataset, photos: list[Photo]) -> None:
    assert len(dataset) == len(photos)
    for example, photo in zip(dataset, photos, strict=True):
        np.testing.assert_array_equal(example.image, decode.decode(photo.image))
        np.testing.assert_array_equal(example.mask, photo.mask * 255)


@pytest.mark.parametrize(("name", "write"), BY_NAME)
def test_the_same_images_give_the_same_masks(tmp_path, name, write):
    root = tmp_path / "data"
    write(root, PHOTOS, "train")
    write(root, PHOTOS[:1], "val")
    found = opened(root)
    assert found.settings.source == name
    assert name in found.layout_note
    assert_same(found.train, PHOTOS)
    assert_same(found.validation, PHOTOS[:1])
    whole = opened(root, validation="50%")
    assert len(whole.train) + len(whole.validation) == 4


@pytest.mark.parametrize(
    ("source", "write", "places"),
    [
        ("yolo", layouts.yolo, ("images", "labels")),
        ("labelme", layouts.labelme, (".", ".")),
        ("supervisely", layouts.supervisely, ("ds/img", "ds/ann")),
        ("supervisely", layouts.mask_folder, None),
    ],
)
def test_a_folder_without_splits_is_one(tmp_path, source, write, places):
    if places is None:
        for number, name in enumerate(("a", "b")):
            layouts.supervisely(tmp_path, PHOTOS[2 * number : 2 * number + 2], name)
        places = (".", ".")
    else:
        write(tmp_path, PHOTOS)
    found = recognise(config.Data(root=tmp_path), need_validation=False).settings
    assert (found.source, str(found.train.images), str(found.train.annotations)) == (
        source,
        *places,
    )
    prepared = found.model_copy(update={"prepared": tmp_path.parent / "prepared"})
    assert_same(splits.open_split(prepared, "train"), PHOTOS)


@pytest.mark.parametrize(("name", "write"), BY_NAME[:6])
def test_another_category_can_be_the_person(tmp_path, name, write):
    write(tmp_path, PHOTOS, "train")
    dogs = opened(tmp_path, category="DOG", validation="50%")
    people = opened(tmp_path, validation="50%")
    assert dogs.train[0].mask.sum() > 0
    assert (dogs.train[0].mask != people.train[0].mask).any()
    with pytest.raises(DataError) as raised:
        _ = opened(tmp_path, category="cat", validation="50%").train
    assert raised.value.code in ("no-person-category", "no-people")
    assert "cat" in str(raised.value)


def test_images_without_people_or_annotations_are_counted(tmp_path):
    write_yolo(tmp_path, PHOTOS, "train")
    labels = tmp_path / "labels/train"
    (labels / "1.txt").unlink()
    put(labels / "2.txt", b"")
    put(labels / "3.txt", b"1 0.5 0.5 0.2 0.2\n")
    settings = config.Data(root=tmp_path, prepared=tmp_path / "prepared")
    dataset = splits.open_split(recognise(settings, need_validation=False).settings, "train")
    assert omissions(dataset) == {NO_ANNOTATION: 1, NOBODY: 2, NO_OUTLINE: 1}
    assert_same(dataset, PHOTOS[3:])


def yolo_split(root: Path, **more) -> Dataset:
    split = config.Split(images=Path("images"), annotations=Path("labels"))
    settings = config.Data(
        root=root, source="yolo", train=split, prepared=root.parent / "prepared", **more
    )
    return splits.open_split(settings, "train")


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


def test_holes_and_bitmaps_of_supervisely_are_drawn(tmp_path):
    square = [2.0, 2.0, 20.0, 2.0, 20.0, 20.0, 2.0, 20.0]
    hole = [5.0, 5.0, 10.0, 5.0, 10.0, 10.0, 5.0, 10.0]
    layouts.supervisely(tmp_path, PHOTOS[:1], "train")
    path = tmp_path / "train/ann/1.png.json"
    content = json.loads(path.read_bytes())
    rectangle = {"exterior": [[1, 1], [9, 9]], "interior": []}
    content["objects"] = [
        layouts.sly_polygon("person", square, [hole]),
        {"classTitle": "person", "geometryType": "rectangle", "points": rectangle},
    ]
    path.write_text(json.dumps(content))
    settings = config.Data(root=tmp_path, prepared=tmp_path / "prepared")
    found = recognise(settings, need_validation=False).settings
    dataset = splits.open_split(found, "train")
    expected = layouts.draw([square], 24, 32) - layouts.draw([hole], 24, 32)
    np.testing.assert_array_equal(dataset[0].mask, expected * 255)
    assert expected.sum() == 18 * 18 - 25
    assert omissions(dataset) == {NO_OUTLINE: 1}


def test_painted_masks_and_boxes_of_labelme_are_told_apart(tmp_path):
    layouts.labelme(tmp_path, PHOTOS[:2], "train")
    path = tmp_path / "train/1.json"
    content = json.loads(path.read_bytes())
    box = {"label": "person", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
    content["shapes"] = [layouts.labelme_mask(PHOTOS[0]), box]
    path.write_text(json.dumps(content))
    settings = config.Data(root=tmp_path, prepared=tmp_path / "prepared")
    found = recognise(settings, need_validation=False).settings
    dataset = splits.open_split(found, "train")
    assert_same(dataset, PHOTOS[:2])
    assert omissions(dataset) == {NO_OUTLINE: 1}


@pytest.mark.parametrize("written", ["{}", "..\\\\images\\\\{}", "../x/{}"])
def test_an_image_of_another_name_is_found_by_what_labelme_says(tmp_path, written):
    layouts.labelme(tmp_path, PHOTOS, "train")
    for path in sorted((tmp_path / "train").glob("*.json")):
        content = json.loads(path.read_bytes())
        content["imagePath"] = written.format(f"{path.stem}.png").replace("\\\\", "\\")
        path.unlink()
        put(path.with_name(f"labels of {path.name}"), json.dumps(content).encode())
    taken = layouts.photos(5)[4]._replace(name="other.png")
    layouts.labelme(tmp_path, [taken], "train")
    path = tmp_path / "train/stray.json"  # names an image that has its own file
    path.write_bytes((tmp_path / "train/other.json").read_bytes())
    settings = config.Data(root=tmp_path, prepared=tmp_path / "prepared")
    found = recognise(settings, need_validation=False).settings
    dataset = splits.open_split(found, "train")
    assert_same(dataset, [*PHOTOS, taken])
    assert omissions(dataset) == {NO_IMAGE: 1}


@pytest.mark.parametrize(
    ("write", "name", "change", "code"),
    [
        (layouts.labelme, "train/1.json", {"imageHeight": 9}, "image-size-differs"),
        (layouts.labelme, "train/1.json", {"shapes": 3}, "damaged-annotation"),
        (layouts.labelme, "train/1.json", None, "not-json"),
        (layouts.supervisely, "train/ann/1.png.json", {"objects": [{}]}, "damaged-annotation"),
        (
            layouts.supervisely,
            "train/ann/1.png.json",
            {"objects": [{"classTitle": "person", "bitmap": {"data": "?", "origin": [0, 0]}}]},
            "damaged-annotation",
        ),
        (
            layouts.supervisely,
            "train/ann/1.png.json",
            {"size": {"height": 9, "width": 9}},
            "image-size-differs",
        ),
        (layouts.supervisely, "train/ann/1.png.json", None, "not-json"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path, write, name, change, code):
    write(tmp_path, PHOTOS, "train")
    write(tmp_path, PHOTOS, "val")
    path = tmp_path / name
    content = json.loads(path.read_bytes())
    path.write_text("{" if change is None else json.dumps(content | change))
    with refused(DataError, code, path.name):
        _ = opened(tmp_path).train


def test_a_bitmap_out_of_the_image_is_refused(tmp_path):
    layouts.supervisely(tmp_path, PHOTOS, "train")
    layouts.supervisely(tmp_path, PHOTOS, "val")
    path = tmp_path / "train/ann/1.png.json"
    path.write_text(path.read_text().replace('"origin": [', '"origin": [3'))
    with refused(DataError, "damaged-segmentation", "1.png"):
        _ = opened(tmp_path).train


def test_tables_are_read_whatever_their_columns_are_called(tmp_path):
    root = layouts.hugging_face(tmp_path, PHOTOS, columns=("a", "b"))
    layouts.hugging_face(tmp_path, PHOTOS, "validation", columns=("a", "b"))
    with refused(DataError, "unknown-columns", "a, b"):
        _ = opened(root).train
    found = opened(root, mask_column="b").train
    assert_same(found, PHOTOS)
    assert list(found.names) == [photo.name for photo in PHOTOS]


def test_a_row_that_names_a_file_elsewhere_is_refused(tmp_path):
    outside = put(tmp_path / "secret.png", PHOTOS[0].image)
    root = tmp_path / "data"
    for split in ("train", "test"):
        layouts.hugging_face(root, PHOTOS, split)
    path = root / "train/data-00000-of-00002.arrow"
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all()
    rows = table.to_pylist()
    for place, code in (("../../secret.png", "bad-file-name"), (str(outside), "bad-file-name")):
        rows[0]["image"] = {"bytes": None, "path": place}
        path.unlink()
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, table.schema))
        with refused(DataError, code, "secret.png"):
            _ = opened(root).train


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_damaged_table_is_named(tmp_path, kind):
    for split in ("train", "validation"):
        layouts.hugging_face(tmp_path, PHOTOS, split, kind)
    [path, _] = sorted(tmp_path.rglob(f"*train*.{kind}")) or sorted(tmp_path.glob("train/*.arrow"))
    path.write_bytes(b"nothing")
    with refused(DataError, "damaged-table", path.name):
        _ = opened(tmp_path).train


texts = st.text(max_size=30) | st.from_regex(r"[01]( -?[0-9.]{1,4}){0,9}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.lists(texts, max_size=4))
def test_no_text_file_does_harm(tmp_path_factory, lines):
    root = tmp_path_factory.getbasetemp()
    source = Yolo("train", root, root, settings=config.Data(category=1))
    with contextlib.suppress(UserError):
        people = source.read_people(root / "a.txt", "\n".join(lines).encode())
        assert len(source.scaled(people, (8, 12))) == len(people.outlines)


@settings(max_examples=60)
@given(
    st.sampled_from([Supervisely, LabelMe]),
    st.sampled_from(["", "size", "objects", "shapes", "points", "bitmap", "mask", "label"]),
    values,
)
def test_no_json_file_does_harm(tmp_path_factory, kind, key, value):
    root = tmp_path_factory.getbasetemp()
    one = {
        "classTitle": "person",
        "label": "person",
        "points": [[1, 1], [2, 2], [3, 1]],
        "bitmap": layouts.sly_bitmap("person", PHOTOS[0].mask)["bitmap"],
        "mask": base64.b64encode(encode(Image.new("1", (2, 2)))).decode(),
    }
    tree = {"size": {"height": 9, "width": 9}, "objects": [one], "shapes": [one]}
    if kind is Supervisely:
        one["points"] = {"exterior": one["points"]}
    if key in one:
        one[key] = value
    elif key:
        tree[key] = value
    else:
        tree = value
    source = kind("train", root, root)
    with contextlib.suppress(UserError):
        source.read_people(root / "a.json", json.dumps(tree).encode())


@pytest.fixture(scope="module")
def people(shared, tmp_path_factory) -> list[Photo]:
    """Forty real images, and their masks as COCO's annotations draw them."""
    root = shared("data", "people")
    prepared = tmp_path_factory.mktemp("prepared")
    dataset = data.coco(root, prepared=prepared).validation
    tree = json.loads((root / dataset_file()).read_bytes())
    polygons: dict[int, list] = {}
    for annotation in tree["annotations"]:
        polygons.setdefault(annotation["image_id"], []).append(annotation["segmentation"])
    found = []
    for id, name, example in zip(dataset.ids.tolist(), dataset.names, dataset, strict=True):
        own = polygons[id]
        plain = [polygon for each in own if isinstance(each, list) for polygon in each]
        exact = all(isinstance(each, list) for each in own)
        content = (root / "images/val2017" / name).read_bytes()
        found.append(Photo(name, content, (example.mask > 127).astype(np.uint8), plain * exact))
    return found


def dataset_file() -> str:
    return str(config.Data().validation.annotations)


FORMATS = [("mask_folder", layouts.mask_folder), *BY_NAME]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_real_images_have_the_same_masks_in_every_layout(people, tmp_path, name, write):
    """Bitmaps and the annotations' own polygons: pixel for pixel.

    Polygons that are traced from a mask: an IoU above 0.97. The worst one (0.973) has holes, which
    such polygons leave out; without holes it is 0.987 and more.
    """
    has_bitmaps = name in ("mask_folder", "hugging_face") or write is layouts.supervisely
    root = tmp_path / "data"
    photos = [photo if has_bitmaps or photo.polygons else layouts.traced(photo) for photo in people]
    if name == "mask_folder":
        write(root, photos, "images/train", "masks/train")
    else:
        write(root, photos, "train")
    settings = config.Data(root=root, prepared=tmp_path / "prepared")
    found = recognise(settings, need_validation=False).settings
    assert (found.source or name) == name
    dataset = splits.open_split(found, "train")
    assert len(dataset) == len(people)
    exact, worst = 0, 1.0
    by_name = sorted(people, key=lambda photo: photo.name)
    for example, photo in zip(dataset, by_name, strict=True):
        expected, drawn = photo.mask > 0, example.mask > 127
        if has_bitmaps or photo.polygons:
            np.testing.assert_array_equal(drawn, expected)
            exact += 1
        else:
            worst = min(worst, (drawn & expected).sum() / (drawn | expected).sum())
    assert exact == (40 if has_bitmaps else sum(bool(photo.polygons) for photo in people))
    assert worst > 0.97
