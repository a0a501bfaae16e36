"""COCO folders, sound and broken; masks against pycocotools."""

import contextlib
import json

import numpy as np
import pytest
from coco_folders import SQUARE, encode, pixels, rle
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from refused import refused

from jaxdistill import config
from jaxdistill.data import splits
from jaxdistill.data.sources import coco_json, drawing, outlines
from jaxdistill.data.sources.base import Source
from jaxdistill.data.sources.selection import sources_of
from jaxdistill.runtime.errors import DataError, UserError


def test_a_mask_is_the_union_of_people_in_every_notation_and_crowds_and_dogs_are_left_out(folder):
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 2, (8, 12), np.uint8) * np.uint8(k > 5) for k in (6, 7))
    number = folder.image("a.png")
    folder.person(number, SQUARE)
    folder.person(number, rle(first, compressed=True))
    folder.person(number, rle(second, compressed=False))
    folder.person(number, [[0.0, 0.0, 11.0, 0.0, 11.0, 7.0]], category_id=7)
    folder.person(number, rle(np.ones((8, 12), np.uint8), compressed=True), iscrowd=1)
    folder.person(folder.image("crowd.png"), iscrowd=1)
    folder.person(folder.image("dog.png"), category_id=7)
    folder.image("nobody.png")

    examples = folder.open()
    square = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(SQUARE, 8, 12)))
    assert square.sum() == 25
    assert (examples.names, examples.ids.tolist()) == (["a.png"], [number])
    np.testing.assert_array_equal(examples[0].mask == 255, (square | first | second).astype(bool))
    np.testing.assert_array_equal(examples[0].image, pixels(8, 12))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1), st.booleans())
def test_run_lengths_are_read_as_pycocotools_reads_them(height, width, seed, compressed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    encoded = outlines.Rle(**rle(mask, compressed))
    image = coco_json.CocoImage(1, "a.png", height, width, (encoded,))
    drawn, empty = drawing.draw(image)
    np.testing.assert_array_equal(drawn, mask)
    assert empty == (not mask.any())


@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=30))
def test_no_run_length_string_does_harm(text):
    image = coco_json.CocoImage(1, "a.png", 4, 5, (outlines.Rle((4, 5), text),))
    with contextlib.suppress(UserError):
        assert drawing.draw(image).mask.shape == (4, 5)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(["", "images", "annotations", "categories"]),
    st.sampled_from(["", "id", "file_name", "width", "image_id", "segmentation", "iscrowd"]),
    json_values,
)
def test_no_annotation_file_does_harm(tmp_path_factory, section, key, value):
    """One place of a sound file holds anything at all."""
    path = tmp_path_factory.getbasetemp() / "people.json"
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 12}],
        "annotations": [{"image_id": 1, "category_id": 3, "segmentation": SQUARE}],
        "categories": [{"id": 3, "name": "person"}],
    }
    if not section:
        tree = value
    elif not key:
        tree[section] = value
    else:
        tree[section][0][key] = value
    with contextlib.suppress(UserError):
        for image in coco_json.images_with_people(path, json.dumps(tree).encode()).images:
            if image.height * image.width < 1000:
                assert drawing.draw(image).mask.max() <= 1


@pytest.mark.parametrize("category", ["dog", "DOG ", 7])
def test_another_category_can_be_the_person(folder, category):
    both = folder.image("a.png")
    folder.person(both)
    folder.person(both, [[1, 1, 3, 1, 3, 3, 1, 3]], category_id=7)
    folder.person(folder.image("b.png"))
    dataset = splits.open_split(folder_data(folder, category), "train")
    assert dataset.names == ["a.png"]
    assert (dataset[0].mask == 255).sum() == 4
    assert folder.open().fingerprint != dataset.fingerprint


def folder_data(folder, category):
    folder.write()
    return folder.data(category=category)


@pytest.mark.parametrize("category", ["cat", 5, "3"])
def test_a_missing_category_is_named_with_those_there_are(folder, category):
    folder.person(folder.image("a.png"))
    with refused(DataError, "no-person-category", "person (3), dog (7)"):
        splits.open_split(folder_data(folder, category), "train")


