"""The ONNX graph computes what the student computes, whatever the student consists of."""

from collections import Counter

import cv2
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from jaxtyping import Array
from refused import refused
from small_student import HALF, randomised, small_student

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.exporters.onnx_student import graph_inputs
from jaxdistill.exporters.quantize import to_int8
from jaxdistill.exporters.registry import Input
from jaxdistill.exporters.verify import flax_outputs
from jaxdistill.models import DECODERS, ENCODERS, Decoder, Encoder, FeatureInfo, Pair, Student
from jaxdistill.models.functional import concatenate, global_mean, relu, sigmoid, upsample_nearest
from jaxdistill.models.layers import BatchNorm, Conv, Layer, conv_norm
from jaxdistill.models.symbolic import GraphBuilder, SymbolicTensor, node_name
from jaxdistill.runtime.errors import ExportError

ENCODER_NAMES = [
    "timm-efficientnet-b0",
    "tf_efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    pytest.param("mobilenetv4_conv_small_035", marks=pytest.mark.slow),
    pytest.param("mobilenetv3_large_100", marks=pytest.mark.slow),
    pytest.param("tf_mobilenetv3_small_minimal_100", marks=pytest.mark.slow),
    pytest.param("timm-efficientnet-b3", marks=pytest.mark.slow),
    pytest.param("tf_efficientnet_b3", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def small() -> Student:
    return randomised(small_student())


def images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """onnxruntime's output, NHWC."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": batch})[0].transpose(0, 2, 3, 1)


def unit(batch: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def run_in_opencv(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """The output of OpenCV's DNN module, NHWC."""
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    outputs = []
    for image in batch:
        network.setInput(image[None])
        outputs.append(network.forward().transpose(0, 2, 3, 1))
    return np.concatenate(outputs)


def check_against_flax(student: Student, count: int, height: int, width: int) -> onnx.ModelProto:
    batch = images(count, height, width)
    expected = flax_outputs(student, batch, Form())
    assert expected.std() > 0.05  # otherwise anything would be equal
    model = student_graph(student, Form("unit"))
    # As a share of the largest logit: MobileNets with random statistics reach 101. Measured: up to
    # 4.2e-6 in onnxruntime 1.32 and OpenCV 5.0, 7.8e-6 in OpenCV 4.11.
    bound = 2e-5 * np.abs(expected).max()
    assert np.abs(run(model, unit(batch)) - expected).max() < bound
    # OpenCV 4.11 does not read a UNet of free height and width.
    fixed = student_graph(student, Form("unit", size=(height, width)))
    assert np.abs(run_in_opencv(fixed, unit(batch)) - expected).max() < bound
    return model


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_the_graph_computes_the_student_s_logits(encoder: str) -> None:
    settings = config.Student(encoder=encoder, decoder_channels=(24, 16, 12, 8, 4))
    check_against_flax(randomised(small_student(settings=settings)), 3, 64, 96)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [("mediapipe-selfie", "mediapipe-selfie"), ("mobilenetv3_small_050", "lr-aspp")],
)
def test_small_students_of_other_decoders(encoder: str, decoder: str) -> None:
    settings = config.Student(encoder=encoder, decoder=decoder, frozen=())
    check_against_flax(randomised(small_student(settings=settings)), 2, 64, 96)


def test_one_graph_takes_any_sides_and_any_batch(small: Student) -> None:
    model = student_graph(small, Form("unit"))
    for count, height, width in ((1, 32, 32), (2, 160, 96)):
        batch = images(count, height, width)
        expected = flax_outputs(small, batch, Form())
        assert np.abs(run(model, unit(batch)) - expected).max() < 1e-4


@pytest.fixture(scope="module")
def logits(small: Student) -> np.ndarray:
    return flax_outputs(small, images(1, 64, 96), Form())


@pytest.mark.parametrize("kind", ["normalized", "imagenet", "unit", "uint8"])
def test_a_negative_deviation_inverts_the_grey_levels_in_every_form(kind: Input) -> None:
    inverted = image_ops.resolve(config.MeanStd(mean=(0.635,) * 3, std=(-0.4,) * 3))
    student = randomised(Student(config.Student(encoder="mobilenetv3_small_050"), inverted))
    form, given = Form(kind, size=(64, 96)), images(1, 64, 96)
    batch = next(graph_inputs(given, form, student.normalization))
    expected = flax_outputs(student, given, Form())
    bound = 2e-5 * np.abs(expected).max()
    assert np.abs(run(student_graph(student, form), batch) - expected).max() < bound


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("kind", ["normalized", "imagenet", "unit", "uint8"])
def test_every_form_computes_the_same_mask_up_to_the_border(
    small: Student, logits: np.ndarray, kind: Input, sigmoid: bool
) -> None:
    form = Form(kind, sigmoid, (64, 96))
    model = student_graph(small, form)
    batch = next(graph_inputs(images(1, 64, 96), form, small.normalization))
    expected = 1 / (1 + np.exp(-logits)) if sigmoid else logits
    assert np.abs(run(model, batch) - expected).max() < 1e-4
    (image,), (output,) = model.graph.input, model.graph.output
    sides = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert sides == (["batch", 64, 96, 3] if kind == "uint8" else ["batch", 3, 64, 96])
    assert output.name == ("mask" if sigmoid else "logits")


def test_the_graph_has_no_node_too_many_and_names_after_the_modules() -> None:
    model = student_graph(small_student([Pair("encoder.3", 8, None)], config.Student()), Form())
    # The counts of SMP's network as torch exports it; see tests/parity/test_export_parity.py.
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 91,
        "Sigmoid": 64,
        "Mul": 64,
        "GlobalAveragePool": 16,
        "Add": 9,
        "Relu": 10,
        "Resize": 5,
        "Concat": 4,
    }
    used = {name for node in model.graph.node for name in node.input}
    weights = {tensor.name for tensor in model.graph.initializer}
    assert weights <= used
    assert "encoder.blocks.1.0.conv_dw.weight" in weights
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {
        "encoder/blocks.1.0/conv_dw",
        "encoder/blocks.1.0/conv_dw/silu",
        "encoder/blocks.1.0/se/multiply",
        "encoder/blocks.1.1/add",
        "decoder/blocks.1/conv1/conv/upsample",
        "decoder/blocks.1/conv2/relu",  # configs/demo.yaml names it
        "head",
    } <= set(names)
    assert not any("conv_head" in name or "projectors" in name for name in names)


