"""Prepared data sets: built once, found again by their content, and damaged."""

import os
import tempfile

import numpy as np
import pytest
from coco_folders import encode, pixels
from refused import refused

from jaxdistill.data import builder, incomplete
from jaxdistill.runtime.errors import DataError


def test_images_behind_a_linked_folder_are_noticed_when_they_change(folder, tmp_path):
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch/a.png").write_bytes(encode(pixels(8, 12)))
    (tmp_path / "images/linked").symlink_to(tmp_path / "batch")
    folder.person(folder.image("b.png"))
    folder.instances["images"][0]["file_name"] = "linked/a.png"
    before = folder.open().fingerprint
    (tmp_path / "batch/a.png").write_bytes(encode(pixels(8, 12) // 2))
    assert folder.open().fingerprint != before


@pytest.mark.parametrize("part_bytes", [2**28, 1])
def test_a_data_set_is_built_once_found_again_and_the_same_in_parts(
    folder, monkeypatch, part_bytes
):
    monkeypatch.setattr(builder, "_PART_BYTES", part_bytes)
    for index in range(12):
        folder.person(folder.image(f"{index}.png", size=(8 + index, 12)))
    examples = folder.open()
    assert examples.names == [f"{index}.png" for index in range(12)]
    for index in range(12):
        np.testing.assert_array_equal(examples[index].image, pixels(8 + index, 12))
    assert examples.fingerprint == folder.open().fingerprint

    def never(*_):
        raise AssertionError("built twice")

    monkeypatch.setattr(builder.ImageDatasetBuilder, "download_and_prepare", never)
    folder.open()


def test_a_data_set_that_is_built_leaves_nothing_elsewhere(folder, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    folder.person(folder.image("a.png"))
    folder.open()
    assert not list(temporary.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(
    folder, tmp_path, monkeypatch
):
    folder.person(folder.image("a.png"))
    folder.open()
    [built] = tmp_path.glob("prepared/*/coco/*")
    built.rename(built.with_name(f"incomplete.AAAAAA_{built.name}"))
    other = built.with_name(f"incomplete.BBBBBB_{built.name}")
    other.mkdir()
    look_at = builder._looked_at

    def as_another_process_ends(example):
        incomplete.remove_left_over(built.parent)
        return look_at(example)

    monkeypatch.setattr(builder, "_looked_at", as_another_process_ends)
    with incomplete.writing(other):
        assert folder.open().names == ["a.png"]
        assert {path.name for path in built.parent.iterdir() if path.is_dir()} == {
            built.name,
            other.name,
        }
    incomplete.remove_left_over(built.parent)
    assert list(built.parent.iterdir()) == [built]


def test_the_fingerprint_is_of_the_content(folder, tmp_path):
    folder.person(folder.image("a.png"))
    before = folder.open().fingerprint
    os.utime(tmp_path / "images/a.png", (1, 1))
    assert folder.open().fingerprint == before
    folder.instances["annotations"][0]["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    masks_changed = folder.open().fingerprint
    (tmp_path / "images/a.png").write_bytes(encode(pixels(8, 12) // 2))
    assert len({before, masks_changed, folder.open().fingerprint}) == 3


def test_the_folders_bytes_are_kept(folder):
    data = encode(pixels(8, 12), "JPEG", quality=30)
    folder.person(folder.image("a.jpg", data))
    assert folder.open()._parts[0].records[0]["image"] == data


def damaged():
    """A JPEG cut off in the middle."""
    return encode(pixels(64, 64), "JPEG")[:1500]


def test_a_rare_damaged_image_is_skipped_and_named(folder, caplog):
    folder.person(folder.image("cut.jpg", damaged(), size=(64, 64)))
    for index in range(100):
        folder.person(folder.image(f"{index}.png"))
    examples = folder.open()
    assert len(examples) == 100
    assert "cut.jpg" not in examples.names
    [message] = caplog.messages
    assert message.startswith("data.train: 1 images")
    assert "cut.jpg (" in message


def test_many_damaged_images_stop_the_build_and_leave_nothing_behind(folder, tmp_path):
    for index in range(10):
        folder.person(folder.image(f"cut{index}.jpg", damaged(), size=(64, 64)))
    for index in range(100):
        folder.person(folder.image(f"{index}.png"))
    with refused(DataError, "too-many-undecodable-images", "cut0.jpg") as raised:
        folder.open()
    assert "cut1.jpg" in str(raised.value)
    assert not list(tmp_path.glob("prepared/*/coco/*"))


def test_a_damaged_data_set_is_named(folder, tmp_path):
    for index in range(5):
        folder.person(folder.image(f"{index}.png", size=(64, 64)))
    folder.open()
    (record,) = tmp_path.glob("prepared/*/coco/*/*.array_record*")
    os.truncate(record, record.stat().st_size // 2)
    with refused(DataError, "prepared-data-damaged", "3.png"):
        folder.open()[3]
    (information,) = tmp_path.glob("prepared/*/coco/*/metadata.json")
    information.write_text("{")
    with refused(DataError, "prepared-data-damaged", "prepared"):
        folder.open()
