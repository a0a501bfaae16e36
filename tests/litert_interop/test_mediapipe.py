"""MediaPipe's files become students; damaged and other files are refused in one line."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="needs the litert extra")

from ai_edge_litert import schema_py_generated as schema
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import refused

from jaxdistill import models
from jaxdistill.commands.convert_weights import main
from jaxdistill.data import image_ops
from jaxdistill.litert_interop import mediapipe, reference, tflite_file
from jaxdistill.models import weights
from jaxdistill.models.student import from_weights
from jaxdistill.runtime.errors import UserError, WeightsError, command


@pytest.fixture(scope="session")
def selfie(shared: Callable[..., Path]) -> Path:
    return shared("models", "selfie_segmentation.tflite")


@pytest.fixture(scope="module")
def student_file(selfie: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "selfie.safetensors"
    assert command(lambda: main(["from-mediapipe", str(selfie), str(path)])) == 0
    return path


def test_a_file_becomes_the_student_that_computes_the_same(
    selfie: Path, student_file: Path
) -> None:
    student = models.create(
        "mediapipe-selfie", encoder="mediapipe-selfie", weights=student_file, frozen=()
    )
    assert student.normalization == image_ops.resolve("unit")
    images = mediapipe._images((256, 256))[2:]  # drawn persons
    expected = reference.outputs(tflite_file.read(selfie).content, images, "selfie")
    assert 0.02 < (expected > 0).mean() < 0.98  # so both classes are compared
    logits = np.asarray(nnx.jit(lambda m, x: m(x, train=False).logits)(student, images))
    assert np.abs(logits - expected).max() < mediapipe.TOLERANCE * np.abs(expected).max()
    assert weights.load(student_file)[1]["source"] == selfie.name


def test_the_weights_file_says_what_it_is(student_file: Path, tmp_path: Path) -> None:
    student = from_weights(student_file)
    assert student.settings.decoder == mediapipe.NAME
    arrays, metadata = weights.load(student_file)
    metadata.pop("decoder")
    weights.save(tmp_path / "a.safetensors", arrays, metadata)
    with refused(WeightsError, "weights-metadata", "a.safetensors"):
        from_weights(tmp_path / "a.safetensors")


def test_a_file_that_computes_something_else_is_refused(
    selfie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mediapipe, "TOLERANCE", 1e-9)
    with refused(WeightsError, "conversion-differs", selfie.name):
        mediapipe.convert(selfie, tmp_path / "selfie.safetensors")
    assert not list(tmp_path.iterdir())


def changed(content: bytes, change: Callable[[schema.ModelT], object]) -> bytes:
    """The file with something else in it, written anew."""
    import flatbuffers

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _other_stride(model: schema.ModelT) -> None:
    next(
        operator.builtinOptions
        for operator in model.subgraphs[0].operators
        if isinstance(operator.builtinOptions, schema.Conv2DOptionsT)
    ).strideH = 1


def _fewer_operators(model: schema.ModelT) -> None:
    del model.subgraphs[0].operators[3]


def _other_activation(model: schema.ModelT) -> None:
    [code] = [c for c in model.operatorCodes if c.builtinCode == schema.BuiltinOperator.HARD_SWISH]
    code.builtinCode, code.deprecatedBuiltinCode = (schema.BuiltinOperator.TANH,) * 2


def _integer_weights(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[1].type = schema.TensorType.INT8


def _two_graphs(model: schema.ModelT) -> None:
    model.subgraphs.append(model.subgraphs[0])


def _other_shape(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[0].shape = [1, 250, 250, 3]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_other_stride, "tflite-damaged"),
        (_fewer_operators, "not-mediapipe-selfie"),
        (_other_activation, "not-mediapipe-selfie"),
        (_integer_weights, "tflite-damaged"),
        (_two_graphs, "tflite-damaged"),
        (_other_shape, "not-mediapipe-selfie"),
    ],
)
def test_other_networks_are_refused(
    change: Callable[[schema.ModelT], object], code: str, selfie: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(changed(selfie.read_bytes(), change))
    with refused(WeightsError, code, path.name):
        mediapipe.convert(path, tmp_path / "other.safetensors")


def test_what_is_no_tflite_file_is_refused(selfie: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    with refused(WeightsError, "weights-missing", path.name):
        tflite_file.read(path)
    for content in (b"", b"TFL3", bytes(1000), selfie.read_bytes()[:100_000], b"PK" * 500):
        path.write_bytes(content)
        with refused(WeightsError, "tflite-damaged", path.name):
            tflite_file.read(path)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    position=st.one_of(st.integers(0, 2**14), st.integers(0, 249_000)),
    backwards=st.booleans(),
    value=st.integers(0, 2**32 - 1),
    cut=st.booleans(),
)
def test_damage_is_read_or_refused(
    position: int,
    backwards: bool,
    value: int,
    cut: bool,
    selfie: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = bytearray(selfie.read_bytes())
    position = len(content) - 4 - position if backwards else position
    struct.pack_into("<I", content, position, value)
    path = tmp_path_factory.mktemp("damaged") / "a.tflite"
    path.write_bytes(content[:position] if cut else content)
    try:
        graph = tflite_file.read(path)
    except UserError as error:
        assert error.code == "tflite-damaged"
    else:
        assert len(graph.convolutions) < 1000
