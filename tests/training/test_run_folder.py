"""Resuming: no training is lost, mixed, or started over silently."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import toy_student
from refused import refused

import jaxdistill as jd
from jaxdistill.checkpoint.best import best
from jaxdistill.models.parameters import flat_variables, param_group
from jaxdistill.reporting import writer
from jaxdistill.runtime.errors import RunError


@pytest.fixture(autouse=True)
def _registered() -> None:
    toy_student.register()


def train(run: Path, epochs: int, *, encoder: int = 0, resume: bool = True, **options: bool):
    """Trains a toy student, whose frozen encoder depends on a seed."""
    model = jd.models.create("toy-decoder", encoder="toy-encoder", seed=encoder)
    trainer = jd.Trainer(
        model,
        toy_student.batches(),
        validation=toy_student.batches(),
        losses={"bce": jd.losses.BCE(weight=1.0)},
        run=run,
        console=tiny_run.QUIET,
        learning_rate=1e-2,
        epochs=epochs,
    )
    return trainer.fit(resume=resume, **options)


def encoder_of(student) -> dict[str, bytes]:
    return {
        name: np.asarray(value).tobytes()
        for name, value in flat_variables(student).items()
        if param_group(name) == "encoder"
    }


def epochs_of(run: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy_student.register()
    run = tmp_path_factory.mktemp("finished") / "run"
    train(run, 2, resume=False)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run of two epochs."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(run: Path, damaged: bool) -> None:
    """Such as one whose folder of checkpoints is on a disk that is not mounted."""
    if damaged:
        (run / "metrics.jsonl").unlink()
        for folder in (run / "checkpoints").iterdir():
            folder.rename(folder.with_name(f"{folder.name}.damaged"))
    else:
        shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.glob("*.jsonl")}
    with refused(RunError, "checkpoints-gone", str(run)):
        train(run, 3)
    assert {path: path.read_bytes() for path in run.glob("*.jsonl")} == before


def test_a_run_without_any_step_is_started_over(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert train(tmp_path / "run", 1).progress.step == 2


def test_every_checkpoint_keeps_the_encoder_that_it_was_trained_with(run: Path) -> None:
    first = best(run)
    train(run, 3, encoder=1, accept_changes=True)
    second = best_of_newest(run)
    assert encoder_of(first.student) != encoder_of(second.student)
    assert len(list(run.glob("frozen-*.safetensors"))) == 2
    newest = max((run / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    shutil.rmtree(newest)
    again = best(run)
    assert encoder_of(again.student) == encoder_of(first.student)


def best_of_newest(run: Path):
    """The student of a copy that has the newest checkpoint alone."""
    copy = Path(shutil.copytree(run, run.with_name("newest")))
    for folder in sorted((copy / "checkpoints").iterdir(), key=lambda each: int(each.name))[:-1]:
        shutil.rmtree(folder)
    return best(copy)


def test_an_older_checkpoint_of_other_settings_is_not_taken_unasked(run: Path) -> None:
    """The newest fits the settings, but is damaged; the one before had another encoder."""
    train(run, 3, encoder=1, accept_changes=True)
    for data in (run / "checkpoints" / "6" / "state").glob("**/d/*"):
        data.write_bytes(data.read_bytes()[:-1])
    with refused(RunError, "changed-settings"):
        train(run, 4, encoder=1)
    trainer = train(run, 4, encoder=1, accept_changes=True)
    assert trainer.progress.epoch == 4


def test_a_metrics_line_that_was_not_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = writer._append_once

    def failing(path: Path, line: bytes) -> None:
        if path.name == "metrics.jsonl" and json.loads(line)["epoch"] < 3:
            raise OSError(28, "No space left on device", str(path))
        append(path, line)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_append_once", failing)
        train(run, 2, resume=False)
    assert not (run / "metrics.jsonl").exists()
    train(run, 3)
    assert epochs_of(run) == [1, 2, 3]


@pytest.mark.parametrize("resume", [False, True])
def test_an_unreadable_sample_ends_no_run_and_no_resumed_one(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, resume: bool
) -> None:
    run = tmp_path / "run"
    if resume:
        shutil.copytree(finished, run)
    grid = run / "samples" / "epoch_001.png"
    grid.unlink(missing_ok=True)
    grid.mkdir(parents=True)
    with caplog.at_level(logging.WARNING, logger="jaxdistill"):
        train(run, 4, resume=resume)
    assert epochs_of(run) == [1, 2, 3, 4]
    warnings = [each for each in caplog.records if "report" in each.getMessage()]
    # The page cannot show it; a run from the start cannot replace it either.
    assert len(warnings) == (1 if resume else 2)
    assert best(run).step > 0
