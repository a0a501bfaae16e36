"""The feature maps of an ONNX file: their names, sizes, and what it costs to compute them."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, helper

from jaxdistill.config import Size
from jaxdistill.teachers.onnx_device import FLOATS
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_runtime import PATIENCE, cannot_run, open_session, within
from jaxdistill.teachers.onnx_session import input_size

_COPIES = {"Cast", "Dropout", "Identity"}
"""Operators whose output repeats their input."""
_POINTWISE = {
    *("Abs", "BatchNormalization", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "PRelu", "Relu", "Selu", "Sigmoid"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
    *("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"),
}
"""Operators that work on every value by itself."""

_Dims = Mapping[str, tuple[int, ...]]


class FeatureMap(NamedTuple):
    """A tensor of shape (N, C, h, w), for images of one size."""

    tensor: str
    """Its name in the file."""
    operator: str
    """The type of the node that computes it, such as `Concat`."""
    height: int
    width: int
    channels: int
    cost: float
    """Share of the network's multiplications that are needed to compute it."""
    internal: bool
    """Whether only an activation or a normalisation reads it, whose output has the same content."""


def feature_maps(graph: OnnxGraph, size: Size | None, image_size: Size) -> list[FeatureMap]:
    """Finds all floating-point maps that depend on the image alone, in the order of computation.

    Tensors that only repeat another one, such as the output of a cast, are left out. The sizes are
    those that onnxruntime finds when it runs the network on a black image; it returns the shapes
    alone, so no map is kept in memory.

    Args:
      graph: The file.
      size: Height and width of the network's input; None uses the file's own where it is fixed,
        else `image_size`.
      image_size: Height and width of the images.

    Raises:
      NetworkError: Whatever `OnnxGraph.cut` and `OnnxSession` find wrong with a file.
    """
    nodes = graph.image_nodes()
    dims, batch = _dims(graph, nodes, size, image_size)
    costs = _costs(nodes, dims)
    internal = _internal(nodes, graph.outputs)
    found = []
    for node in nodes:
        for tensor in filter(internal.__contains__, _outputs(node)):
            shape = dims.get(tensor, ())
            if len(shape) == 4 and shape[0] == batch and 0 not in shape:
                _, channels, height, width = shape
                about = (costs[tensor], internal[tensor])
                found.append(FeatureMap(tensor, node.op_type, height, width, channels, *about))
    return found


def _outputs(node: NodeProto) -> Iterator[str]:
    return filter(None, node.output)


def _dims(
    graph: OnnxGraph, nodes: Sequence[NodeProto], size: Size | None, image_size: Size
) -> tuple[_Dims, int]:
    """Returns the shapes of the nodes' outputs and second operands, and the batch size."""
    cut = graph.cut([tensor for node in nodes for tensor in _outputs(node)])
    floats = [o.name for o in open_session(graph.path, cut.model).get_outputs() if o.type in FLOATS]
    wanted = dict.fromkeys(floats)
    wanted |= dict.fromkeys(node.input[1] for node in nodes if node.op_type in _MULTIPLICATIONS)
    model = onnx.load_model_from_string(cut.model)
    del model.graph.output[:]
    for tensor in wanted:
        shape = f"shape of {tensor}"
        model.graph.node.append(helper.make_node("Shape", [tensor], [shape]))
        model.graph.output.append(helper.make_empty_tensor_value_info(shape))
    session = open_session(graph.path, model.SerializeToString())

    batch = cut.input.batch or 1
    height, width = input_size(graph.path, cut.input, size, image_size)
    blank = np.zeros(cut.input.shape(batch, (height, width)), cut.input.dtype)
    try:
        with within(PATIENCE) as options:
            shapes = session.run(None, {cut.input.name: blank}, options)
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise cannot_run(graph.path, (height, width), error) from None
    return {t: tuple(map(int, dims)) for t, dims in zip(wanted, shapes, strict=True)}, batch


def _internal(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> dict[str, bool]:
    """Returns, for every tensor that repeats no other, whether only its own family reads it.

    Tensors computed from one another by pointwise functions are a family: of a convolution, its
    sigmoid, and the product of the two, only the product is read by other nodes.
    """
    original: dict[str, str] = {}
    family: dict[str, str] = {}
    for node in nodes:
        parents = {family[t] for t in node.input if t in family}
        alike = node.op_type in _POINTWISE and len(parents) == 1
        for tensor in _outputs(node):
            source = next(iter(node.input), "")
            if node.op_type in _COPIES and source in family:
                original[tensor] = original.get(source, source)
                family[tensor] = family[source]
            else:
                family[tensor] = next(iter(parents)) if alike else tensor

    inner: dict[str, set[bool]] = defaultdict(set)
    for node in nodes:
        if node.op_type not in _COPIES:
            for tensor in node.input:
                own = all(family[output] == family.get(tensor) for output in _outputs(node))
                inner[original.get(tensor, tensor)].add(own)
    for output in outputs:
        inner[original.get(output, output)].add(False)
    return {t: bool(inner[t]) and all(inner[t]) for t in family if t not in original}


def _costs(nodes: Sequence[NodeProto], dims: _Dims) -> dict[str, float]:
    costs = [
        _MULTIPLICATIONS[node.op_type](node, dims)
        if node.op_type in _MULTIPLICATIONS and node.output[0] in dims
        else 0
        for node in nodes
    ]
    total = sum(costs) or 1
    needs: dict[str, frozenset[int]] = {}  # a tensor's costly ancestors
    for index, (node, cost) in enumerate(zip(nodes, costs, strict=True)):
        own = frozenset([index] if cost else [])
        needed = own.union(*(needs.get(tensor, own) for tensor in node.input))
        needs |= dict.fromkeys(_outputs(node), needed)
    return {tensor: sum(costs[i] for i in needed) / total for tensor, needed in needs.items()}


def _convolution(node: NodeProto, dims: _Dims) -> int:
    return math.prod(dims[node.output[0]]) * math.prod(dims[node.input[1]][1:])


def _transposed(node: NodeProto, dims: _Dims) -> int:
    return math.prod(dims.get(node.input[0], (0,))) * math.prod(dims[node.input[1]][1:])


def _product(node: NodeProto, dims: _Dims) -> int:
    second = dims[node.input[1]]
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return math.prod(dims[node.output[0]]) * second[-1 if transposed or len(second) == 1 else -2]


_MULTIPLICATIONS = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
}
"""Multiplications of a node, by its type; all other types are cheap beside these."""
