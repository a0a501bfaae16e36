"""Early stopping: where a run ends, and that a resumed one ends there too."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_student
from refused import refused
from rich.console import Console

import jaxdistill as jd
from jaxdistill import config
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.training.callbacks import EarlyStopping
from jaxdistill.training.progress import Progress

SIZE = 16


@pytest.fixture(autouse=True)
def _registered() -> None:
    toy_student.register()


def batches() -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    masks = draw.integers(0, 2, (2, 2, SIZE, SIZE, 1)).astype(np.float32)
    images = draw.uniform(size=(2, 2, SIZE, SIZE, 3)).astype(np.float32)
    return [{"images": image, "masks": mask} for image, mask in zip(images, masks, strict=True)]


def train(run: Path, patience: int = 2, epochs: int = 6, **options: Any) -> tuple[Any, str]:
    """Trains so slowly that no epoch is better than the first."""
    printed = io.StringIO()
    trainer = jd.Trainer(
        jd.models.create("toy-decoder", encoder="toy-encoder"),
        batches(),
        validation=batches(),
        losses={"bce": jd.losses.BCE(weight=1.0)},
        run=run,
        console=Console(file=printed, width=10_000),
        learning_rate=1e-20,
        final_learning_rate=0.0,
        weight_decay=0.0,
        epochs=epochs,
        early_stopping={"patience": patience},
    )
    trainer.fit(resume=True, **options)
    return trainer, printed.getvalue()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, str]:
    toy_student.register()
    run = tmp_path_factory.mktemp("ended") / "run"
    return run, *train(run)


def epochs_of(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text().splitlines())


def test_a_run_ends_when_its_patience_does_and_is_complete(ended) -> None:
    run, trainer, printed = ended
    assert trainer.progress.epoch == epochs_of(run) == 3
    assert trainer.finished
    assert not trainer.stop_requested
    assert "early stopping after epoch 3" in printed
    assert "epoch 1, whose score is" in printed
    assert trainer.best().metadata["score"] == trainer.progress.best_score
    assert "ended early" in (run / "report.html").read_text()


def test_a_run_that_ended_early_does_not_train_on(ended, tmp_path: Path) -> None:
    run = Path(shutil.copytree(ended[0], tmp_path / "run"))
    before = (run / "metrics.jsonl").read_bytes()
    trainer, printed = train(run)
    assert trainer.progress.epoch == 3
    assert "early stopping after epoch 3" in printed
    assert "ended already" in printed
    assert (run / "metrics.jsonl").read_bytes() == before
    more, _ = train(run, patience=4)  # no change of settings that would have to be accepted
    assert more.progress.epoch == epochs_of(run) == 5
    finished, _ = train(run, patience=9)
    assert finished.progress.epoch == epochs_of(run) == 6
    assert "ended early" not in (run / "report.html").read_text()


def test_a_run_that_was_cut_off_ends_where_the_uninterrupted_one_does(ended, tmp_path: Path):
    run = Path(shutil.copytree(ended[0], tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "6")
    trainer, _ = train(run)
    assert trainer.progress.epoch == epochs_of(run) == 3


def test_without_validation_data_there_is_nothing_to_stop_by(tmp_path: Path) -> None:
    with refused(ConfigError, "validation-needed"):
        jd.Trainer(
            jd.models.create("toy-decoder", encoder="toy-encoder"),
            batches(),
            losses={"bce": jd.losses.BCE(weight=1.0)},
            run=tmp_path / "run",
            early_stopping={"patience": 1},
        )


class Watched:
    """What the callback sees of a trainer."""

    def __init__(self, **settings: Any) -> None:
        stopping = config.EarlyStopping(**settings)
        self.settings = config.Config.model_construct(
            training=config.Training(early_stopping=stopping)
        )
        self.progress, self.margin, self.reason = Progress(), stopping.min_improvement, ""

    def finish(self, reason: str) -> None:
        self.reason = reason

    def epochs_until_end(self, scores: list[float]) -> int:
        for score in scores:
            self.progress.next_epoch(score, self.margin)
            EarlyStopping().on_epoch_end(self, {})  # type: ignore[arg-type]
            if self.reason:
                break
        return self.progress.epoch


@pytest.mark.parametrize(
    ("settings", "scores", "epochs"),
    [
        ({"patience": 1}, [0.1, 0.2, 0.2, 0.9], 3),
        ({"patience": 2}, [0.1, 0.0, 0.2, 0.1, 0.1, 0.9], 5),
        ({"patience": 2}, [0.1, 0.0, 0.2, 0.1, 0.3], 5),
        ({"patience": 2, "min_improvement": 0.05}, [0.5, 0.52, 0.54, 0.9], 3),
        ({"patience": 2, "min_improvement": 0.05}, [0.5, 0.52, 0.56, 0.57, 0.58, 0.9], 5),
        ({"patience": 1, "from_epoch": 4}, [0.5, 0.4, 0.4, 0.4, 0.9], 4),
        ({"patience": 1}, [float("nan"), 0.1, float("nan"), 0.9], 3),
    ],
)
def test_patience_counts_the_epochs_since_the_last_better_one(settings, scores, epochs) -> None:
    assert Watched(**settings).epochs_until_end(scores) == epochs
