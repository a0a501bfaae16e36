"""Correction of a quantised graph's biases for what rounding the weights moves its outputs by.

Rounded weights do not only add noise. Where the inputs of a convolution have the means `E[x]`, an
error `dW` of its weights moves the means of its outputs by `dW E[x]`, and the layers after it see
another distribution. The bias takes that back (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
Unlike the paper, which derives the means from BatchNorm, this module measures them on images.
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
_LARGEST = np.iinfo(np.int32).max


class _Layer(NamedTuple):
    """A quantised convolution."""

    input: str
    """Its input in the float32 graph."""
    errors: Float[np.ndarray, "outputs inputs"]
    """What rounding adds to its weights, summed over the kernel's positions."""
    bias: onnx.TensorProto
    """Its bias in the quantised graph, in int32."""
    scale: Float[np.ndarray, " outputs"]
    """What a step of the bias stands for."""


def correct_biases(
    model: onnx.ModelProto,
    quantised: onnx.ModelProto,
    images: Sequence[Shaped[np.ndarray, "1 ..."]],
) -> None:
    """Changes the biases of a quantised graph.

    The zeros with which a convolution pads its input are taken for values of the channel's mean.

    Args:
      model: The graph in float32.
      quantised: The graph that `quantize_static` made of it; its int32 biases are changed.
      images: Inputs of the graphs; the first `IMAGES` are used.
    """
    layers = list(_layers(model, quantised))
    if not layers:
        return
    means = _channel_means(model, {layer.input for layer in layers}, images[:IMAGES])
    for layer in layers:
        outputs, inputs = layer.errors.shape
        groups = means[layer.input].reshape(-1, inputs)
        seen = groups.repeat(outputs // len(groups), axis=0)
        shift = (layer.errors * seen).sum(axis=1)
        steps = np.divide(shift, layer.scale, out=np.zeros_like(shift), where=layer.scale > 0)
        before = numpy_helper.to_array(layer.bias)
        after = np.rint(before - steps)
        # A channel without weights has a scale of next to nothing, in steps of which no shift fits.
        kept = np.where(np.abs(after) <= _LARGEST, after, before).astype(np.int32)
        layer.bias.CopyFrom(numpy_helper.from_array(kept, layer.bias.name))


def _layers(model: onnx.ModelProto, quantised: onnx.ModelProto) -> Iterator[_Layer]:
    """Yields the quantised convolutions that have a bias."""
    exact = {node.name: node for node in model.graph.node}
    weights = {each.name: each for each in model.graph.initializer}
    values = {each.name: each for each in quantised.graph.initializer}
    sources = {output: node for node in quantised.graph.node for output in node.output}
    for node in quantised.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        rounded, biases = (sources.get(name) for name in node.input[1:3])
        if rounded is None or biases is None:  # it stays in float32
            continue
        levels, scale = (numpy_helper.to_array(values[name]) for name in rounded.input[:2])
        given, weight = exact[node.name].input[:2]
        errors = np.float64(levels) * scale[:, None, None, None]
        errors -= numpy_helper.to_array(weights[weight])
        bias, steps = (values[name] for name in biases.input[:2])
        yield _Layer(given, errors.sum((2, 3)), bias, numpy_helper.to_array(steps))


def _channel_means(
    model: onnx.ModelProto, tensors: set[str], images: Sequence[np.ndarray]
) -> dict[str, Float[np.ndarray, " channels"]]:
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
    means = zip(*(session.run(None, {name: image}) for image in images), strict=True)
    return {
        tensor: np.mean(each, axis=0).reshape(-1)
        for tensor, each in zip(tensors, means, strict=True)
    }
