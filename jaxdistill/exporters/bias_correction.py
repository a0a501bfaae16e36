"""Correction of a quantised graph's biases for what rounding the weights moves its outputs by.

Rounded weights do not only add noise: the mean of each channel moves, and the layers after it see
another distribution. The biases take that back (Nagel et al. 2019, arXiv:1906.04721, section 4.2),
layer by layer, with means over images instead of those that BatchNorm implies.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from jaxtyping import Float, Shaped
from onnx import helper, numpy_helper

from jaxdistill.exporters.onnx_student import open_for_measuring

IMAGES = 16
"""Number of images over which means are taken."""
_INT32 = 2**31 - 1


class _Layer(NamedTuple):
    """A convolution in both graphs."""

    exact: str
    """Its output in the float32 graph."""
    rounded: str
    """Its output in the quantised graph."""
    bias: onnx.TensorProto
    """Its bias in the quantised graph, in int32."""
    scale: np.ndarray
    """What a step of the bias stands for, for each channel or for all."""


def correct_biases(
    model: onnx.ModelProto,
    quantised: onnx.ModelProto,
    images: Sequence[Shaped[np.ndarray, "1 ..."]],
) -> None:
    """Changes the biases of a quantised graph, so that its channels have the means of the original.

    Args:
      model: The graph in float32.
      quantised: The graph that `quantize_static` made of it; its int32 biases are changed.
      images: Inputs of the graphs; the first `IMAGES` are used.
    """
    layers = list(_layers(model, quantised))
    wanted = _channel_means(model, [layer.exact for layer in layers], images[:IMAGES])
    for layer, mean in zip(layers, wanted, strict=True):
        # The layers before this one are corrected already, so that errors do not add up.
        (found,) = _channel_means(quantised, [layer.rounded], images[:IMAGES])
        moved = np.float64(mean - found)
        steps = np.divide(moved, layer.scale, out=np.zeros_like(moved), where=layer.scale > 0)
        bias = np.rint(numpy_helper.to_array(layer.bias) + steps)
        # A channel without weights has a scale of next to nothing, in steps of which no shift fits.
        kept = np.abs(bias) <= _INT32
        bias = np.where(kept, bias, numpy_helper.to_array(layer.bias)).astype(np.int32)
        layer.bias.CopyFrom(numpy_helper.from_array(bias, layer.bias.name))


def _layers(model: onnx.ModelProto, quantised: onnx.ModelProto) -> Iterator[_Layer]:
    """Yields the quantised convolutions that have a bias, in the order in which they compute."""
    exact = {node.name: node for node in model.graph.node}
    values = {each.name: each for each in quantised.graph.initializer}
    sources = {output: node for node in quantised.graph.node for output in node.output}
    for node in quantised.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        source = sources.get(node.input[2])
        if source is not None and source.op_type == "DequantizeLinear":
            bias, scale = (values[name] for name in source.input[:2])
            scales = numpy_helper.to_array(scale)
            yield _Layer(exact[node.name].output[0], node.output[0], bias, scales)


def _channel_means(
    model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[np.ndarray]
) -> list[Float[np.ndarray, " c"]]:
    """Returns the mean of each channel of NCHW tensors over all images and positions."""
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    for tensor in tensors:
        mean = f"{tensor}/channel_means"
        observed.graph.node.append(helper.make_node("GlobalAveragePool", [tensor], [mean]))
        observed.graph.output.append(helper.make_empty_tensor_value_info(mean))
    session = open_for_measuring(observed.SerializeToString())
    name = model.graph.input[0].name
    means = [session.run(None, {name: image}) for image in images]
    return [np.mean(each, axis=0).reshape(-1) for each in zip(*means, strict=True)]
