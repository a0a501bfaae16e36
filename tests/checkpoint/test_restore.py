"""Only proven damage is set aside: anything else may be the disk, the network or a permission."""

import errno
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from small_checkpoints import (
    TENSORSTORE,
    arrays_file,
    cut,
    flip,
    metadata_file,
    names,
    restore,
    save,
    state_after,
)

from jaxdistill.checkpoint.restore import by_score, newest_metadata, restore_latest
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import RunError
from jaxdistill.runtime.run_layout import CHECKPOINTS

UNREADABLE = Path("/proc/self/mem")  # a real file whose first byte cannot be read: EIO


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink, make_folder])
@pytest.mark.parametrize("file", [arrays_file, metadata_file])
def test_a_damaged_checkpoint_is_renamed_and_the_one_before_is_restored(
    tmp_path: Path, damage: Any, file: Any
) -> None:
    save(tmp_path, 1, 2, 3)
    damage(file(tmp_path, 3))
    before = sorted(path.name for path in (tmp_path / CHECKPOINTS / "3").rglob("*"))
    restored = restore(tmp_path)
    assert int(restored.state.step) == 2
    assert len(restored.damaged) == 1
    assert names(tmp_path) == ["1", "2", "3.damaged"]
    kept = tmp_path / CHECKPOINTS / "3.damaged"
    assert sorted(path.name for path in kept.rglob("*")) == before
    save(tmp_path, 3)  # the step is written again, beside the damaged one
    damage(file(tmp_path, 3))
    restore(tmp_path)
    assert names(tmp_path) == ["1", "2", "3.damaged", "3.damaged-2"]


def test_where_none_is_intact_nothing_is_renamed(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for step in (1, 2):
        cut(metadata_file(tmp_path, step))
    with pytest.raises(RunError) as caught:
        restore(tmp_path)
    assert caught.value.code == "no-intact-checkpoint"
    assert names(tmp_path) == ["1", "2"]


@pytest.mark.skipif(not UNREADABLE.exists(), reason="needs /proc")
def test_an_unreadable_metadata_file_is_an_io_error_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)
    read = Path.read_bytes
    target = metadata_file(tmp_path, 2)
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(UNREADABLE if path == target else path)
    )
    for function in (restore, newest_metadata, by_score):
        with pytest.raises(RunError) as caught:
            function(tmp_path)
        assert caught.value.code == "checkpoint-io"
    assert names(tmp_path) == ["1", "2"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM])
def test_an_io_error_in_tensorstore_is_no_damage(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorStore raises a ValueError for every error; this is its message."""

    def failing(*args: Any, **options: Any) -> None:
        raise ValueError(TENSORSTORE.format(text=os.strerror(number), number=number))

    save(tmp_path, 1, 2)
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", failing)
    with pytest.raises(RunError, match=os.strerror(number)) as caught:
        restore(tmp_path)
    assert caught.value.code == "checkpoint-io"
    assert names(tmp_path) == ["1", "2"]


def test_an_io_error_that_passes_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)
    errors = [ValueError(TENSORSTORE.format(text="Input/output error", number=errno.EIO))]
    read = ocp.PyTreeCheckpointHandler.restore

    def flaky(*args: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return read(*args, **options)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", flaky)
    assert int(restore(tmp_path).state.step) == 2


def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **options: Any) -> None:
        raise MemoryError

    save(tmp_path, 1, 2)
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", failing)
    with pytest.raises(MemoryError):
        restore(tmp_path)
    assert names(tmp_path) == ["1", "2"]


def test_nothing_is_renamed_unless_all_processes_find_the_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)
    cut(metadata_file(tmp_path, 2))
    intact_elsewhere = lambda own: np.concatenate([own, np.zeros_like(own)])  # noqa: E731
    monkeypatch.setattr(distributed, "all_gather", intact_elsewhere)
    with pytest.raises(RunError) as caught:
        restore(tmp_path)
    assert caught.value.code == "checkpoint-differs"
    assert names(tmp_path) == ["1", "2"]


def test_a_checkpoint_of_another_network_is_no_damage_where_settings_changed(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1)
    other = state_after(0)._replace(params={"decoder.other": jnp.zeros(1)})
    with pytest.raises(RunError) as caught:
        restore_latest(tmp_path, lambda phase: other, changed=True)
    assert caught.value.code == "checkpoint-misfit"


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    save(tmp_path, 1)
    monkeypatch.setattr(Path, "iterdir", failing)
    with pytest.raises(RunError) as caught:
        restore(tmp_path)
    assert caught.value.code == "checkpoint-io"


def test_a_file_that_orbax_could_not_look_up_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax asks `exists`, which takes any error for a missing file."""

    def failing(*args: Any, **options: Any) -> None:
        raise FileNotFoundError("Metadata file (named _METADATA) does not exist")

    save(tmp_path, 1, 2)
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "metadata", failing)
    with pytest.raises(RunError) as caught:
        restore(tmp_path)
    assert caught.value.code == "checkpoint-io"
    assert names(tmp_path) == ["1", "2"]
