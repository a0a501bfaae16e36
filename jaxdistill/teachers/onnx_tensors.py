"""What there is to read in a network: its maps, their sizes, and what it costs to compute them."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, helper

from jaxdistill.config import Size
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import (
    FLOATS,
    PATIENCE,
    cannot_run,
    input_size,
    open_session,
    within,
)

_SAME = {"Cast", "Dropout", "Identity"}
"""Operators that give what they are given."""
_POINTWISE = {
    *("Abs", "BatchNormalization", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "PRelu", "Relu", "Selu", "Sigmoid"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
    *("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"),
}
"""Operators that work on every value by itself."""

Dims = Mapping[str, tuple[int, ...]]


class Map(NamedTuple):
    """A tensor of shape (N, C, h, w), for pictures of one size."""

    tensor: str
    operator: str
    """Of the node that gives it, such as `Concat`."""
    height: int
    width: int
    channels: int
    share: float
    """Of the whole network's multiplications, those that computing it takes."""
    inside: bool
    """Whether only an activation reads it, or a normalisation, whose result says what it says."""


def maps(graph: OnnxGraph, size: Size | None, image_size: Size) -> list[Map]:
    """All maps of floats that depend on the picture alone, in the order of computation.

    What merely repeats another tensor, a cast for example, is left out. The sizes are those that
    onnxruntime finds when it runs: it gives the shapes alone, so no map outlives its use.

    Args:
      size, image_size: as `OnnxNetwork` takes them.

    Raises:
      UserError: whatever `OnnxGraph.cut` and `OnnxNetwork` find wrong with a file.
    """
    nodes = graph.nodes_of_picture()
    dims, batch = _dims(graph, nodes, size, image_size)
    shares = _shares(nodes, dims)
    inside = _inside(nodes, graph.outputs)
    found = []
    for node in nodes:
        for tensor in filter(inside.__contains__, _gives(node)):
            if len(dims.get(tensor, ())) == 4 and dims[tensor][0] == batch:
                _, channels, height, width = dims[tensor]
                about = (shares[tensor], inside[tensor])
                found.append(Map(tensor, node.op_type, height, width, channels, *about))
    return found


def _gives(node: NodeProto) -> Iterator[str]:
    return filter(None, node.output)


def _dims(
    graph: OnnxGraph, nodes: Sequence[NodeProto], size: Size | None, image_size: Size
) -> tuple[Dims, int]:
    """The shapes of the nodes' floating-point results and of their second operands; the batch."""
    cut = graph.cut([tensor for node in nodes for tensor in _gives(node)])
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

    batch = cut.picture.batch or 1
    height, width = input_size(graph.path, cut.picture, size, image_size)
    blank = np.zeros((batch, 3, height, width), cut.picture.dtype)
    try:
        with within(PATIENCE) as options:
            shapes = session.run(None, {cut.picture.name: blank}, options)
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise cannot_run(graph.path, (height, width), error) from None
    return {t: tuple(map(int, dims)) for t, dims in zip(wanted, shapes, strict=True)}, batch


def _inside(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> dict[str, bool]:
    """For every tensor that repeats no other: is it read by pointwise functions of itself alone?

    Tensors that come from one another by pointwise functions are a family; of a convolution, its
    sigmoid, and the product of the two, only the product is read by others.
    """
    original: dict[str, str] = {}
    family: dict[str, str] = {}
    for node in nodes:
        parents = {family[t] for t in node.input if t in family}
        alike = node.op_type in _POINTWISE and len(parents) == 1
        for tensor in _gives(node):
            source = next(iter(node.input), "")
            if node.op_type in _SAME and source in family:
                original[tensor] = original.get(source, source)
                family[tensor] = family[source]
            else:
                family[tensor] = next(iter(parents)) if alike else tensor

    inner: dict[str, set[bool]] = defaultdict(set)
    for node in nodes:
        if node.op_type not in _SAME:
            for tensor in node.input:
                own = all(family[given] == family.get(tensor) for given in _gives(node))
                inner[original.get(tensor, tensor)].add(own)
    for output in outputs:
        inner[original.get(output, output)].add(False)
    return {t: bool(inner[t]) and all(inner[t]) for t in family if t not in original}


def _shares(nodes: Sequence[NodeProto], dims: Dims) -> dict[str, float]:
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
        needs |= dict.fromkeys(_gives(node), needed)
    return {tensor: sum(costs[i] for i in needed) / total for tensor, needed in needs.items()}


def _convolution(node: NodeProto, dims: Dims) -> int:
    return math.prod(dims[node.output[0]]) * math.prod(dims[node.input[1]][1:])


def _transposed(node: NodeProto, dims: Dims) -> int:
    return math.prod(dims.get(node.input[0], (0,))) * math.prod(dims[node.input[1]][1:])


def _product(node: NodeProto, dims: Dims) -> int:
    second = dims[node.input[1]]
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return math.prod(dims[node.output[0]]) * second[-1 if transposed or len(second) == 1 else -2]


_MULTIPLICATIONS = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
}
"""How many a node takes; all else is cheap beside them."""
