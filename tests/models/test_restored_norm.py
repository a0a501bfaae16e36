"""BatchNorms restored in MediaPipe's selfie segmentation."""

from pathlib import Path

import jax
import numpy as np
import onnxruntime
import pytest
from flax import nnx
from small_student import randomised

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.models import Student, build, restored_norm, save_weights, weights
from jaxdistill.models.parameters import flat_variables
from jaxdistill.models.unfreezing import partition_in_phase

pytestmark = pytest.mark.slow  # compiles whole students

SELFIE = config.Student(encoder="mediapipe-selfie", decoder="mediapipe-selfie", frozen=())
IMAGES = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)


@pytest.fixture(scope="module")
def plain() -> Student:
    return randomised(Student(SELFIE, image_ops.resolve("unit")))


@pytest.fixture(scope="module")
def restored(plain: Student) -> Student:
    return restored_norm.restore(plain, IMAGES)


def logits(student: Student, *, train: bool = False) -> np.ndarray:
    graphdef, state = nnx.split(student)
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, train=train).logits)
    return np.asarray(run(state, IMAGES))


def test_it_computes_what_it_did_with_running_statistics_and_with_those_of_the_same_images(
    plain: Student, restored: Student
) -> None:
    expected = logits(plain)
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(logits(restored), expected, atol=tolerance)
    np.testing.assert_allclose(logits(restored, train=True), expected, atol=10 * tolerance)


def test_the_statistics_are_those_of_the_convolution_s_outputs(
    plain: Student, restored: Student
) -> None:
    stem, norm = restored.encoder.stem.conv, restored.encoder.stem.norm
    assert stem.bias is None
    y = np.asarray(stem(IMAGES), np.float64)
    np.testing.assert_allclose(norm.mean[...], y.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.var[...], y.var((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        norm.bias[...], y.mean((0, 1, 2)) + plain.encoder.stem.bias[...], rtol=1e-4, atol=1e-5
    )


def test_every_batch_norm_is_trained_and_the_gates_have_none(restored: Student) -> None:
    parts = partition_in_phase(restored, restored.settings, 0)
    assert len(parts.batch_stats) == 2 * len([p for p in parts.params if p.endswith("norm.scale")])
    assert not [path for path in parts.params if ".gate." in path and ".norm." in path]
    assert not parts.frozen


def test_an_export_folds_them_again(plain: Student, restored: Student) -> None:
    models = [student_graph(student, Form("unit")) for student in (plain, restored)]
    operators = [[node.op_type for node in model.graph.node] for model in models]
    assert operators[0] == operators[1]
    session = onnxruntime.InferenceSession(models[1].SerializeToString())
    found = session.run(None, {"image": IMAGES.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1)
    expected = logits(plain)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_it_is_saved_and_built_from_its_file(restored: Student, tmp_path: Path) -> None:
    path = tmp_path / "restored.safetensors"
    save_weights(restored, path)
    loaded, _ = weights.load(path)
    assert loaded.keys() == flat_variables(restored).keys()
    names = {"encoder": restored_norm.NAME, "decoder": restored_norm.NAME}
    built = build(config.Student(**names, weights=path, frozen=()))
    assert built.normalization == restored.normalization
    np.testing.assert_array_equal(logits(built), logits(restored))


def test_it_is_traced_as_a_constant_as_the_export_for_litert_does(restored: Student) -> None:
    computed = jax.jit(lambda x: restored(x, train=False).logits)(IMAGES)
    np.testing.assert_allclose(computed, logits(restored), atol=1e-4 * np.abs(computed).max())
