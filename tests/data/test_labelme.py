"""LabelMe: painted masks and boxes, and which image a file belongs to."""

import json

import layouts
import pytest
from folder_data import assert_same, omissions, train_split
from layouts import put
from refused import refused

from jaxdistill.data.sources.annotated import NO_IMAGE
from jaxdistill.data.sources.coco_json import NO_OUTLINE
from jaxdistill.runtime.errors import DataError

PHOTOS = layouts.photos()


def test_painted_masks_and_boxes_of_labelme_are_told_apart(tmp_path):
    layouts.labelme(tmp_path, PHOTOS[:2], "train")
    path = tmp_path / "train/1.json"
    content = json.loads(path.read_bytes())
    box = {"label": "person", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
    content["shapes"] = [layouts.labelme_mask(PHOTOS[0]), box]
    path.write_text(json.dumps(content))
    dataset = train_split(tmp_path)
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
    dataset = train_split(tmp_path)
    assert_same(dataset, [*PHOTOS, taken])
    assert omissions(dataset) == {NO_IMAGE: 1}


def write_elsewhere(root, place, written, photo):
    """Writes an image into a folder, and its JSON file, of another name, into another one."""
    layouts.labelme(root / "images", [photo._replace(name="1.png")], place)
    path = root / "images" / place / "1.json"
    content = json.loads(path.read_bytes()) | {"imagePath": written}
    path.unlink()
    return put(root / f"labels/{place} 1.json", json.dumps(content).encode())


@pytest.mark.parametrize(
    "written", ["..\\images\\{}\\1.png", "../images/{}/1.png", "C:\\photos\\{}\\1.png"]
)
def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path, written):
    for place, photo in zip(("day", "night"), PHOTOS, strict=False):
        write_elsewhere(tmp_path, place, written.format(place), photo)
    assert_same(train_split(tmp_path), PHOTOS[:2])


def test_one_of_several_images_is_not_guessed(tmp_path):
    for place in ("day", "night"):
        write_elsewhere(tmp_path, place, "1.png", PHOTOS[0])
    with refused(DataError, "ambiguous-mask", "day/1.png and night/1.png"):
        train_split(tmp_path)


def test_two_images_with_one_json_file_are_not_guessed(tmp_path):
    layouts.labelme(tmp_path, PHOTOS, "train")
    put(tmp_path / "train/1.jpg", PHOTOS[0].image)
    with refused(DataError, "ambiguous-mask", "1.jpg and 1.png"):
        train_split(tmp_path)
