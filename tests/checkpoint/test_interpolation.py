"""Students between the start of a run and its best checkpoint."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import coco_folders
import numpy as np
import pytest
import toy_student
from refused import refused
from rich.console import Console
from small_student import randomised

import jaxdistill as jd
from jaxdistill import config
from jaxdistill.checkpoint.best import Best, best
from jaxdistill.checkpoint.interpolation import START, interpolated, save_start
from jaxdistill.commands.train import _print_interpolated
from jaxdistill.data import Data
from jaxdistill.models import weights
from jaxdistill.models.parameters import flat_variables
from jaxdistill.runtime.errors import ConfigError, RunError


class Tuned(NamedTuple):
    start: dict
    run: Path
    best: Best


@pytest.fixture(scope="module")
def batches() -> list:
    images = np.random.default_rng(0).integers(0, 256, (2, 2, 32, 32, 3), np.uint8)
    return [(image, (image.mean(-1) > 128).astype(np.uint8)) for image in images]


@pytest.fixture(scope="module")
def tuned(batches: list, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A run of one epoch that started from the weights of a whole student."""
    toy_student.register()
    folder = tmp_path_factory.mktemp("tuned")
    model = randomised(jd.models.create("toy-decoder", encoder="toy-encoder"))
    start = {name: np.asarray(value) for name, value in flat_variables(model).items()}
    weights.save(folder / "start.safetensors", start, {"encoder": "toy-encoder"})
    model = jd.models.create(
        "toy-decoder", encoder="toy-encoder", weights=folder / "start.safetensors", frozen=()
    )
    run = folder / "run"
    jd.Trainer(model, batches, validation=batches, run=run, learning_rate=1e-2).fit(epochs=1)
    (folder / "start.safetensors").unlink()
    return Tuned(start, run, best(run))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_variable_lies_between_start_and_end(tuned: Tuned, share: float) -> None:
    found = flat_variables(interpolated(tuned.best, share).student)
    end = flat_variables(tuned.best.student)
    assert found.keys() == tuned.start.keys()
    assert any(np.any(end[name] != tuned.start[name]) for name in end)
    for name, value in found.items():
        expected = (1 - share) * np.float64(tuned.start[name]) + share * np.float64(end[name])
        np.testing.assert_array_equal(value, expected.astype(np.float32))


def test_it_is_predicted_with_evaluated_and_exported(
    tuned: Tuned, batches: list, tmp_path: Path
) -> None:
    assert interpolated(tuned.best, None) is tuned.best
    image = batches[0][0][0]
    predictor = jd.load(tuned.run, interpolate=0.25, size=(32, 32))
    assert "0.25" in predictor.description
    assert jd.evaluate(predictor, batches).images == 4
    file = tmp_path / "student.onnx"
    jd.export(tuned.run, file, interpolate=0.25, size=(32, 32))
    logits = np.asarray(predictor.logits(image[None]))
    np.testing.assert_allclose(jd.load(file).logits(image[None]), logits, atol=1e-3)
    assert np.abs(jd.load(tuned.run, size=(32, 32)).logits(image[None]) - logits).max() > 1e-3
    assert json.loads(file.with_suffix(".json").read_text())["training"]["interpolated"] == 0.25
    with refused(ConfigError, "options-for-runs"):
        jd.load(file, interpolate=0.25)


def test_the_run_s_own_share_is_the_default(tuned: Tuned) -> None:
    training = tuned.best.settings.training.model_copy(update={"interpolate": 0.25})
    settings = tuned.best.settings.model_copy(update={"training": training})
    own = tuned.best._replace(settings=settings)
    by_default = interpolated(own, None)
    expected = flat_variables(interpolated(tuned.best, 0.25).student)
    for name, value in flat_variables(by_default.student).items():
        np.testing.assert_array_equal(value, expected[name])
    assert interpolated(by_default, None) is by_default  # and not once more
    end = flat_variables(tuned.best.student)
    for name, value in flat_variables(interpolated(own, 1.0).student).items():
        np.testing.assert_array_equal(value, end[name])


def test_a_share_needs_the_weights_of_a_whole_student() -> None:
    with refused(ConfigError, "interpolate-needs-weights"):
        config.load("masks", ["data.root=nowhere", "training.interpolate=0.5"])


def test_training_ends_with_the_score_of_the_student_that_is_exported(
    tuned: Tuned, tmp_path: Path, monkeypatch
) -> None:
    settings = tuned.best.settings
    data = config.Data(
        root=coco_folders.discs(tmp_path / "discs", 2, 3),
        prepared=tmp_path / "prepared",
        image_size=(32, 32),
    )
    training = settings.training.model_copy(update={"interpolate": 0.25})
    settings = settings.model_copy(update={"training": training, "data": data})
    console = Console(record=True, width=200)
    trainer = SimpleNamespace(run=tuned.run, settings=settings, teacher=None, console=console)
    opened = jd.load(tuned.run, interpolate=0.25)
    monkeypatch.setattr("jaxdistill.evaluation.load", lambda run: opened)
    _print_interpolated(trainer)
    expected = jd.evaluate(opened, Data(data)).network["miou"]
    assert f"mIoU {expected:.4f}" in console.export_text()

    def missing(run: Path) -> None:
        raise RunError("there is no such file", code="no-start-weights")

    monkeypatch.setattr("jaxdistill.evaluation.load", missing)
    _print_interpolated(trainer)  # the run is complete, and says what is wrong
    assert "training.interpolate:" in console.export_text()


def test_what_cannot_be_interpolated_is_refused(tuned: Tuned, tmp_path: Path) -> None:
    with refused(ConfigError, "invalid-argument", "1.5"):
        interpolated(tuned.best, 1.5)
    elsewhere = tuned.best.settings.model_copy(update={"run": tmp_path})
    with refused(RunError, "no-start-weights", START):
        interpolated(tuned.best._replace(settings=elsewhere), 0.5)
    moved = interpolated(tuned.best._replace(settings=elsewhere), 1)  # which needs no start
    assert moved.student is tuned.best.student
    with refused(ConfigError, "options-for-runs"):
        jd.export(tuned.best.student, tmp_path / "student.onnx", interpolate=0.5)


def test_only_a_start_from_whole_weights_is_kept(tmp_path: Path) -> None:
    toy_student.register()
    save_start(tmp_path, jd.models.create("toy-decoder", encoder="toy-encoder"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_resuming_keeps_the_start(tuned: Tuned, batches: list) -> None:
    content = (tuned.run / START).read_bytes()
    settings = best(tuned.run).settings.student
    model = jd.models.create("toy-decoder", encoder="toy-encoder", frozen=())
    model.settings = settings
    trainer = jd.Trainer(model, batches, validation=batches, run=tuned.run, learning_rate=1e-2)
    trainer.fit(epochs=2, resume=True)
    assert (tuned.run / START).read_bytes() == content
