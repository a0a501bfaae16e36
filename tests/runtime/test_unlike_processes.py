"""Processes that were started with different things: refused before the first step."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from process_runs import CHILD, arguments, cut, launch, make, train_alone

from jaxdistill import config
from jaxdistill.models import student, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, imagenet_encoder: Path) -> Path:
    return make(tmp_path_factory.mktemp("place"), imagenet_encoder)


@pytest.mark.parametrize("different", ["seed={}", "training.skip_nonfinite={}"])
def test_processes_that_were_given_different_things_are_refused(
    place: Path, tmp_path: Path, different: str
) -> None:
    complaint = "processes 1 have other settings, data or files than process 0"
    assert_refused(tmp_path, arguments(place, tmp_path / "run"), different, complaint)


def test_processes_that_would_start_from_different_weights_are_refused(
    place: Path, tmp_path: Path
) -> None:
    given = arguments(place, tmp_path / "run", "student.encoder_weights=null")
    settings = config.load(tiny_run.SPECIFIED, given[2:]).student
    for seed in (0, 1):
        arrays = {
            name: np.asarray(value)
            for part, built in (("encoder", 0), ("decoder", seed), ("head", seed))
            for name, value in student.flat_variables(student.build(settings, seed=built)).items()
            if student.param_group(name) == part
        }
        weights.save(tmp_path / f"{seed}.safetensors", arrays, {"encoder": settings.encoder})
    different = f"student.weights={tmp_path}/{{}}.safetensors"
    complaint = "processes 1 start from other weights than process 0"
    assert_refused(tmp_path, given, different, complaint)


def test_processes_that_see_different_checkpoints_are_refused(place: Path, tmp_path: Path) -> None:
    train_alone(place, tmp_path / "0", "checkpoints.every_steps=1")
    cut(tmp_path / "0", tmp_path / "1")
    given = arguments(place, tmp_path / "run", "--resume", "checkpoints.every_steps=1")
    assert_refused(tmp_path, given, f"run={tmp_path}/{{}}", "processes 1 see other checkpoints")


def assert_refused(folder: Path, given: Sequence[str], different: str, complaint: str) -> None:
    """Of two processes that are given different things, each says so and ends with code 2."""
    child = CHILD
    processes = launch(2, folder / "seen", [str(child)], given, each=[different])
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], printed
    for text in printed:
        assert complaint in text.splitlines()[-1]
