"""Biases of a quantised graph take back what rounding moves the means of channels by."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from jaxdistill.exporters import quantize
from jaxdistill.exporters.bias_correction import correct_biases

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[1, 3, 16, 16] picture) => (float[1, 1, 16, 16] mask)
{
    first = Conv <pads = [1, 1, 1, 1]> (picture, w0, b0)
    bent = Relu (first)
    second = Conv <pads = [1, 1, 1, 1], group = GROUPS> (bent, w1, b1)
    again = Relu (second)
    mask = Conv (again, w2, b2)
}
"""


@pytest.fixture(params=[1, 2, 8])
def model(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Three convolutions, whose weights are of very different size within each output channel.

    The second one has all channels in one group, in two, or each by itself (depthwise).
    """
    made = parser.parse_model(NETWORK.replace("GROUPS", str(request.param)))
    random = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, 8 // request.param, 3, 3), "w2": (1, 8, 1, 1)}
    for name, shape in shapes.items():
        weights = random.normal(size=shape) * random.lognormal(0, 2, (1, shape[1], 1, 1))
        biases = random.normal(size=shape[0])
        for key, values in ((name, weights), (name.replace("w", "b"), biases)):
            made.graph.initializer.append(numpy_helper.from_array(np.float32(values), key))
    for number, node in enumerate(made.graph.node):
        node.name = f"node{number}"
    return made


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.random((1, 3, 16, 16), np.float32) for _ in range(count)]


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    return quantize._quantised(model, images(8), (), quantize.CalibrationMethod.Percentile)


def outputs(model: onnx.ModelProto, tensor: str, inputs: list[np.ndarray]) -> np.ndarray:
    shown = copy.deepcopy(model)
    shown.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    session = onnxruntime.InferenceSession(shown.SerializeToString())
    return np.concatenate([session.run([tensor], {"picture": each})[0] for each in inputs])


def of_convolutions(model: onnx.ModelProto) -> dict[str, str]:
    return {node.name: node.output[0] for node in model.graph.node if node.op_type == "Conv"}


def biases(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {
        each.name: numpy_helper.to_array(each)
        for each in model.graph.initializer
        if each.name.endswith("_quantized") and each.data_type == onnx.TensorProto.INT32
    }


def shifts(model: onnx.ModelProto, other: onnx.ModelProto, inputs: list[np.ndarray]) -> float:
    """The mean absolute shift of a channel's mean, relative to the deviation of the channel."""
    found = []
    for name, tensor in of_convolutions(model).items():
        exact = outputs(model, tensor, inputs)
        rounded = outputs(other, of_convolutions(other)[name], inputs)
        moved = (rounded.mean((0, 2, 3)) - exact.mean((0, 2, 3))) / exact.std((0, 2, 3))
        found.append(np.abs(moved).mean())
    return float(np.mean(found))


def test_the_means_of_channels_are_those_of_the_float32_graph(model: onnx.ModelProto):
    rounded = quantised(model)
    corrected = copy.deepcopy(rounded)
    correct_biases(model, corrected, images(8))
    unseen = images(8, seed=1)
    assert shifts(model, corrected, unseen) < 0.3 * shifts(model, rounded, unseen)
    before, after = biases(rounded), biases(corrected)
    assert before.keys() == after.keys() == {"b0_quantized", "b1_quantized", "b2_quantized"}
    assert any((before[name] != after[name]).any() for name in before)


def test_a_shift_that_no_bias_can_hold_is_left_out(model: onnx.ModelProto):
    """The scale of a bias is that of its channel's weights, which may be next to nothing."""
    rounded = quantised(model)
    for each in rounded.graph.initializer:
        if each.name == "b1_quantized_scale":
            scale = numpy_helper.to_array(each).copy()
            scale[3], scale[4] = 1e-30, 0
            each.CopyFrom(numpy_helper.from_array(scale, each.name))
    before = biases(rounded)["b1_quantized"]
    with np.errstate(all="raise"):
        correct_biases(model, rounded, images(8))
    kept = biases(rounded)["b1_quantized"] == before
    assert kept[[3, 4]].all()
    assert not kept.all()


def test_a_graph_without_quantised_layers_stays_as_it_is(model: onnx.ModelProto):
    unchanged = copy.deepcopy(model)
    correct_biases(model, unchanged, images(2))
    assert unchanged == model