def test_float16_is_half_the_size_and_close(small: Student) -> None:
    single, half = (student_graph(small, Form("unit"), p) for p in ("float32", "float16"))
    assert half.ByteSize() < 0.55 * single.ByteSize()
    batch = unit(images(2, 64, 64))
    expected = run(single, batch)
    computed = run(half, batch)
    assert computed.dtype == np.float32
    assert np.abs(computed - expected).max() < 0.05 * np.abs(expected).max()


def test_int8_keeps_the_layers_that_the_student_names_in_float32(small: Student) -> None:
    assert small.float32_layers == ("encoder.conv_stem", "decoder.blocks.4", "head")
    batches = [unit(images(1, 32, 32, seed)) for seed in range(2)]
    model = to_int8(student_graph(small, Form("unit")), batches, small.float32_layers)
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    kept = {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and made.get(node.input[1]) != "DequantizeLinear"
    }
    assert kept == {
        "encoder/conv_stem",
        "decoder/blocks.4/conv1/conv",
        "decoder/blocks.4/conv2/conv",
        "head",
    }


def test_a_nearly_constant_tensor_is_quantised_with_a_warning(
    small: Student, caplog: pytest.LogCaptureFixture
) -> None:
    """onnxruntime makes no histogram of values whose range is a rounding error."""
    flat = np.full((1, 3, 32, 32), 0.5, np.float32)
    flat[0, 0, 0, 0] = np.nextafter(np.float32(0.5), np.float32(1))
    model = to_int8(student_graph(small, Form("normalized")), [flat, flat])
    [warning] = caplog.records
    assert warning.name == "jaxdistill.exporters.quantize"
    assert np.isfinite(run(model, flat)).all()


