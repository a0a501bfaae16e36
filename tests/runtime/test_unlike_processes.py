"""Processes that were started with different settings or files are refused before a step."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from process_runs import CHILD, arguments, cut, launch, make, train_one

from jaxdistill import config, models
from jaxdistill.models import param_group, weights
from jaxdistill.models.parameters import flat_variables

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, imagenet_encoder: Path) -> Path:
    return make(tmp_path_factory.mktemp("folder"), imagenet_encoder)


@pytest.mark.parametrize("different", ["seed={}", "training.skip_nonfinite={}"])
def test_processes_with_different_settings_are_refused(
    folder: Path, tmp_path: Path, different: str
) -> None:
    assert_refused(tmp_path, arguments(folder, tmp_path / "run"), different, "settings")


def test_processes_with_different_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    args = arguments(folder, tmp_path / "run", "student.encoder_weights=null")
    settings = config.load(tiny_run.SPECIFIED, args[2:]).student
    for seed in (0, 1):
        students = {"encoder": 0, "decoder": seed, "head": seed}
        arrays = {
            name: np.asarray(value)
            for group, own in students.items()
            for name, value in flat_variables(models.build(settings, seed=own)).items()
            if param_group(name) == group
        }
        weights.save(tmp_path / f"{seed}.safetensors", arrays, {"encoder": settings.encoder})
    different = f"student.weights={tmp_path}/{{}}.safetensors"
    assert_refused(tmp_path, args, different, "weights")


def test_processes_with_different_checkpoints_are_refused(folder: Path, tmp_path: Path) -> None:
    train_one(folder, tmp_path / "0", "checkpoints.every_steps=1")
    cut(tmp_path / "0", tmp_path / "1")
    args = arguments(folder, tmp_path / "run", "--resume", "checkpoints.every_steps=1")
    assert_refused(tmp_path, args, f"run={tmp_path}/{{}}", "checkpoints")


def assert_refused(folder: Path, args: Sequence[str], different: str, what: str) -> None:
    """Asserts that each of two processes names the difference and exits with code 2."""
    processes = launch(2, folder / "seen", [str(CHILD)], args, each=[different])
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], printed
    for text in printed:
        assert what in text.splitlines()[-1]
        assert text.splitlines()[-1].endswith("[processes-differ]")
