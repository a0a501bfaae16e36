"""The benchmark of inference measures equal students, or says in one line why it cannot."""

# ruff: noqa: E402

import json
from collections.abc import Callable
from pathlib import Path

import onnx_models
import pytest
import tiny_run

torch = pytest.importorskip("torch", reason="needs the torch extra")

import benchmark_inference

from jaxdistill import config
from jaxdistill.checkpoint.best import Best
from jaxdistill.models import student
from jaxdistill.runtime import errors

SIZE = (64, 96)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a teacher."""
    folder = tmp_path_factory.mktemp("networks")
    tiny_run.network(folder / "network.onnx")
    return folder


@pytest.fixture(scope="module")
def settings(place: Path) -> config.Config:
    changes = [*tiny_run.overrides(place), f"data.image_size={list(SIZE)}"]
    return config.load(tiny_run.SPECIFIED, changes)


@pytest.fixture(scope="module")
def best(settings: config.Config) -> Best:
    """Returns a student with random weights."""
    return Best(settings, student.build(settings.student, seed=1), 0, {})


@pytest.fixture
def inference(
    monkeypatch: pytest.MonkeyPatch, best: Best, tmp_path: Path
) -> Callable[..., tuple[int, dict]]:
    monkeypatch.setattr(benchmark_inference, "best_of", lambda run: best)

    def run(*arguments: object) -> tuple[int, dict]:
        output = tmp_path / "found.json"
        args = [str(each) for each in ("run", "--json", output, *arguments)]
        code = errors.command(lambda: benchmark_inference.main(args))
        return code, json.loads(output.read_text()) if output.exists() else {}

    return run


def test_inference_against_the_teacher_and_pytorch_s_export(
    inference: Callable, place: Path
) -> None:
    code, found = inference("--batch", 2, "--also", place / "network.onnx")
    assert code == 0
    names = {"student", "student, PyTorch's export", "teacher", "network.onnx"}
    assert set(found["seconds per image"]) == set(found["bytes"]) == names
    assert found["bytes"]["teacher"] == (place / "network.onnx").stat().st_size
    assert found["size"] == list(SIZE)
    assert min(found["seconds per image"].values()) > 0
    assert found["difference"] < 1e-4


def test_another_student_is_not_compared(
    inference: Callable,
    settings: config.Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    graph = benchmark_inference.student_graph
    other = student.build(settings.student, seed=2)
    monkeypatch.setattr(benchmark_inference, "student_graph", lambda _, form: graph(other, form))
    assert inference() == (2, {})
    assert capsys.readouterr().err.strip().endswith("[conversion-differs]")


def test_a_file_of_another_size_is_refused(
    inference: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = onnx_models.save(onnx_models.segmenter(1, 32, 32), tmp_path)
    assert inference("--teacher", path) == (2, {})
    [message] = capsys.readouterr().err.splitlines()
    assert message.endswith("[input-size]")
    assert "1 x 32 x 32 (batch x height x width), not 1 x 64 x 96" in message
