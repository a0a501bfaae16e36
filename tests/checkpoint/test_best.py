"""A run folder is self-contained: moved, and without the student's weights file, it still works."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import tiny_run

from jaxdistill import config, models
from jaxdistill.checkpoint.best import best, newest_student, save_frozen
from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.commands import convert_weights, evaluate, export, predict, train
from jaxdistill.evaluation import load
from jaxdistill.models import Student, unfreezing, weights
from jaxdistill.models.parameters import flat_variables
from jaxdistill.runtime.errors import RunError, UserError, WeightsError


class Place(NamedTuple):
    """A folder with data, a teacher, a weights file and a finished run of one epoch."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def weights(self) -> Path:
        return self.folder / "encoder.safetensors"

    def arguments(self, *more: str) -> list[str]:
        return [
            *tiny_run.overrides(self.folder),
            "student.encoder=tf_efficientnet_lite0",
            f"student.encoder_weights={self.weights}",
            "student.normalization=null",  # that of the weights file
            "losses.feature=0",
            "training.epochs=1",
            *more,
        ]


def frozen_file(run: Path) -> Path:
    """The file of the variables that were frozen at the start."""
    [found] = run.glob("frozen-*.safetensors")
    return found


def write_weights(place: Place, seed: int = 99) -> None:
    """Writes random encoder weights, with a normalisation of their own."""
    settings = config.load(
        tiny_run.SPECIFIED, place.arguments("student.encoder_weights=null")
    ).student
    student = models.build(settings, seed=seed)
    arrays = {
        name: np.asarray(value)
        for name, value in flat_variables(student).items()
        if name.startswith("encoder.")
    }
    text = "[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]"
    weights.save(place.weights, arrays, {"encoder": settings.encoder, "normalization": text})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("finished"))
    tiny_run.make(place.folder)
    write_weights(place)
    given = place.arguments(f"run={place.run}")
    train.main(["--config", str(tiny_run.SPECIFIED), *given])
    return place


