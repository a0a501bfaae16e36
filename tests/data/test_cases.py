"""Small inputs of real users, each read as it should be; skipped where they are absent.

`test_accounting.py`, `test_image_files.py` and `test_decode.py` make the same faults themselves.
"""

from pathlib import Path

import numpy as np
import pytest
from refused import refused

from jaxdistill import config
from jaxdistill.data import Dataset, accounting, decode, image_files, splits
from jaxdistill.runtime.errors import DataError
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_teacher import Onnx

ONE, TWO = 500, 660
"""Pixels of the person, and of both where a second one stands beside it."""


def coco(root: Path, tmp_path: Path, **more: object) -> Dataset:
    split = config.Split(
        images=Path("images/train2017"), annotations=Path("annotations/train.json")
    )
    settings = config.Data(
        root=root, train=split, validation=split, prepared=tmp_path / "prepared", **more
    )
    return splits.open_split(settings, "train")


def areas(dataset: Dataset) -> list[int]:
    return [int((dataset[index].mask == 255).sum()) for index in range(len(dataset))]


@pytest.mark.parametrize(
    ("case", "more", "area", "left_out"),
    [
        ("annotations_with_bom", {}, ONE, 0),
        ("backslash_file_names", {}, ONE, 0),
        ("person_with_polygon_of_pairs", {}, TWO, 0),
        ("person_with_box_only", {}, ONE, 3),
        ("brush_masks_iscrowd_second_person", {}, ONE, 3),
        ("brush_masks_iscrowd_second_person", {"include_crowds": True}, TWO, 0),
        ("brush_masks_iscrowd_all", {"include_crowds": True}, ONE, 0),
    ],
)
def test_people_are_read_or_counted(shared, tmp_path, case, more, area, left_out):
    dataset = coco(shared("cases", case), tmp_path, **more)
    assert areas(dataset) == pytest.approx([area] * 3, abs=10 if area == TWO else 0)
    [account] = dataset.accounts
    assert sum(count.number for count in account.omissions) == left_out
    assert len(list(accounting.describe(dataset))) == bool(left_out)


def test_crowds_alone_are_refused_with_their_number_and_the_key(shared, tmp_path):
    with refused(DataError, "no-people", "data.include_crowds") as raised:
        coco(shared("cases", "brush_masks_iscrowd_all"), tmp_path)
    assert "3 " in str(raised.value)


def test_corners_as_shares_of_the_image_are_refused(shared, tmp_path):
    with refused(DataError, "all-masks-empty", "[0, 1]"):
        coco(shared("cases", "empty_masks_normalised_corners"), tmp_path)


def test_files_of_macos_are_passed_over(shared, tmp_path):
    root = shared("cases", "appledouble_files")
    settings = config.Data(
        root=root,
        train=config.Split(images=Path("train"), annotations=None),
        validation=config.Split(images=Path("validation"), annotations=None),
        prepared=tmp_path,
    )
    dataset = splits.open_split(settings, "train")
    assert list(dataset.names) == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]


def test_other_endings_are_taken_where_they_can_be_decoded_and_named_otherwise(
    shared, tmp_path, capsys
):
    root = shared("cases", "other_endings")
    found = {image.source.name for image in image_files.find_images([str(root)], [])}
    others = {path.name for path in image_files.unsupported_images([str(root)], [])}
    assert found | others == {path.name for path in root.iterdir()}
    assert {"a.jpg", "b.jfif", "c.jpe", "e.gif", "g.mpo", "i.HEIC"} <= found
    assert ("d.avif" in found) == ("AVIF" in decode.formats())
    assert {"f.jp2", "h.heic"} <= others  # the latter is the beginning of one
    for name in found:
        assert decode.decode((root / name).read_bytes(), upright=True).shape[2] == 3


@pytest.mark.parametrize("name", ["float32", "float16_io32", "float16_io16"])
def test_unsorted_nodes_run(shared, name):
    network = Onnx(OnnxGraph(shared("cases", "onnx_unsorted_nodes") / f"{name}.onnx"))
    images = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    assert np.isfinite(network(images).logits).all()


@pytest.mark.parametrize("name", ["usual", "named", "free", "no_shape"])
def test_free_and_named_axes_run(shared, name):
    network = Onnx(OnnxGraph(shared("cases", "onnx_named_axes") / f"{name}.onnx"), size=(64, 64))
    images = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    assert np.isfinite(network(images).logits).all()
