"""The mean of the weights of runs that started from the same ones."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import toy_student
from refused import refused
from small_student import randomised

import jaxdistill as jd
from jaxdistill.checkpoint.best import best
from jaxdistill.checkpoint.interpolation import START
from jaxdistill.checkpoint.weight_mean import weight_mean
from jaxdistill.commands import average
from jaxdistill.models import weights
from jaxdistill.models.parameters import flat_variables
from jaxdistill.runtime.errors import ConfigError, NetworkError, OutputError, RunError, WeightsError


def bright_batches(count: int, side: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns batches of two images of noise, whose masks are the bright pixels."""
    images = np.random.default_rng(0).integers(0, 256, (count, 2, side, side, 3), np.uint8)
    return [(image, (image.mean(-1) > 128).astype(np.uint8)) for image in images]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs from the same weights, one from others, and one from random ones."""
    toy_student.register()
    folder = tmp_path_factory.mktemp("runs")
    batches = bright_batches(2, 32)
    toy = {"encoder": "toy-encoder", "frozen": ()}
    for seed in (0, 1):
        student = randomised(jd.models.create("toy-decoder", **toy), seed=seed)
        jd.models.save_weights(student, folder / f"{seed}.safetensors")
    found = []
    for number, (start, rate) in enumerate([("0", 1e-2), ("0", 3e-2), ("1", 1e-2), (None, 1e-2)]):
        file = start and folder / f"{start}.safetensors"
        student = jd.models.create("toy-decoder", weights=file, **toy)
        run = folder / f"run{number}"
        jd.Trainer(student, batches, validation=batches, run=run, learning_rate=rate).fit(epochs=1)
        found.append(run)
    return found


def test_every_variable_is_the_mean_of_the_runs(runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "mean.safetensors"
    average.main([str(file), str(runs[0]), str(runs[1]), str(runs[1])])
    one, two = (flat_variables(best(run).student) for run in runs[:2])
    found = flat_variables(jd.models.from_weights(file))
    assert found.keys() == one.keys()
    for name, value in found.items():
        expected = (np.float64(one[name]) + 2 * np.float64(two[name])) / 3
        np.testing.assert_array_equal(value, expected.astype(np.float32))
    assert any(np.any(one[name] != two[name]) for name in one)


def test_the_mean_is_exported_for_the_images_of_the_runs(runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "mean.safetensors"
    average.main([str(file), str(runs[0]), str(runs[1])])
    jd.export(file, tmp_path / "mean.onnx")
    card = json.loads((tmp_path / "mean.json").read_text())
    assert card["input"]["image_size"] == [32, 32]
    arrays, metadata = weights.load(file)
    weights.save(file, arrays, {**metadata, "image_size": "[32]"})
    with refused(WeightsError, "weights-metadata"):
        jd.export(file, tmp_path / "mean.onnx")


def test_runs_of_other_starts_are_refused(runs: list[Path], tmp_path: Path) -> None:
    same, _, other, random = runs
    with refused(RunError, "different-starts"):
        weight_mean([same, other])
    with refused(RunError, "no-start-weights", START):
        weight_mean([same, random])
    with refused(ConfigError, "too-few-members"):
        weight_mean([same])
    with refused(ConfigError, "mean-ending"):
        average.main([str(tmp_path / "a.safetensors"), str(same), str(same), "--size", "32", "32"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("side", "normalization"), [(32, "half"), (64, None)])
def test_runs_of_another_normalisation_or_image_size_are_refused(
    runs: list[Path], tmp_path: Path, side: int, normalization: Literal["half"] | None
) -> None:
    batches = bright_batches(1, side)
    student = jd.models.create(
        "toy-decoder",
        encoder="toy-encoder",
        weights=runs[0].parent / "0.safetensors",
        normalization=normalization,
        frozen=(),
    )
    jd.Trainer(student, batches, validation=batches, run=tmp_path / "run").fit(epochs=1)
    with refused(RunError, "different-starts"):
        weight_mean([runs[0], tmp_path / "run"])


def test_a_run_of_another_network_is_named_so(runs: list[Path], tmp_path: Path) -> None:
    batches = bright_batches(1, 32)
    student = jd.models.create("unet", encoder="toy-encoder", normalization="half", frozen=())
    jd.Trainer(student, batches, validation=batches, run=tmp_path / "run").fit(epochs=1)
    with refused(RunError, "different-starts", "student.decoder"):
        weight_mean([runs[0], tmp_path / "run"])


def test_only_an_earlier_mean_is_replaced(runs: list[Path], tmp_path: Path) -> None:
    start = runs[0].parent / "0.safetensors"
    before = start.read_bytes()
    with refused(OutputError, "output-exists"):
        average.main([str(start), str(runs[0]), str(runs[1])])
    assert start.read_bytes() == before
    for _ in range(2):
        average.main([str(tmp_path / "mean.safetensors"), str(runs[0]), str(runs[1])])


def test_files_and_folders_are_not_confused(runs: list[Path], tmp_path: Path) -> None:
    start = runs[0].parent / "0.safetensors"
    with refused(RunError, "not-a-run"):
        average.main([str(tmp_path / "mean.safetensors"), str(start), str(runs[0])])
    with refused(NetworkError, "not-a-member"):
        average.main([str(tmp_path / "mean.onnx"), str(runs[0]), str(runs[1])])
