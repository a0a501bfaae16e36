"""What stays on disk between runs is listed with its size, and removed on request."""

import os
import time
from pathlib import Path

import coco_folders
import numpy as np
import pytest
from refused import refused

from jaxdistill import config
from jaxdistill.commands import storage as command
from jaxdistill.data.splits import open_split
from jaxdistill.runtime import storage
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.teachers.cache_files import CacheFolder

DAY = 24 * 60 * 60


def cache(root: Path, version: int) -> CacheFolder:
    folder = CacheFolder(root, "logits", {"version": version}, [(2, 2, 1)])
    folder.write("0" * 40, False, [np.zeros((2, 2, 1))])
    return folder


def aged(folder: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(folder / storage.ABOUT, (then, then))


def test_prepared_data_and_caches_are_found_with_their_sizes(tmp_path: Path) -> None:
    data = config.Data(
        root=coco_folders.discs(tmp_path / "coco"),
        prepared=tmp_path / "prepared",
        image_size=(32, 32),
    )
    open_split(data, "train")
    one = cache(tmp_path / "cache", 1)
    (tmp_path / "cache" / "photos").mkdir()  # somebody else's
    found = storage.find([tmp_path / "prepared", tmp_path / "cache", tmp_path / "none"])
    assert {stored.kind for stored in found} == {storage.PREPARED, storage.CACHE}
    prepared, cached = sorted(found, key=lambda stored: stored.kind)
    assert prepared.about["images"].endswith("coco/images/train2017")
    assert cached.about["version"] == 1
    assert cached.path == one.path
    expected = sum(path.stat().st_size for path in one.path.rglob("*") if path.is_file())
    assert cached.size == expected


def test_only_what_was_not_opened_for_so_long_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, reopened = (cache(tmp_path, version) for version in (1, 2, 3))
    aged(old.path, 40)
    aged(reopened.path, 40)
    cache(tmp_path, 3)
    command.main([str(tmp_path), "--unused-for", "30"])
    assert old.path.is_dir()
    command.main([str(tmp_path), "--unused-for", "30", "--remove"])
    assert sorted(tmp_path.iterdir()) == sorted([new.path, reopened.path])
    assert str(old.path) in capsys.readouterr().out


def test_removing_needs_an_age(tmp_path: Path) -> None:
    cache(tmp_path, 1)
    with pytest.raises(ConfigError) as caught:
        command.main([str(tmp_path), "--remove"])
    assert caught.value.code == "command-line"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("days", ["-1", "nan", "long"])
def test_an_age_is_a_number_of_days(tmp_path: Path, days: str) -> None:
    folder = cache(tmp_path, 1).path
    with refused(ConfigError, "command-line"):
        command.main([str(tmp_path), "--unused-for", days, "--remove"])
    assert folder.is_dir()


def test_a_removal_that_was_interrupted_is_found_and_completed(tmp_path: Path) -> None:
    folder = cache(tmp_path, 1).path
    folder.rename(folder.with_name(f"{folder.name}.removed"))
    [stored] = storage.find([tmp_path])
    storage.remove(stored)
    assert not list(tmp_path.iterdir())


def test_the_folders_of_a_configuration_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(
        f"extends: recommended\ndata: {{prepared: {tmp_path}/p, augment: flip}}\n"
        f"targets: {{cache: {tmp_path}/c}}\n"
    )
    folder = cache(tmp_path / "c", 1).path
    command.main(["--config", str(file)])
    assert str(folder) in capsys.readouterr().out
