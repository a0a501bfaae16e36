"""Runs in several real processes equal a run in one process, also after failures."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_run
from process_runs import (
    CHILD,
    EPOCHS,
    IMAGES,
    STEPS,
    arguments,
    cut,
    launch,
    make,
    process_options,
    train,
    train_one,
)
from whole_runs import PATIENCE, end_on_a_full_disk, metrics

from jaxdistill.checkpoint.folders import newest_first
from jaxdistill.commands import cache_targets
from jaxdistill.reporting import writer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, imagenet_encoder: Path) -> Path:
    return make(tmp_path_factory.mktemp("folder"), imagenet_encoder)


def images_by_epoch(run: Path) -> list[list[int]]:
    """Returns the ids of the images that all processes read in each epoch, sorted."""
    files = (run.parent / f"{run.name}-seen").iterdir()
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [
        sorted(i for line in lines if line["step"] // STEPS == epoch for i in line["ids"])
        for epoch in range(EPOCHS)
    ]


def trained_values(run: Path) -> np.ndarray:
    """Returns parameters and BatchNorm statistics of the newest checkpoint."""
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    folder = (next(newest_first(run / "checkpoints")) / "state").absolute()
    blank = checkpointer.metadata(folder).item_metadata.tree
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), blank)
    tree = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=arguments))
    parts = [tree[part] for part in ("params", "batch_stats")]
    return np.concatenate([np.ravel(part[name]) for part in parts for name in sorted(part)])


def relative_difference(one: Path, other: Path) -> float:
    a, b = trained_values(one), trained_values(other)
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    train_one(folder, folder / "one", "checkpoints.every_steps=1")
    return folder / "one"


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    train(2, folder, folder / "two", "checkpoints.every_steps=1")
    return folder / "two"


@pytest.fixture(scope="module")
def four(folder: Path) -> Path:
    train(4, folder, folder / "four", "checkpoints.every_steps=1")
    return folder / "four"


@pytest.mark.parametrize("several", ["two", "four"])
def test_several_processes_train_to_the_values_of_one(
    request: pytest.FixtureRequest, one: Path, several: str
) -> None:
    run: Path = request.getfixturevalue(several)
    assert relative_difference(one, run) < 1e-5
    # mIoU counts pixels; one whose logit is near 0 may change its sign.
    for expected, found in zip(metrics(one), metrics(run), strict=True):
        for part in ("train", "validation"):
            for name, value in expected[part].items():
                assert found[part][name] == pytest.approx(value, rel=1e-3, abs=1e-3), (part, name)


@pytest.mark.parametrize("several", ["two", "four"])
def test_every_image_is_read_once_per_epoch_by_one_process(
    request: pytest.FixtureRequest, several: str
) -> None:
    epochs = images_by_epoch(request.getfixturevalue(several))
    assert epochs == [sorted(IMAGES)] * EPOCHS


def test_one_process_builds_the_data_set_and_the_other_opens_it(
    folder: Path, tmp_path: Path
) -> None:
    args = [*arguments(folder, tmp_path / "run"), f"data.prepared={tmp_path / 'prepared'}"]
    processes = launch(2, tmp_path / "seen", [str(CHILD)], [*args, "--dry-run"])
    printed = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert ["preparing data.train" in text for text in printed] == [True, False]


def test_feature_statistics_and_an_unfrozen_encoder_use_the_rows_of_all_processes(
    folder: Path, tmp_path: Path
) -> None:
    args = [
        "features.0.standardize=true",
        "student.unfreeze={from_epoch: 2, batch_norm: true}",
        "training.epochs=2",
        "checkpoints.every_steps=1",
    ]
    train_one(folder, tmp_path / "one", *args)
    train(2, folder, tmp_path / "two", *args)
    assert relative_difference(tmp_path / "one", tmp_path / "two") < 1e-5


def test_a_step_that_is_not_finite_is_skipped_by_all_and_listed_once(
    folder: Path, tmp_path: Path
) -> None:
    args = [
        f"teacher.onnx={tiny_run.timid_network(tmp_path / 'timid.onnx', folder)}",
        "data.augment=none",
        "losses.feature=0",
        "training.skip_nonfinite=9",
    ]
    train_one(folder, tmp_path / "one", *args)
    train(2, folder, tmp_path / "two", *args)
    one, two = ((tmp_path / run / writer.NONFINITE).read_text() for run in ("one", "two"))
    listed = [[json.loads(line) for line in text.splitlines()] for text in (one, two)]
    assert len(listed[0]) == EPOCHS  # the step with the darkest image, in every epoch
    for fault, other in zip(*listed, strict=True):
        assert (fault["step"], fault["term"]) == (other["step"], other["term"])
        assert fault["images"] == other["images"]
    assert relative_difference(tmp_path / "one", tmp_path / "two") < 1e-5


@pytest.mark.parametrize(
    ("before", "after"),
    [("one", 2), ("one", 4), ("two", 1), ("two", 4), ("four", 1), ("four", 2)],
)
def test_a_checkpoint_is_resumed_by_any_number_of_processes(
    request: pytest.FixtureRequest, folder: Path, tmp_path: Path, before: str, after: int
) -> None:
    whole: Path = request.getfixturevalue(before)
    run = cut(whole, tmp_path / "run")
    printed = train(after, folder, run, "--resume", "checkpoints.every_steps=1")
    assert "resuming after step 3, in epoch 2" in printed
    assert relative_difference(whole, run) < 1e-5
    assert [line["epoch"] for line in metrics(run)] == [1, 2, 3]
    rest_of_epoch, *others = images_by_epoch(run)[1:]
    assert len(rest_of_epoch) == 4  # the second half of the second epoch
    assert set(rest_of_epoch) < IMAGES
    assert others == [sorted(IMAGES)]


def test_after_a_killed_process_the_others_end_and_the_run_is_resumed(
    folder: Path, two: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(folder, run, "checkpoints.every_steps=1")
    first, other = launch(2, tmp_path / "seen", [str(CHILD)], args)
    deadline = time.monotonic() + 300
    while not (run / "checkpoints" / "3").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(other.pid, signal.SIGKILL)
    printed, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode not in (0, 2, 75), printed
    # In a collective operation the broken connection ends it with our line; in a barrier, or where
    # the heartbeat is missed first, JAX ends it with its own.
    assert re.search(r"\[other-process-failed\]|another task died", printed), printed
    other.wait()
    train(2, folder, run, "--resume", "checkpoints.every_steps=1")
    np.testing.assert_array_equal(trained_values(run), trained_values(two))


def test_after_a_full_disk_all_end_with_a_line_and_the_run_is_resumed(
    folder: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, run = tmp_path / "disk", tmp_path / "run"
    size = sum(path.stat().st_size for path in (two / "checkpoints" / "3").rglob("*"))
    args = arguments(folder, disk / "run", "checkpoints.every_steps=1")
    monkeypatch.setenv("SEEN", str(tmp_path))
    end_on_a_full_disk(
        disk,
        4 * size,
        run,
        '"$@" --process 1 & "$@" --process 0',
        [sys.executable, str(CHILD), *args, *process_options(2)],
    )
    train(2, folder, run, "--resume", "checkpoints.every_steps=1")
    np.testing.assert_array_equal(trained_values(run), trained_values(two))


def test_a_signal_to_one_process_stops_all_at_the_same_step(
    folder: Path, two: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(folder, run, "checkpoints.every_steps=1")
    first, other = launch(2, tmp_path / "seen", [str(CHILD)], args)
    while not (run / "checkpoints" / "1").exists() and first.poll() is None:
        time.sleep(0.01)
    other.send_signal(signal.SIGTERM)
    printed, _ = first.communicate()
    assert other.wait() == first.returncode == 75, printed
    [step] = re.findall(r"another process: stopped after step (\d)", printed)
    assert (run / "checkpoints" / step).exists()
    train(2, folder, run, "--resume", "checkpoints.every_steps=1")
    np.testing.assert_array_equal(trained_values(run), trained_values(two))


def test_a_target_cache_filled_by_four_processes_is_read_by_one_and_conversely(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = ["-m", "jaxdistill", "cache-targets"]
    args = [*arguments(folder, tmp_path / "none"), "data.augment=flip"]
    by_four, by_one = (f"targets.cache={tmp_path / name}" for name in ("four", "one"))
    processes = launch(4, tmp_path / "seen", program, [*args, by_four])
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, printed
    assert "16 to compute" in printed[0]
    cache_targets.main([*args, by_four])
    assert "21 images" not in capsys.readouterr().out
    cache_targets.main([*args, by_one])
    assert sorted(p.relative_to(tmp_path / "four") for p in (tmp_path / "four").rglob("*.s*")) == (
        sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.s*"))
    )
    processes = launch(2, tmp_path / "seen", program, [*args, by_one])
    printed = [process.communicate()[0] for process in processes]
    assert "train: 16 images, counting flipped ones; 0 to compute" in printed[0]
