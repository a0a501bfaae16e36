"""Checkpoints are written before others go, and set aside only when they are proven damaged."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from small_checkpoints import (
    TENSORSTORE,
    metadata_file,
    names,
    restore,
    save,
    state_after,
)

from jaxdistill.checkpoint import folders, manager
from jaxdistill.checkpoint.restore import by_score, newest_metadata, restore_latest
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import RunError
from jaxdistill.runtime.run_layout import CHECKPOINTS


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    restored = restore(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, restored.state, state_after(2))
    assert restored.metadata["frozen"] == "ab12"
    assert not restored.damaged


def test_a_run_without_checkpoints_has_nothing_to_restore(tmp_path: Path) -> None:
    assert restore_latest(tmp_path, lambda phase: state_after(0)) is None
    assert newest_metadata(tmp_path) is None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, keep=1, scores={1: 0.5, 2: 0.9, 3: 0.1})
    assert names(tmp_path) == ["2", "4"]
    assert [int(folder.name) for folder, _ in by_score(tmp_path)[0]] == [2, 4]


def test_with_one_kept_the_old_one_goes_after_the_new_one_was_written(tmp_path: Path) -> None:
    """A thread looks at the folder all the time."""
    save(tmp_path, 1, keep=1)
    seen, ended = [], threading.Event()

    def look() -> None:
        while not ended.is_set():
            seen.append([step for step in ("1", "2") if (tmp_path / CHECKPOINTS / step).exists()])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        save(tmp_path, 2, keep=1)
    finally:
        ended.set()
        thread.join()
    assert names(tmp_path) == ["2"]
    assert ["1"] in seen
    assert [] not in seen


def test_a_step_is_written_again_before_its_old_checkpoint_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2, keep=1)
    present = []
    write = ocp.CheckpointManager.save

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        present.append(names(tmp_path))
        return write(self, *args, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", noted)
    save(tmp_path, 2, keep=1, scores={2: 0.5})
    assert present == [["2.replaced"]]
    assert names(tmp_path) == ["2"]
    assert restore(tmp_path).metadata["score"] == 0.5


def test_a_replacement_that_was_interrupted_loses_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    folder = tmp_path / CHECKPOINTS / "2"
    folder.rename(folder.with_name("2.replaced"))
    metadata = newest_metadata(tmp_path)
    assert metadata is not None
    assert [folder.name for folder, _ in by_score(tmp_path)[0]] == ["2.replaced", "1"]
    assert int(restore(tmp_path).state.step) == 2
    assert names(tmp_path) == ["1", "2"]


def test_a_full_disk_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    usage = manager.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(manager.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(RunError, match="no space left") as caught:
        save(tmp_path, 2)
    assert caught.value.code == "checkpoint-not-written"
    assert names(tmp_path) == ["1"]


def test_the_metadata_are_plain_json(tmp_path: Path) -> None:
    save(tmp_path, 1, scores={1: 0.25})
    written = json.loads(metadata_file(tmp_path, 1).read_text())
    assert written["score"] == 0.25
    assert set(written["digests"]) == {"params", "batch_stats", "opt_state"}


class Flaky:
    """Stands for a method of Orbax that fails some times before it works."""

    def __init__(self, method: Any, error: Exception, times: int) -> None:
        self.method, self.error, self.left, self.calls = method, error, times, 0

    def __get__(self, manager: Any, kind: Any = None) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.left:
                self.left -= 1
                raise self.error
            return self.method(manager, *args, **options)

        return call


EIO = ValueError(TENSORSTORE.format(text=os.strerror(errno.EIO), number=errno.EIO))


@pytest.mark.parametrize("name", ["save", "wait_until_finished"])
def test_a_checkpoint_is_written_again_after_an_io_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(files, "RETRY_WAITS", (0.0, 0.0))
    save(tmp_path, 1)
    method = getattr(ocp.CheckpointManager, name)
    monkeypatch.setattr(ocp.CheckpointManager, name, Flaky(method, EIO, 1))
    save(tmp_path, 2)
    assert names(tmp_path) == ["1", "2"]
    assert int(restore(tmp_path).state.step) == 2


def test_an_io_error_that_stays_is_reported_and_the_checkpoints_before_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    flaky = Flaky(ocp.CheckpointManager.save, EIO, 99)
    monkeypatch.setattr(ocp.CheckpointManager, "save", flaky)
    with pytest.raises(RunError, match=os.strerror(errno.EIO)) as caught:
        save(tmp_path, 2, keep=1)
    assert caught.value.code == "checkpoint-not-written"
    assert flaky.calls == 1 + len(files.RETRY_WAITS)
    assert names(tmp_path) == ["1"]


def test_a_full_disk_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TENSORSTORE.format(text=os.strerror(errno.ENOSPC), number=errno.ENOSPC)
    flaky = Flaky(ocp.CheckpointManager.save, ValueError(text), 99)
    monkeypatch.setattr(ocp.CheckpointManager, "save", flaky)
    with pytest.raises(RunError, match="no space left"):
        save(tmp_path, 1)
    assert flaky.calls == 1


def test_a_checkpoint_that_cannot_be_removed_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it may be gone by then, so that it has another name from the start."""

    def failing(path: Path, ignore_errors: bool = False) -> None:
        (Path(path) / "metadata" / "metadata").unlink(missing_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(folders.shutil, "rmtree", failing)
        save(tmp_path, 1, 2, keep=1)
    assert names(tmp_path) == ["1.old", "2"]
    assert [folder.name for folder, _ in by_score(tmp_path)[0]] == ["2"]
    assert not by_score(tmp_path)[1]
    save(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["3"]


def test_a_checkpoint_is_on_the_disk_before_an_older_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    sync, remove = files.sync, folders.remove
    monkeypatch.setattr(files, "sync", lambda path: events.append(path) or sync(path))
    monkeypatch.setattr(folders, "remove", lambda path: events.append("removed") or remove(path))
    save(tmp_path, 1, 2, keep=1)
    removed = events.index("removed", events.index(metadata_file(tmp_path, 2)))
    assert tmp_path / CHECKPOINTS / "2" / "state" / "_METADATA" in events[:removed]
