"""Converts the weights of MediaPipe's selfie segmentation, and compares both networks first.

The student `mediapipe-selfie` has the layers of MediaPipe's `selfie_segmentation.tflite` and
`selfie_segmentation_landscape.tflite`; the files are in the npm package
`@mediapipe/selfie_segmentation` (Apache-2.0). Its convolutions are matched with the file's in the
order in which both compute them. Then both networks run on the same images, and a file is written
only if their logits agree.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.litert_interop import reference, tflite_file
from jaxdistill.litert_interop.tflite_file import Graph
from jaxdistill.models import Student, weights
from jaxdistill.models.parameters import dotted, flat_variables, merge
from jaxdistill.runtime import xla
from jaxdistill.runtime.errors import WeightsError, unwritable

NAME = "mediapipe-selfie"
"""Name of the encoder and of the decoder."""
TOLERANCE = 1e-4
"""Largest difference of the logits, as a share of the largest absolute value."""
PROBABILITY_TOLERANCE = 1e-3
"""Largest difference of the probabilities."""

_UNIT = image_ops.resolve("unit")
_LARGEST_SIDE = 1024
_OPERATORS = {
    "Relu": "RELU",
    "HardSwish": "HARD_SWISH",
    "Sigmoid": "LOGISTIC",
    "Add": "ADD",
    "Mul": "MUL",
    "Resize": "RESIZE_BILINEAR",
    "ConvTranspose": "Convolution2DTransposeBias",
}
_POOLING = ("AVERAGE_POOL_2D", "MEAN")  # the square file and the landscape file


class Conversion(NamedTuple):
    """What was converted, and how well both networks agree."""

    size: config.Size
    """Height and width of the file's input."""
    parameters: int
    """Number of the weights' values."""
    difference: float
    """Largest difference of the logits, as a share of the largest absolute value."""
    probabilities: float
    """Largest difference of the probabilities."""


def convert(source: Path, output: Path) -> Conversion:
    """Converts a file of MediaPipe's to one for `student.weights`.

    Args:
      source: `selfie_segmentation.tflite` or `selfie_segmentation_landscape.tflite`.
      output: The safetensors file.

    Raises:
      WeightsError: The file cannot be read (`weights-missing`, `tflite-damaged`), holds another
        network (`not-mediapipe-selfie`), or computes other logits (`conversion-differs`).
      OutputError: The output cannot be written (`output-unwritable`).
    """
    graph = tflite_file.read(source)
    size = _input_size(graph, source)
    student = Student(config.Student(encoder=NAME, decoder=NAME, frozen=()), _UNIT)
    arrays = _arrays(student, graph, source)
    differences = _compare(student, arrays, graph, size, source)
    metadata = {
        "encoder": NAME,
        "decoder": NAME,
        "normalization": weights.format_normalization(_UNIT),
        "image_size": json.dumps(size),
        "source": source.name,
    }
    try:
        weights.save(output, arrays, metadata)
    except OSError as error:
        raise unwritable(output, error) from None
    return Conversion(size, sum(array.size for array in arrays.values()), *differences)


def _input_size(graph: Graph, source: Path) -> config.Size:
    if len(graph.input_shape) == 4:
        batch, height, width, channels = graph.input_shape
        fits = all(0 < side <= _LARGEST_SIDE and side % 16 == 0 for side in (height, width))
        if (batch, channels) == (1, 3) and fits and graph.output_shape == (1, height, width, 1):
            return height, width
    raise _another_network(
        source, f"the shapes are {list(graph.input_shape)} and {list(graph.output_shape)}"
    )


