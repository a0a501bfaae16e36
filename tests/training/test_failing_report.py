"""A report that cannot be written is a warning, and never the end of a run."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_run

from jaxdistill.checkpoint.best import best
from jaxdistill.commands.train import main

pytestmark = pytest.mark.slow
EPOCHS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    tiny_run.make(place)
    return place


def arguments(place: Path, run: Path, *more: str) -> list[str]:
    return [
        *("--config", str(tiny_run.SPECIFIED)),
        *tiny_run.overrides(place),
        "student.encoder=tf_efficientnet_lite0",
        f"training.epochs={EPOCHS}",
        f"run={run}",
        *more,
    ]


def unwritable(run: Path) -> None:
    (run / "samples").write_text("a file where a folder should be")


def unreadable(run: Path) -> None:
    """Leaves a grid that the page cannot show."""
    (run / "samples" / "epoch_001.png").mkdir(parents=True)


def without_curves(run: Path) -> None:
    (run / "tensorboard").write_text("a file where a folder should be")


@pytest.mark.parametrize("damage", [unwritable, unreadable, without_curves])
def test_a_failing_report_is_logged_once_and_the_run_goes_on(
    place: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    damage(run)
    with caplog.at_level(logging.WARNING, logger="jaxdistill"):
        main(arguments(place, run))
    assert best(run).step > 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    messages = [record.getMessage() for record in caplog.records]
    warnings = [message for message in messages if "report" in message]
    assert all(str(run) in warning for warning in warnings)
    # A grid that cannot be read cannot be replaced either: two failures, one warning each.
    assert len(warnings) == (2 if damage is unreadable else 1)


def test_a_run_resumes_with_a_report_that_cannot_be_continued(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    main(arguments(place, run, "training.epochs=1"))
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    with caplog.at_level(logging.WARNING, logger="jaxdistill"):
        main(arguments(place, run, "training.epochs=2", "--resume"))
    assert len(list((run / "checkpoints").iterdir())) == 2
    assert any("report" in record.getMessage() for record in caplog.records)
