"""One run in several real processes on this machine: equal to a run in one, whatever happens."""

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
    HEARTBEAT_TIMEOUT,
    PICTURES,
    STEPS,
    arguments,
    cut,
    joining,
    launch,
    make,
    train,
    train_alone,
)
from whole_runs import end_on_a_full_disk, metrics

from jaxdistill.checkpoint.integrity import newest_first
from jaxdistill.commands import cache_targets
from jaxdistill.reporting import writer
from jaxdistill.runtime.distributed import from_other_process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, imagenet_encoder: Path) -> Path:
    return make(tmp_path_factory.mktemp("place"), imagenet_encoder)


def seen(run: Path) -> list[list[int]]:
    """The pictures of each epoch, over all processes."""
    files = (run.parent / f"{run.name}-seen").iterdir()
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [
        sorted(i for line in lines if line["step"] // STEPS == epoch for i in line["ids"])
        for epoch in range(EPOCHS)
    ]


def learnt(run: Path) -> np.ndarray:
    """Parameters and statistics after the last step."""
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    folder = (next(newest_first(run / "checkpoints")) / "state").absolute()
    blank = checkpointer.metadata(folder).item_metadata.tree
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), blank)
    tree = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=arguments))
    parts = [tree[part] for part in ("params", "batch_stats")]
    return np.concatenate([np.ravel(part[name]) for part in parts for name in sorted(part)])


def apart(one: Path, other: Path) -> float:
    a, b = learnt(one), learnt(other)
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    train_alone(place, place / "alone", "checkpoints.every_steps=1")
    return place / "alone"


@pytest.fixture(scope="module")
def two(place: Path) -> Path:
    train(2, place, place / "two", "checkpoints.every_steps=1")
    return place / "two"


@pytest.fixture(scope="module")
def four(place: Path) -> Path:
    train(4, place, place / "four", "checkpoints.every_steps=1")
    return place / "four"


@pytest.mark.parametrize("several", ["two", "four"])
def test_several_processes_learn_what_one_learns(
    request: pytest.FixtureRequest, alone: Path, several: str
) -> None:
    run: Path = request.getfixturevalue(several)
    assert apart(alone, run) < 1e-5
    # mIoU counts pixels, and one whose logit lies at 0 may fall on either side.
    for one, other in zip(metrics(alone), metrics(run), strict=True):
        for part in ("train", "validation"):
            for name, value in one[part].items():
                assert other[part][name] == pytest.approx(value, rel=1e-3, abs=1e-3), (part, name)


@pytest.mark.parametrize("several", ["two", "four"])
def test_every_picture_is_seen_once_in_an_epoch_by_some_process(
    request: pytest.FixtureRequest, several: str
) -> None:
    epochs = seen(request.getfixturevalue(several))
    assert epochs == [sorted(PICTURES)] * EPOCHS


def test_statistics_of_features_and_a_freed_encoder_are_those_of_all_processes(
    place: Path, tmp_path: Path
) -> None:
    given = [
        "features.0.standardize=true",
        "student.unfreeze={from_epoch: 2, batch_norm: true}",
        "training.epochs=2",
        "checkpoints.every_steps=1",
    ]
    train_alone(place, tmp_path / "alone", *given)
    train(2, place, tmp_path / "two", *given)
    assert apart(tmp_path / "alone", tmp_path / "two") < 1e-5


def test_what_is_not_finite_is_skipped_by_all_and_listed_once(place: Path, tmp_path: Path) -> None:
    given = [
        f"teacher.onnx={tiny_run.timid_network(tmp_path / 'timid.onnx', place)}",
        "data.augment=none",
        "losses.feature=0",
        "training.skip_nonfinite=9",
    ]
    train_alone(place, tmp_path / "alone", *given)
    train(2, place, tmp_path / "two", *given)
    one, two = ((tmp_path / run / writer.NONFINITE).read_text() for run in ("alone", "two"))
    listed = [[json.loads(line) for line in text.splitlines()] for text in (one, two)]
    assert len(listed[0]) == EPOCHS  # the darkest picture's step, in every epoch
    for fault, other in zip(*listed, strict=True):
        assert (fault["step"], fault["term"]) == (other["step"], other["term"])
        assert fault["pictures"] == other["pictures"]
    assert apart(tmp_path / "alone", tmp_path / "two") < 1e-5