def _arrays(student: Student, graph: Graph, source: Path) -> dict[str, np.ndarray]:
    """Returns the file's weights by the student's paths."""
    traced = student_graph(student, Form("unit", sigmoid=True)).graph
    expected: Counter[str] = Counter()
    for node in traced.node:
        depthwise = any(one.name == "group" and one.i > 1 for one in node.attribute)
        convolution = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        expected[_OPERATORS.get(node.op_type, convolution)] += node.op_type != "GlobalAveragePool"
        if node.op_type == "GlobalAveragePool":
            pooling = next((name for name in _POOLING if name in graph.operators), _POOLING[0])
            expected[pooling] += 1
    if graph.operators != +expected:
        other = (graph.operators - expected) + (expected - graph.operators)
        raise _another_network(source, f"the numbers of {', '.join(sorted(other)[:3])} differ")
    variables = flat_variables(student)
    arrays = {}
    for layer, found in zip(_layers(traced), graph.convolutions, strict=True):
        kernel = variables[f"{layer}.kernel"]
        if found.kernel.shape != kernel.shape or found.bias.shape != kernel.shape[-1:]:
            raise _another_network(
                source, f"{layer} is {list(kernel.shape)}, the file's {list(found.kernel.shape)}"
            )
        if found.stride != _stride(student, layer):
            raise _another_network(source, f"the stride of {layer} is {found.stride}")
        arrays[f"{layer}.kernel"], arrays[f"{layer}.bias"] = found.kernel, found.bias
    return weights.fill(variables, arrays, source)


def _layers(traced: Any) -> Iterator[str]:
    """Yields the paths of the convolutions in the order in which they are computed."""
    for node in traced.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            yield node.input[1].removesuffix(".weight")


def _stride(student: Student, layer: str) -> int:
    modules: dict[str, Any] = {dotted(path): part for path, part in nnx.iter_modules(student)}
    return modules[layer].stride


def _compare(
    student: Student, arrays: dict[str, np.ndarray], graph: Graph, size: config.Size, source: Path
) -> tuple[float, float]:
    images = _images(size)
    expected = reference.outputs(graph.content, images, str(source))
    graphdef = nnx.graphdef(student)
    run = jax.jit(lambda variables, x: merge(graphdef, variables)(x, train=False).logits)
    with xla.exact_products():
        own = np.concatenate([run(arrays, image[None]) for image in images])
    difference = float(np.abs(own - expected).max() / np.abs(expected).max())
    probabilities = float(np.abs(jax.nn.sigmoid(own) - jax.nn.sigmoid(expected)).max())
    if not (difference <= TOLERANCE and probabilities <= PROBABILITY_TOLERANCE):
        raise WeightsError(
            f"{source}: the logits differ from LiteRT's by {difference:.1e} of the largest value "
            f"(at most {TOLERANCE:.0e} is accepted), the probabilities by {probabilities:.1e} (at "
            f"most {PROBABILITY_TOLERANCE:.0e}): nothing is written",
            code="conversion-differs",
        )
    return difference, probabilities


def _images(size: config.Size) -> np.ndarray:
    """Returns noise, a gradient, and drawings of a head above shoulders."""
    height, width = size
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    noise = np.random.default_rng(0).random((height, width, 3))
    ramp = np.stack([rows, columns, 1 - rows], -1)
    images = [noise, ramp]
    for centre, skin in ((0.5, (0.9, 0.7, 0.6)), (0.35, (0.4, 0.25, 0.2))):
        head = ((rows - 0.35) / 0.22) ** 2 + ((columns - centre) / 0.15) ** 2 < 1
        body = ((rows - 1.0) / 0.42) ** 2 + ((columns - centre) / 0.38) ** 2 < 1
        image = np.where(body[..., None], (0.2, 0.2, 0.5), 0.8 - 0.3 * ramp)
        images.append(np.where(head[..., None], skin, image) + 0.05 * (noise - 0.5))
    return np.clip(np.stack(images), 0, 1).astype(np.float32)


def _another_network(source: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{source}: not MediaPipe's selfie segmentation, which is selfie_segmentation.tflite or "
        f"selfie_segmentation_landscape.tflite of the npm package "
        f"@mediapipe/selfie_segmentation: {reason}",
        code="not-mediapipe-selfie",
    )