@pytest.mark.parametrize("name", ["Person", " PERSON"])
def test_a_person_is_written_in_any_case(folder, name):
    folder.person(folder.image("a.png"))
    folder.instances["categories"][1]["name"] = name
    assert len(folder.open()) == 1


def test_degenerate_polygons_are_ignored(folder):
    number = folder.image("a.png")
    folder.person(number, [[], [1.0], [2.0, 2.0, 9.0, 9.0], [0.0, 0.0, 5.0, 5.0, 1.0], *SQUARE])
    assert (folder.open()[0].mask == 255).sum() == 25


def test_a_person_whose_outline_encloses_nothing_is_none(folder):
    boxes_alone = folder.image("a.png")
    folder.person(boxes_alone, [[1.0, 1.0, 6.0, 6.0]])
    with refused(DataError, "no-segmentation", "a.png"):
        folder.open()
    both = folder.image("b.png")
    folder.person(both, [])
    folder.person(both)
    examples = folder.open()
    assert examples.names == ["b.png"]
    assert (examples[0].mask == 255).sum() == 25


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_rgb(folder, mode):
    grey = np.linspace(0, 255, 96).astype(np.uint8).reshape(8, 12)
    if mode == "1":
        grey = np.where(grey > 127, 255, 0).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert("RGB" if mode == "CMYK" else "L").convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    folder.person(folder.image(f"a.{kind.lower()}", encode(image, kind)))
    seen = folder.open()[0].image
    assert seen.dtype == np.uint8
    np.testing.assert_allclose(seen, np.repeat(grey[..., None], 3, -1), atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_is_ignored_where_the_annotations_do_and_followed_where_they_do(
    folder, orientation, kind
):
    source = np.kron(pixels(2, 3), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(source, kind, exif=exif, quality=95)
    folder.person(folder.image("stored.jpg", data, size=(32, 48)))
    folder.person(folder.image("upright.jpg", data, size=(48, 32)))
    if orientation in (6, 8):
        stored, upright = folder.open()
        turned = np.rot90(stored.image, {6: -1, 8: 1}[orientation])
        np.testing.assert_array_equal(upright.image, turned)
        assert upright.mask.shape == (48, 32)
    else:
        with refused(DataError, "image-size-differs", "upright.jpg"):
            folder.open()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("declared", ["upright", "stored", "nowhere"])
def test_an_image_upside_down_is_rotated_if_those_on_their_side_are(folder, declared, kind):
    source = np.kron(pixels(2, 3), np.ones((16, 16, 1), np.uint8))

    def stored_with(orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        return encode(source, kind, exif=exif, quality=95)

    folder.person(folder.image("upside down.jpg", stored_with(3), size=(32, 48)))
    folder.person(folder.image("plain.jpg", stored_with(1), size=(32, 48)))
    if declared != "nowhere":
        size = {"upright": (48, 32), "stored": (32, 48)}[declared]
        folder.person(folder.image("side.jpg", stored_with(6), size=size))
    upside_down, plain, *_ = folder.open()
    turned = np.rot90(plain.image, 2 if declared == "upright" else 0)
    np.testing.assert_array_equal(upside_down.image, turned)


def test_a_turned_tiff_alone_makes_another_data_set(folder):
    """It was once prepared as if its pixels were stored upright."""
    folder.person(folder.image("a.tif", encode(pixels(8, 12), "TIFF")))
    folder.write()
    [source] = sources_of(folder.data(), "train")
    assert source.key() == Source.fingerprint(source)
    exif = Image.Exif()
    exif[0x0112] = 6
    folder.image("b.tif", encode(pixels(8, 12), "TIFF", exif=exif))
    assert source.key() != Source.fingerprint(source)


@pytest.mark.parametrize(
    ("break_it", "code", "names"),
    [
        (lambda f: f.instances.pop("images"), "not-coco", "images"),
        (lambda f: f.instances.update(images={}), "not-coco", "images: should"),
        (lambda f: f.instances["images"][0].update(id="x"), "not-coco", "images[0].id"),
        (lambda f: f.instances["images"][0].pop("width"), "not-coco", "images[0].width"),
        (
            lambda f: f.instances.update(categories=[{"id": 3, "name": "cat"}]),
            "no-person-category",
            "cat",
        ),
        (lambda f: f.person(99), "unknown-image-id", "annotations[1]"),
        (
            lambda f: f.instances["annotations"][0].update(segmentation=None),
            "no-segmentation",
            "a.png",
        ),
        (lambda f: f.person(1, 5), "not-coco", "annotations[1].segmentation"),
        (lambda f: f.person(1, [[1e300, 0, 5, 0, 5, 5]]), "damaged-segmentation", "a.png"),
        (
            lambda f: f.person(1, rle(np.ones((9, 12), np.uint8), True)),
            "segmentation-size-differs",
            "a.png is 9 x 12",
        ),
        (lambda f: f.person(1, {"size": [8, 12], "counts": [5]}), "damaged-segmentation", "a.png"),
        (
            lambda f: f.person(1, {"size": [8, 12], "counts": "o"}),
            "damaged-segmentation",
            "cut off",
        ),
        (lambda f: f.person(1, {"size": [8, 12], "counts": "\n"}), "damaged-segmentation", "RLE"),
        (lambda f: f.instances["annotations"].clear(), "no-people", "people.json"),
        (lambda f: f.image("b.png", id=1), "duplicate-image-id", "id 1"),
        (lambda f: (f.root / "images/a.png").unlink(), "missing-image", "a.png"),
        (
            lambda f: f.instances["images"][0].update(file_name="x" * 300 + ".png"),
            "missing-image",
            "xxx.png",
        ),
        (lambda f: f.instances["images"][0].update(height=9), "image-size-differs", "9 x 12"),
        (
            lambda f: (f.root / "images/a.png").write_bytes(b"?"),
            "too-many-undecodable-images",
            "a.png",
        ),
    ],
)
def test_what_is_wrong_is_named_in_one_line(folder, break_it, code, names):
    folder.person(folder.image("a.png"))
    break_it(folder)
    with refused(DataError, code, names):
        folder.open()


@pytest.mark.parametrize("text", ["", "[1, 2", b"\xff\xfe", "[" * 100_000, "7", '{"images": NaN}'])
def test_a_file_that_is_not_coco_json_is_named(folder, text):
    with pytest.raises(DataError, match=r"people\.json") as raised:
        folder.open(text)
    assert raised.value.code in ("not-json", "not-coco")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png", "", "C:\\x.png"])
def test_a_file_name_may_not_leave_the_folder(folder, name):
    folder.person(folder.image("a.png", file_name=name))
    with refused(DataError, "bad-file-name", "people.json"):
        folder.open()


@pytest.mark.parametrize("missing", ["images", "annotations"])
def test_a_missing_place_is_named_with_the_layout_expected(tmp_path, missing):
    if missing == "annotations":
        (tmp_path / "images/a").mkdir(parents=True)
    split = config.Split(images="images/a", annotations="annotations/a.json")
    data = config.Data(root=tmp_path, train=split, validation=split, prepared=tmp_path / "prepared")
    with refused(DataError, f"missing-{missing}", f"{tmp_path}/{missing}"):
        splits.open_split(data, "train")


@pytest.mark.parametrize(("split", "count"), [("train", 160), ("validation", 40)])
def test_real_images_get_the_masks_that_pycocotools_draws(shared, tmp_path, split, count):
    root = shared("data", "people")
    data = config.Data(root=root, prepared=tmp_path)
    examples = splits.open_split(data, split)
    assert len(examples) == count
    tree = json.loads((root / getattr(data, split).annotations).read_text())
    images = {image["id"]: image for image in tree["images"]}
    for index, number in enumerate(examples.ids.tolist()):
        height, width = images[number]["height"], images[number]["width"]
        expected = np.zeros((height, width), bool)
        for annotation in tree["annotations"]:
            if annotation["image_id"] == number:
                encoded = annotation["segmentation"]
                if isinstance(encoded, list):
                    encoded = coco_mask.merge(coco_mask.frPyObjects(encoded, height, width))
                expected |= coco_mask.decode(encoded).astype(bool)
        np.testing.assert_array_equal(examples[index].mask == 255, expected)
        assert examples[index].image.shape == (height, width, 3)
