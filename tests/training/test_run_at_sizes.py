"""A run at several sizes, with a teacher and a detector of their own size."""

from pathlib import Path

import numpy as np
import pytest
import tiny_run
import toy_student
from toy_student import StopAfter
from whole_runs import numbers

from jaxdistill import config
from jaxdistill.data import loader
from jaxdistill.training import Trainer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy_student.register()
    place = tmp_path_factory.mktemp("place")
    tiny_run.make(place)
    return place


def trainer(place: Path, run: Path, *more: str) -> Trainer:
    own = [
        "student.encoder=toy-encoder",
        "student.decoder=toy-decoder",
        "student.decoder_channels=null",
        "features.0.tap=decoder.0",
        "features.0.resize=true",
        "detector.size=[64, 64]",
        "data.sizes=[32, 48, 64]",
        "data.copy_paste=0.5",
        "training.ema=0.9",
        "training.epochs=3",
        f"run={run}",
    ]
    settings = config.load(tiny_run.SPECIFIED, [*tiny_run.overrides(place), *own, *more])
    return Trainer.from_config(settings, tiny_run.QUIET)


def test_a_run_compiles_a_program_for_each_size_and_is_resumed_exactly(
    place: Path, tmp_path: Path
) -> None:
    whole = trainer(place, tmp_path / "whole").fit()
    assert whole.train_step._cache_size() == len({*_sizes(whole)}) > 1
    assert whole.eval_step._cache_size() == 1
    cut = trainer(place, tmp_path / "cut")
    cut.callbacks.append(StopAfter(2))
    cut.fit()
    resumed = trainer(place, tmp_path / "cut").fit(resume=True)
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")
    for part in ("params", "ema"):
        for path, value in getattr(whole.state, part).items():
            other = getattr(resumed.state, part)[path]
            np.testing.assert_array_equal(value, other, err_msg=path)


def _sizes(trainer: Trainer) -> list[tuple[int, int]]:
    settings = trainer.settings
    return [
        loader.size_of_step(settings.data, settings.seed, step)
        for step in range(trainer.progress.step)
    ]