@pytest.mark.parametrize(
    ("before", "after"),
    [("alone", 2), ("alone", 4), ("two", 1), ("two", 4), ("four", 1), ("four", 2)],
)
def test_a_checkpoint_is_any_number_of_processes(
    request: pytest.FixtureRequest, place: Path, tmp_path: Path, before: str, after: int
) -> None:
    whole: Path = request.getfixturevalue(before)
    run = cut(whole, tmp_path / "run")
    printed = train(after, place, run, "--resume", "checkpoints.every_steps=1")
    assert "resuming after step 3, in epoch 2" in printed
    assert apart(whole, run) < 1e-5
    assert [line["epoch"] for line in metrics(run)] == [1, 2, 3]
    begun, *rest = seen(run)[1:]
    assert len(begun) == 4  # the second epoch's other half
    assert set(begun) < PICTURES
    assert rest == [sorted(PICTURES)]


def test_when_a_process_is_killed_the_others_end_and_the_run_goes_on(
    place: Path, two: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    child = CHILD
    given = arguments(place, run, "checkpoints.every_steps=1")
    first, other = launch(2, tmp_path / "seen", [str(child)], given)
    patience = time.monotonic() + 300
    while not (run / "checkpoints" / "3").exists() and time.monotonic() < patience:
        time.sleep(0.01)
    os.kill(other.pid, signal.SIGKILL)
    began = time.monotonic()
    printed, _ = first.communicate(timeout=10 * HEARTBEAT_TIMEOUT)
    assert time.monotonic() - began < 2 * HEARTBEAT_TIMEOUT
    assert first.returncode not in (0, 2, 75), printed
    assert printed.splitlines()[-1].startswith("error: process 0")
    assert printed.splitlines()[-1].endswith("[other-process-failed]")
    other.wait()
    train(2, place, run, "--resume", "checkpoints.every_steps=1")
    np.testing.assert_array_equal(learnt(run), learnt(two))


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (jax.errors.JaxRuntimeError("INTERNAL: whatever a step ends with"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (ValueError("INTERNAL: NCCL operation ncclAllReduce(...) failed"), True),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), False),
        (OSError("Gloo"), False),
    ],
)
def test_what_another_s_end_looks_like(
    error: Exception, so: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert from_other_process(error) is so
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert not from_other_process(error)


def test_a_full_disk_ends_all_with_a_line_and_the_run_goes_on(
    place: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, run = tmp_path / "disk", tmp_path / "run"
    size = sum(path.stat().st_size for path in (two / "checkpoints" / "3").rglob("*"))
    child = CHILD
    given = arguments(place, disk / "run", "checkpoints.every_steps=1")
    monkeypatch.setenv("SEEN", str(tmp_path))
    end_on_a_full_disk(
        disk,
        4 * size,
        run,
        '"$@" --process 1 & "$@" --process 0',
        [sys.executable, str(child), *given, *joining(2)],
    )
    train(2, place, run, "--resume", "checkpoints.every_steps=1")
    np.testing.assert_array_equal(learnt(run), learnt(two))


def test_a_signal_to_one_stops_all_at_the_same_step(place: Path, two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = CHILD
    given = arguments(place, run, "checkpoints.every_steps=1")
    first, other = launch(2, tmp_path / "seen", [str(child)], given)
    while not (run / "checkpoints" / "1").exists() and first.poll() is None:
        time.sleep(0.01)
    other.send_signal(signal.SIGTERM)
    printed, _ = first.communicate()
    assert other.wait() == first.returncode == 75, printed
    [step] = re.findall(r"another process: stopped after step (\d)", printed)
    assert (run / "checkpoints" / step).exists()
    train(2, place, run, "--resume", "checkpoints.every_steps=1")
    np.testing.assert_array_equal(learnt(run), learnt(two))


def test_a_store_filled_by_four_is_read_by_one_and_the_reverse(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = ["-m", "jaxdistill", "cache-targets"]
    given = [*arguments(place, tmp_path / "none"), "data.augment=flip"]
    by_four, by_one = (f"targets.cache={tmp_path / name}" for name in ("four", "one"))
    processes = launch(4, tmp_path / "seen", program, [*given, by_four])
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, printed
    assert "16 to compute" in printed[0]
    cache_targets.main([*given, by_four])
    assert "21 pictures" not in capsys.readouterr().out
    cache_targets.main([*given, by_one])
    assert sorted(p.relative_to(tmp_path / "four") for p in (tmp_path / "four").rglob("*.s*")) == (
        sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.s*"))
    )
    processes = launch(2, tmp_path / "seen", program, [*given, by_one])
    printed = [process.communicate()[0] for process in processes]
    assert "train: 16 pictures, counting flipped ones; 0 to compute" in printed[0]
