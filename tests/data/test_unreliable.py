"""An I/O error is neither damage nor a reason to leave an image out."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refused import refused
from tensorflow_datasets.core import dataset_info

from jaxdistill import config
from jaxdistill.data import splits
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError

ARRAY_RECORD = (
    "pread() failed: {text}; reading /prepared/coco-part00000.array_record-00000-of-00001; at byte "
    "20296; Could not read from the underlying reader; at byte 0"
)
"""A message of array_record, which raises a ValueError for every error."""


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_WAITS", (0.0, 0.0))


@pytest.fixture
def data(tmp_path: Path) -> config.Data:
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{seed}.png")
    split = config.Split(images="photos", annotations=None)
    return config.Data(
        root=tmp_path,
        prepared=tmp_path / "prepared",
        train=split,
        validation=split,
        image_size=(32, 32),
    )


class Broken:
    """Records of a reader that has failed once: it fails forever."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getitem__(self, index: int) -> Any:
        raise ValueError(ARRAY_RECORD.format(text=os.strerror(self.number)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_an_io_error_in_a_prepared_data_set_is_no_damage(
    data: config.Data, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = splits.open_split(data, "train")
    [part] = dataset._parts
    expected, transient = dataset[1].image, number in files.TRANSIENT_ERRORS
    part.records = Broken(number)
    if transient:
        np.testing.assert_array_equal(dataset[1].image, expected)
    monkeypatch.setattr(part, "_open", lambda: Broken(number))
    part.records = Broken(number)
    with refused(DataError, "prepared-data-io", os.strerror(number)):
        dataset[1]


def test_an_image_that_cannot_be_read_at_the_moment_is_not_left_out(
    data: config.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = Path.read_bytes, [1, 1]

    def flaky(path: Path) -> bytes:
        if path.name == "1.png" and failures:
            failures.pop()
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", flaky)
    failures *= 10
    with refused(DataError, "unreadable-file", "1.png"):
        splits.open_split(data, "train")
    failures[:] = [1]
    assert len(splits.open_split(data, "train")) == 3


def test_metadata_that_tfds_could_not_look_up_are_not_missing(
    data: config.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TFDS asks `exists`, which takes any error for a missing file."""
    splits.open_split(data, "train")
    load, failures = dataset_info._load_metadata_from_file, [1]

    def flaky(folder: Any) -> dict[str, Any]:
        return {} if failures and failures.pop() else load(folder)

    monkeypatch.setattr(dataset_info, "_load_metadata_from_file", flaky)
    assert len(splits.open_split(data, "train")) == 3


def test_an_io_error_while_a_prepared_data_set_is_opened_is_retried_and_is_no_damage(
    data: config.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits.open_split(data, "train")
    read, failures = dataset_info.read_from_json, [1, 1]

    def flaky(path: Any) -> Any:
        if failures:
            failures.pop()
            try:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            except OSError as error:
                raise dataset_info.DatasetInfoFileError(f"cannot read {path}") from error
        return read(path)

    monkeypatch.setattr(dataset_info, "read_from_json", flaky)
    assert len(splits.open_split(data, "train")) == 3
    failures += [1] * 9
    with refused(DataError, "prepared-data-io", os.strerror(errno.EIO)):
        splits.open_split(data, "train")
