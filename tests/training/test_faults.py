"""Real faults: whatever happens to a run, going on with it gives the run that nothing happened to.

Compared are the bytes of parameters, statistics and optimizer moments, and every number of
`metrics.jsonl` but those that tell the time.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coco_folders
import numpy as np
import pytest
import tiny_run
from whole_runs import (
    EPOCHS,
    PATIENCE,
    Runs,
    end_on_a_full_disk,
    metrics,
    read,
    wait_for_epoch,
    wait_for_line,
)

from jaxdistill.checkpoint import restore
from jaxdistill.commands import train
from jaxdistill.data import splits
from jaxdistill.reporting import writer
from jaxdistill.runtime import lock, signals
from jaxdistill.training import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("faults")
    tiny_run.make(place)
    return place


@pytest.fixture(scope="module")
def runs(place: Path) -> Runs:
    return Runs(place)


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.campaign)])
def test_a_killed_run_equals_the_undisturbed_one(runs: Runs, tmp_path: Path, kills: int) -> None:
    """Half of the kills fall anywhere in a process' life, half into its steps and checkpoints."""
    moments, run = random.Random(0), tmp_path / "run"
    killed = survived = 0
    while killed < kills:
        process = runs.start(run, "--resume")
        if killed % 2:
            time.sleep(moments.uniform(0, 6))
        else:
            wait_for_line(process, "in epoch", "nothing to resume")
            time.sleep(moments.uniform(0, 1.0))
        if process.poll() is not None:
            assert process.returncode == 0, process.stdout.read()
            survived += 1
            assert survived == 1, "the run was over before it was killed often enough"
            shutil.rmtree(run)  # and once more from the start
            continue
        process.kill()
        process.wait()
        killed += 1
    runs.finish(run)
    runs.assert_equals_undisturbed(run)
    assert not list((run / "checkpoints").glob("*tmp*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_after_its_step_with_a_checkpoint(
    runs: Runs, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = runs.start(run, "checkpoints.every_steps=null")
    wait_for_epoch(run, 2)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == signals.EXIT_CODE, printed
    assert f"{number.name}: stopped after step" in printed
    assert "Traceback" not in printed
    runs.finish(run)
    runs.assert_equals_undisturbed(run)


def test_a_second_signal_ends_the_process_at_once(runs: Runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = runs.start(run)
    wait_for_epoch(run, 2)
    for _ in range(200):  # the first is noted between two bytecodes; then the next one ends it
        process.send_signal(signal.SIGINT)
        if process.poll() is not None:
            break
        time.sleep(0.01)
    assert process.wait(timeout=PATIENCE) in (-signal.SIGINT, signals.EXIT_CODE)
    runs.finish(run)
    runs.assert_equals_undisturbed(run)


def test_a_signal_in_the_validation_keeps_the_last_step_of_the_epoch(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is done again, learning is not."""

    validate = Trainer.validate

    def interrupted(trainer: Trainer) -> Any:
        if trainer.progress.epoch == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(trainer)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", interrupted)
        assert train.main(runs.arguments(run)) == signals.EXIT_CODE
    progress = restore.newest_metadata(run)["progress"]
    assert (progress["epoch"], progress["step"], progress["counted"]) == (3, 8, 2)
    runs.finish(run)
    runs.assert_equals_undisturbed(run)


def test_a_full_disk_ends_the_run_and_its_checkpoints_go_on(runs: Runs, tmp_path: Path) -> None:
    disk, run = tmp_path / "disk", tmp_path / "run"
    kept = _bytes(runs.undisturbed / "checkpoints")
    size = _bytes(runs.undisturbed) + 2 * kept
    command = runs.command(disk / "run", "checkpoints.keep=1000")
    end_on_a_full_disk(disk, size, run, '"$@"', command)
    assert 0 < len(metrics(run)) < EPOCHS
    runs.finish(run)
    runs.assert_equals_undisturbed(run)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink])
@pytest.mark.parametrize("what", ["state/**/d/*", "state/manifest.ocdbt", "metadata/metadata"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    runs: Runs, tmp_path: Path, what: str, damage: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    _halfway_copy(runs, run)
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    damage(max(newest.glob(what), key=lambda path: path.stat().st_size))
    printed = runs.finish(run)
    assert f"damaged and set aside, and the checkpoint before is used: {newest}" in printed
    assert newest.with_name(f"{newest.name}.damaged").is_dir()
    runs.assert_equals_undisturbed(run)


def test_where_every_checkpoint_is_damaged_nothing_is_renamed(runs: Runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    _halfway_copy(runs, run)
    for record in run.glob("checkpoints/*/metadata/metadata"):
        _cut(record)
    before = sorted(run.glob("checkpoints/*"))
    assert runs.refused(run).code == "no-intact-checkpoint"
    assert sorted(run.glob("checkpoints/*")) == before


def test_a_damaged_entry_of_the_cache_is_computed_again(place: Path, tmp_path: Path) -> None:
    runs = Runs(place, f"targets.cache={place}/store", "data.augment=flip")
    run = tmp_path / "run"
    runs.halfway(run)
    entries = sorted((place / "store").glob("*/*/*.safetensors"))
    for entry, damage in zip(entries, [_flip, _cut, Path.unlink] * len(entries), strict=False):
        damage(entry)
    assert "damaged, set aside and computed again" in runs.finish(run)
    runs.assert_equals_undisturbed(run)


def test_two_runs_share_a_cache_while_they_fill_it(place: Path, tmp_path: Path) -> None:
    runs = Runs(place, f"targets.cache={tmp_path}/store", "data.augment=flip")
    shutil.rmtree(tmp_path / "store")
    both = [runs.start(tmp_path / name) for name in ("one", "two")]
    for process in both:
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, printed
    for name in ("one", "two"):
        runs.assert_equals_undisturbed(tmp_path / name)


def test_a_truncated_prepared_data_set_is_named_and_built_again(runs: Runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    _halfway_copy(runs, run)
    settings = tiny_run.load(runs.place)
    [folder] = map(Path, splits.open_split(settings.data, "train").folders)
    [file] = folder.glob("*.array_record*")
    _cut(file)
    assert runs.refused(run).code == "prepared-data-damaged"
    shutil.rmtree(folder)
    runs.finish(run)
    runs.assert_equals_undisturbed(run)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("training.learning_rate=1e-3", "training.learning_rate was 0.01 and is 0.001"),
        ("losses.temperature.final=2", "losses.temperature.final was 1.0 and is 2.0"),
        ("student.decoder_channels=[8, 8, 8, 4, 4]", "student.decoder_channels was [16, 8"),
        ("teacher.onnx={other}", "teacher.onnx had the fingerprint"),
        ("data.root={data}", "data.train had the fingerprint"),
    ],
)
def test_changed_settings_and_files_are_named_and_refused(
    runs: Runs, tmp_path: Path, change: str, named: str
) -> None:
    run = tmp_path / "run"
    _halfway_copy(runs, run)
    other = tiny_run.network(tmp_path / "other.onnx", bias=-4.0)
    data = coco_folders.discs(tmp_path / "coco", train=9)
    before = (run / "config.yaml").read_text()
    error = runs.refused(run, change.format(other=other, data=data))
    assert error.code == "changed-settings"
    assert named in str(error)
    assert (run / "config.yaml").read_text() == before


def test_changes_are_accepted_on_request_and_harmless_ones_always(
    runs: Runs, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    _halfway_copy(runs, run)
    wanted = len(metrics(run)) + 2
    harmless = [f"training.epochs={wanted}", "data.workers=1", "checkpoints.keep=3"]
    runs.finish(run, *harmless)
    assert len(metrics(run)) == wanted
    runs.finish(run, f"training.epochs={wanted + 1}", "losses.dice=2", "--accept-changes")
    assert len(metrics(run)) == wanted + 1


def test_a_run_in_use_is_refused_and_a_dead_one_s_lock_is_taken_over(
    runs: Runs, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = runs.start(run, "training.epochs=100000")
    wait_for_epoch(run, 1)
    assert runs.refused(run).code == "run-locked"
    first.kill()
    first.wait()
    assert json.loads((run / lock.OWNER_FILE).read_text())["pid"] == first.pid  # the dead one's
    runs.finish(run, f"training.epochs={len(metrics(run)) + 1}")


def test_nonfinite_steps_are_skipped_counted_and_listed(place: Path, tmp_path: Path) -> None:
    network = tiny_run.timid_network(tmp_path / "timid.onnx", place)
    timid = [
        f"teacher.onnx={network}",
        "data.augment=none",
        "losses.feature=0",
        "training.skip_nonfinite=1000",
        "training.epochs=4",
    ]
    runs = Runs(place, *timid)
    faults = [json.loads(line) for line in read(runs.undisturbed / writer.NONFINITE)]
    assert 1 <= len(faults) <= 4
    assert metrics(runs.undisturbed)[-1]["skipped_steps"] == len(faults)
    assert all(fault["term"] == "kl" and len(fault["images"]) == 4 for fault in faults)
    process = runs.start(tmp_path / "strict", "training.skip_nonfinite=0")
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert f"step {faults[0]['step']}: kl is nan" in printed
    assert len(read(tmp_path / "strict" / writer.NONFINITE)) == 1


@pytest.mark.parametrize("epochs", [30, pytest.param(60, marks=pytest.mark.campaign)])
def test_many_steps_leave_memory_descriptors_and_threads_as_they_were(
    runs: Runs, tmp_path: Path, epochs: int
) -> None:
    run, data = tmp_path / "run", coco_folders.discs(tmp_path / "coco", train=80)
    often = ["checkpoints.every_steps=25", f"data.root={data}"]
    process = runs.start(run, f"training.epochs={epochs}", *often)
    seen: list[tuple[int, int, int, int, float]] = []
    while process.poll() is None:
        done = len(read(run / writer.METRICS))
        if done > 10 and (not seen or done >= seen[-1][0] + 5):
            seen.append((done, *_resources(process.pid)))
        time.sleep(0.05)
    assert process.returncode == 0, process.stdout.read()
    lines = metrics(run)
    assert len(lines) == epochs
    done, files, threads, memory, seconds = np.transpose(seen)
    assert files[-1] <= files[0] + 4, seen
    # A checkpoint that is being written has threads of its own. One that stayed from each of the
    # fifteen epochs between the looks would be seen.
    assert threads[-1] <= threads[0] + 8, seen
    assert memory[-1] <= memory[0] * 1.05 + 5e6, seen
    # Of the processor, not of the clock: what else runs on the machine does not count.
    per_epoch = np.diff(seconds) / np.diff(done)
    assert np.median(per_epoch[-4:]) < 1.5 * np.median(per_epoch[:4]), seen


def _halfway_copy(runs: Runs, run: Path) -> None:
    """A run stopped in the middle; trained once, and copied from then on."""
    kept = runs.place / "halfway"
    if not kept.exists():
        runs.halfway(kept)
    shutil.copytree(kept, run)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _resources(pid: int) -> tuple[int, int, int, float]:
    """Open files, threads, bytes of memory, and seconds of processor time of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    words = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    memory = 1024 * int(words["VmRSS"].split()[0])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(words["Threads"]), memory, seconds