@pytest.fixture
def moved(finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run elsewhere; the weights file is gone while the test runs."""
    run = tmp_path / "elsewhere" / "moved"
    shutil.copytree(finished.run, run)
    away = finished.weights.with_suffix(".away")
    finished.weights.rename(away)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield run
    away.rename(finished.weights)


def values(student: Student) -> str:
    return fingerprint(flat_variables(student))


def test_the_best_student_of_a_moved_run_is_the_same(finished: Place, moved: Path) -> None:
    found = best(Path("..") / "elsewhere" / "moved")
    finished.weights.with_suffix(".away").rename(finished.weights)
    expected = best(finished.run)
    finished.weights.rename(finished.weights.with_suffix(".away"))
    assert values(found.student) == values(expected.student)
    assert found.student.normalization == expected.student.normalization
    assert found.student.normalization.mean == (0.1, 0.2, 0.3)
    assert found.step == expected.step == 2
    assert found.settings.run.resolve() == moved
    assert "validation" in found.metadata
    assert not list(Path.cwd().iterdir())


@pytest.mark.slow
def test_a_moved_run_is_resumed_where_it_is(finished: Place, moved: Path, tmp_path: Path) -> None:
    before = sorted(path for path in finished.run.rglob("*"))
    train.main(["--config", str(moved / "config.yaml"), "training.epochs=2", "--resume"])
    assert sorted(path for path in finished.run.rglob("*")) == before
    assert (moved / "checkpoints" / "4").exists()
    # The same as a run that was resumed in its place, with its weights file.
    stayed = tmp_path / "stayed"
    shutil.copytree(finished.run, stayed)
    finished.weights.with_suffix(".away").rename(finished.weights)
    given = finished.arguments(f"run={stayed}", "training.epochs=2")
    train.main(["--config", str(tiny_run.SPECIFIED), *given, "--resume"])
    finished.weights.rename(finished.weights.with_suffix(".away"))
    for run in (stayed, moved):
        keep_only(run, "4")
    assert values(best(stayed).student) == values(best(moved).student)


@pytest.mark.slow
def test_a_moved_run_is_evaluated_predicted_with_and_exported(
    finished: Place, moved: Path, tmp_path: Path
) -> None:
    evaluate.main([str(moved)])
    found = json.loads((moved / "evaluation" / "evaluation.json").read_text())
    recorded = best(moved).metadata["validation"]
    assert found["network"]["miou"] == pytest.approx(recorded["student_miou"], abs=1e-6)
    assert found["teacher"]["miou"] == pytest.approx(recorded["teacher_miou"], abs=1e-6)
    images = finished.folder / "coco" / "images" / "val2017"
    assert predict.main([str(moved), str(images), "--output", str(tmp_path / "masks")]) == 0
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 5
    export.main([str(moved), str(tmp_path / "student.onnx")])
    image = np.zeros((64, 64, 3), np.uint8)
    models_of_run = (moved, tmp_path / "student.onnx")
    one, other = (load(model).predict(image, soft=True) for model in models_of_run)
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert not list(Path.cwd().iterdir())


@pytest.mark.slow
def test_a_moved_run_is_converted_to_pytorch(moved: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    convert_weights.main(["to-smp", str(moved), str(tmp_path / "student.pth")])
    assert (tmp_path / "student.pth").stat().st_size > 0
    assert not list(Path.cwd().iterdir())


def keep_only(run: Path, step: str) -> None:
    for folder in (run / "checkpoints").iterdir():
        if folder.name != step:
            shutil.rmtree(folder)


def test_a_run_without_the_file_uses_its_weights_file(finished: Place, tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(finished.run, run)
    frozen_file(run).unlink()
    assert values(best(run).student) == values(best(finished.run).student)


def test_a_run_with_neither_file_names_the_weights_file(finished: Place, moved: Path) -> None:
    frozen_file(moved).unlink()
    with pytest.raises(UserError, match=finished.weights.name) as caught:
        best(moved)
    assert caught.value.code == "weights-missing"


def test_other_frozen_variables_are_refused(finished: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.run, run)
    arrays, metadata = weights.load(frozen_file(run))
    name = min(arrays)
    weights.save(frozen_file(run), {**arrays, name: arrays[name] + 1}, metadata)
    with pytest.raises(RunError) as caught:
        best(run)
    assert caught.value.code == "no-intact-checkpoint"


def test_a_damaged_file_of_frozen_variables_is_reported(finished: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.run, run)
    content = frozen_file(run).read_bytes()
    frozen_file(run).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError) as caught:
        best(run)
    assert caught.value.code == "weights-damaged"


def test_frozen_variables_are_written_once(finished: Place, tmp_path: Path) -> None:
    settings = config.load(finished.run / "config.yaml").student
    student = models.build(settings, seed=0)
    partition = unfreezing.partition_in_phase(student, settings, 0)
    save_frozen(tmp_path, partition, student)
    path = frozen_file(tmp_path)
    first = path.stat()
    assert weights.load(path)[1] == weights.load(frozen_file(finished.run))[1]
    save_frozen(tmp_path, partition, student)
    assert path.stat().st_mtime_ns == first.st_mtime_ns
    assert path.stat().st_ino == first.st_ino
    changed = jax.tree.map(lambda leaf: leaf + 1, partition.frozen)
    save_frozen(tmp_path, partition._replace(frozen=changed), student)
    both = {fingerprint(weights.load(each)[0]) for each in tmp_path.glob("frozen-*")}
    assert both == {fingerprint(partition.frozen), fingerprint(changed)}


def test_a_rebuilt_student_has_the_frozen_variables(finished: Place, moved: Path) -> None:
    settings = config.load(moved / "config.yaml")
    student = newest_student(moved, settings.student, settings.seed, settings.precision)
    arrays, metadata = weights.load(frozen_file(moved))
    own = flat_variables(student)
    assert all(np.array_equal(own[name], array) for name, array in arrays.items())
    assert metadata["fingerprint"] == fingerprint(arrays)
    assert student.settings == settings.student  # which names the file that the encoder came from


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(finished: Place, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        best(tmp_path)
    assert caught.value.code == "not-a-run"
    shutil.copy(finished.run / "config.yaml", tmp_path)
    with pytest.raises(RunError) as caught:
        best(tmp_path)
    assert caught.value.code == "no-checkpoint"
