"""MediaPipe's selfie segmentation as a student: sizes, layers, other encoders, the graph."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import toy_student
from flax import nnx
from refused import refused
from small_student import randomised

from jaxdistill import config, models
from jaxdistill.data import image_ops
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.models import Student
from jaxdistill.models.functional import hard_sigmoid, hard_swish, upsample_bilinear
from jaxdistill.models.layers import ConvTranspose
from jaxdistill.models.parameters import flat_variables
from jaxdistill.models.unfreezing import encoder_stages, partition_in_phase
from jaxdistill.runtime.errors import ConfigError

SELFIE = config.Student(encoder="mediapipe-selfie", decoder="mediapipe-selfie", frozen=())


def student(**changes: object) -> Student:
    settings = SELFIE.model_copy(update=changes)
    return randomised(Student(settings, image_ops.resolve("unit")))


def logits_of_graph(student: Student, images: np.ndarray) -> np.ndarray:
    graph = student_graph(student, Form("unit")).SerializeToString()
    nchw = images.transpose(0, 3, 1, 2)
    return onnxruntime.InferenceSession(graph).run(None, {"image": nchw})[0].transpose(0, 2, 3, 1)


def test_it_has_mediapipe_s_size_and_describes_its_maps() -> None:
    model = student()
    assert sum(value.size for value in flat_variables(model).values()) == 106_401
    assert [(f.channels, f.stride) for f in model.feature_info] == [
        *((16, 2), (16, 4), (24, 8), (32, 16)),
        *((128, 16), (24, 8), (16, 4), (16, 2)),
    ]
    images = jnp.zeros((1, 144, 256, 3))
    taps = nnx.eval_shape(lambda s, x: s.taps(x, train=True), model, images)
    for feature in model.feature_info:
        assert taps[feature.name].shape == (1, *feature.size((144, 256)), feature.channels)


def test_sides_are_multiples_of_16() -> None:
    models.check_image_size(student(), (144, 256))
    with refused(ConfigError, "image-size", "multiples of 16"):
        models.check_image_size(student(), (256, 200))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"upsampling": "bilinear", "decoder_channels": (20, 24, 12, 8)},
        {"encoder": "toy-encoder", "decoder_channels": (16, 12)},
    ],
)
def test_the_graph_computes_the_student_s_logits(changes: dict) -> None:
    toy_student.register()
    model = student(**changes)
    images = np.random.default_rng(0).random((2, 64, 96, 3), np.float32)
    expected = np.asarray(nnx.jit(lambda m, x: m(x, train=False).logits)(model, images))
    assert expected.shape == (2, 64, 96, 1)
    assert expected.std() > 0.05
    assert np.abs(logits_of_graph(model, images) - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_encoder_joins_the_training_stage_by_stage() -> None:
    settings = SELFIE.model_copy(
        update={"frozen": ("encoder",), "unfreeze": config.Unfreezing(from_epoch=2)}
    )
    model = Student(settings, image_ops.resolve("unit"))
    stages = encoder_stages(model)
    assert len(stages) == 9
    names = [name for name in flat_variables(model) if name.startswith("encoder.")]
    assert all(
        sum(name.startswith(f"{p}.") for stage in stages for p in stage) == 1 for name in names
    )
    joined = partition_in_phase(model, settings, 1).params
    assert {name.rpartition(".")[0] for name in joined if name.startswith("encoder.")} == {
        f"encoder.blocks.7.{layer}"
        for layer in ("expand", "depthwise", "gate.reduce", "gate.expand", "project")
    }


def test_a_transposed_convolution_equals_xla_s() -> None:
    layer = ConvTranspose(3, 2, 2, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.array([0.5, -1.0])
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    # XLA correlates with the kernel, which is therefore turned by 180 degrees.
    kernel = layer.kernel[...][::-1, ::-1]
    expected = jax.lax.conv_transpose(
        x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer(x), expected + layer.bias[...], rtol=1e-5, atol=1e-5)


def test_bilinear_upsampling_on_hand_worked_values() -> None:
    x = jnp.array([0.0, 4.0, 8.0]).reshape(1, 1, 3, 1)
    row = np.asarray(upsample_bilinear(x))[0, 0, :, 0]
    np.testing.assert_allclose(row, [0, 1, 3, 5, 7, 8], atol=1e-6)


def test_hard_activations_on_hand_worked_values() -> None:
    x = jnp.array([-4.0, -3.0, 0.0, 1.5, 3.0, 6.0])
    np.testing.assert_allclose(hard_sigmoid(x), [0, 0, 0.5, 0.75, 1, 1], atol=1e-6)
    np.testing.assert_allclose(hard_swish(x), [0, 0, 0, 1.125, 3, 6], atol=1e-6)