def test_a_few_extreme_values_do_not_widen_the_ranges_of_int8(
    small: Student, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A single pixel of two images is a hundred times as bright as all others."""
    graph = student_graph(small, Form("unit"))
    plain = [unit(images(1, 96, 96, seed)) for seed in range(2)]
    flawed = [plain[0], plain[1].copy()]
    flawed[1][0, :, 40, 40] = 100

    def scales(batches: list[np.ndarray]) -> dict[str, float]:
        model = to_int8(graph, batches, small.float32_layers)
        return {
            each.name: float(onnx.numpy_helper.to_array(each))
            for each in model.graph.initializer
            if each.name.endswith("_scale") and not each.dims
        }

    expected, found = scales(plain), scales(flawed)
    assert expected.keys() == found.keys()
    assert len(expected) > 50
    ratios = [found[name] / expected[name] for name in expected]
    assert float(np.median(ratios)) < 1.1
    assert caplog.records == []
    assert capfd.readouterr().out == ""  # onnxruntime prints its progress otherwise


class HardSwish(Layer):
    """A layer that the package does not know."""

    def __call__(self, x: Array) -> Array:
        return x * jnp.clip(x / 6 + 0.5, 0, 1)

    def to_onnx(self, graph: GraphBuilder, x: SymbolicTensor) -> SymbolicTensor:
        return x.apply("HardSwish", "hard_swish")


class ToyEncoder(Encoder):
    """Two feature maps, with a layer, functions and operators of all kinds."""

    stages = (("conv2", "norm2"), ("conv1", "norm1"))
    float32_layers = ("conv1",)

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.feature_info = (FeatureInfo("encoder.1", 6, 2), FeatureInfo("encoder.2", 8, 4))
        self.conv1 = Conv(3, 6, 3, stride=2, bias=True, rngs=rngs)
        self.norm1 = BatchNorm(6)
        self.activation = HardSwish()
        self.conv2 = Conv(6, 8, 3, stride=2, rngs=rngs)
        self.norm2 = BatchNorm(8)

    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        fine = self.activation(conv_norm(self.conv1, self.norm1, x, train=train))
        coarse = self.norm2(relu(self.conv2(fine)), train=train)
        return fine, coarse * sigmoid(global_mean(coarse)) + 0.5 * coarse


class ToyDecoder(Decoder):
    """A decoder with a gated skip connection."""

    def __init__(self, encoder, channels=None, *, rngs: nnx.Rngs) -> None:
        fine, coarse = encoder
        [outputs] = channels or (4,)
        self.feature_info = (FeatureInfo("decoder.0", outputs, 1),)
        self.conv = Conv(fine.channels + coarse.channels, outputs, 3, bias=True, rngs=rngs)

    def __call__(self, features, *, train: bool) -> tuple[Array]:
        fine, coarse = features
        joined = concatenate([upsample_nearest(coarse), fine * sigmoid(fine)])
        return (upsample_nearest(relu(self.conv(joined))),)


class Untraceable(ToyEncoder):
    """A toy encoder that forgets the functions of `models.functional`."""

    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        fine, coarse = super().__call__(x, train=train)
        return fine, jnp.tanh(coarse)


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    ENCODERS.add("toy", ToyEncoder)
    ENCODERS.add("untraceable", Untraceable)
    DECODERS.add("toy", ToyDecoder)


def toy(encoder: str) -> Student:
    settings = config.Student(encoder=encoder, decoder="toy", decoder_channels=(5,))
    return randomised(Student(settings, HALF))


def test_networks_from_outside_the_package_are_exported() -> None:
    model = check_against_flax(toy("toy"), 2, 16, 24)
    names = {node.name for node in model.graph.node}
    assert {"encoder/conv1", "encoder/conv1/hard_swish", "encoder/norm2", "decoder/conv"} <= names


def test_a_module_without_an_onnx_form_is_named() -> None:
    with refused(ExportError, "no-onnx-form", "encoder: ") as caught:
        student_graph(toy("untraceable"), Form())
    assert "models.functional" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [("encoder.blocks.1.0.conv_dw", "encoder/blocks.1.0/conv_dw"), ("head", "head")],
)
def test_nodes_are_named_after_paths(path: str, name: str) -> None:
    assert node_name(path) == name
