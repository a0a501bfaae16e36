"""Checkpoints are written before others go, and set aside only when they are proven damaged."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxdistill import config
from jaxdistill.checkpoint import folders, manager
from jaxdistill.checkpoint.folders import CHECKPOINTS
from jaxdistill.checkpoint.manager import Checkpoints
from jaxdistill.checkpoint.restore import Restored, by_score, newest_metadata, restore_latest
from jaxdistill.runtime import distributed, files
from jaxdistill.runtime.errors import RunError
from jaxdistill.types import TrainState

METADATA = {"progress": {"phase": 0}, "frozen": "ab12"}
UNREADABLE = Path("/proc/self/mem")  # a real file whose first byte cannot be read: EIO


def state_after(step: int) -> TrainState:
    params = {"decoder.kernel": jnp.full((3, 2), float(step))}
    opt_state = ({"mu": jnp.ones(2) * step}, jnp.asarray(step))
    stats = {"decoder.mean": jnp.zeros(4)}
    return jax.device_put(TrainState(jnp.asarray(step), params, stats, opt_state), jax.devices()[0])


def save(run: Path, *steps: int, keep: int = 9, scores: dict[int, float] | None = None) -> None:
    with Checkpoints(run, config.Checkpoints(keep=keep)) as checkpoints:
        for step in steps:
            checkpoints.save(state_after(step), METADATA, (scores or {}).get(step))


def restore(run: Path, **options: Any) -> Restored:
    restored = restore_latest(run, lambda phase: state_after(0), **options)
    assert restored is not None
    return restored


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / CHECKPOINTS).iterdir())


def arrays_file(run: Path, step: int) -> Path:
    """The largest data file of a checkpoint."""
    found = (run / CHECKPOINTS / str(step) / "state").glob("**/d/*")
    return max(found, key=lambda path: path.stat().st_size)


def metadata_file(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / str(step) / "metadata" / "metadata"


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_WAITS", (0.0,))


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


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


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


TENSORSTORE = (
    'UNKNOWN: Error opening "zarr" driver: Error reading from open file d/445d6a6a2f4b0413: Failed '
    "to read 220 bytes from file at offset 0: {text} [os_error_code='{number}'] "
    "[tensorstore_spec='...']"
)


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
