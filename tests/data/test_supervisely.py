"""Supervisely: holes, bitmaps and boxes."""

import json

import layouts
import numpy as np
from folder_data import omissions, opened, train_split
from refused import refused

from jaxdistill.data.sources.coco_json import NO_OUTLINE
from jaxdistill.runtime.errors import DataError

PHOTOS = layouts.photos()


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
    dataset = train_split(tmp_path)
    expected = layouts.draw([square], 24, 32) - layouts.draw([hole], 24, 32)
    np.testing.assert_array_equal(dataset[0].mask, expected * 255)
    assert expected.sum() == 18 * 18 - 25
    assert omissions(dataset) == {NO_OUTLINE: 1}


def test_a_bitmap_out_of_the_image_is_refused(tmp_path):
    layouts.supervisely(tmp_path, PHOTOS, "train")
    layouts.supervisely(tmp_path, PHOTOS, "val")
    path = tmp_path / "train/ann/1.png.json"
    path.write_text(path.read_text().replace('"origin": [', '"origin": [3'))
    with refused(DataError, "damaged-segmentation", "1.png"):
        _ = opened(tmp_path).train
