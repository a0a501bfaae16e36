"""An ONNX file as a graph: find a tensor, and cut the graph there. Nothing is executed."""

import copy
import difflib
import graphlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from jaxdistill.config import Layout
from jaxdistill.runtime.errors import NetworkError, first_line
from jaxdistill.runtime.paths import expanded
from jaxdistill.teachers.network_format import CHANNEL_AXIS, ImageInput
from jaxdistill.teachers.onnx_file import external_tensors, read_model, subgraphs

INPUT_DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
}
"""Element types of an image input that we can feed, and their NumPy names."""


class Cut(NamedTuple):
    """A graph that computes certain tensors of a file and nothing else."""

    model: bytes
    """A whole ONNX model. Its external weights, if any, are still those in the file's folder."""
    input: ImageInput
    """The only input of the model."""


class OnnxGraph:
    """The graph of an ONNX file.

    Args:
      path: The file; `~` stands for the home folder.
      layout: Order of the image input's axes; None finds it from its shape.

    Raises:
      NetworkError: The file cannot be read or is not safe to use; see `onnx_file.read_model`.
    """

    def __init__(self, path: Path, layout: Layout | None = None) -> None:
        self.path, self.layout = expanded(path), layout
        self._model, self.fingerprint = read_model(self.path)
        """SHA-256, in hexadecimal, of the file and of its external weights."""
        _sort_nodes(self._model.graph)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the file's outputs, in its order."""
        return tuple(output.name for output in self._model.graph.output)

    def described(self) -> tuple[list[str], list[str]]:
        """Returns the inputs and the outputs in words: name, shape and type of each."""
        graph = self._model.graph
        defaults = {tensor.name for tensor in graph.initializer}
        inputs = [
            _describe(value) + (", which has a default" if value.name in defaults else "")
            for value in graph.input
        ]
        return inputs, list(map(_describe, graph.output))

    def with_layout(self, layout: Layout | None) -> "OnnxGraph":
        """Returns this graph, read with another order of the image input's axes."""
        other = copy.copy(self)
        other.layout = layout
        return other

    def image_nodes(self) -> list[NodeProto]:
        """Returns the nodes, in order, that depend on the image and on no other input.

        Raises:
          NetworkError: There is no image input, or more than one (`onnx-input`, `onnx-layout`).
        """
        graph = self._model.graph
        weights = {tensor.name for tensor in graph.initializer}
        weights |= {sparse.values.name for sparse in graph.sparse_initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        images = [value for value in inputs if _as_image(value, self.layout, declared=True)]
        reached = {self._image_input(images if len(images) == 1 else inputs).name}
        foreign = {value.name for value in inputs} - reached
        nodes = []
        for node in graph.node:
            if not foreign.isdisjoint(_reads(node)):
                foreign.update(filter(None, node.output))
            elif not reached.isdisjoint(_reads(node)):
                reached.update(filter(None, node.output))
                nodes.append(node)
        return nodes

    def cut(self, tensors: Sequence[str]) -> Cut:
        """Cuts the graph so that the given tensors are its only outputs.

        Args:
          tensors: Names of outputs or inner tensors.

        Returns:
          A model with no more than the nodes and weights that these tensors need.

        Raises:
          NetworkError: A tensor is not in the graph (`onnx-unknown-tensor`), the tensors depend on
            anything but one image (`onnx-input`, `onnx-layout`), or the cut graph breaks the rules
            of ONNX (`onnx-invalid`).
        """
        for tensor in tensors:
            self.check_tensor(tensor)
        graph = self._model.graph
        nodes, needed = _ancestors(graph, tensors)
        initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
        sparse = [tensor for tensor in graph.sparse_initializer if tensor.values.name in needed]
        inputs = [value for value in graph.input if value.name in needed]
        # Before version 4 of the format, weights were listed among the inputs too.
        weights = {tensor.name for tensor in initializers} | {t.values.name for t in sparse}
        image = self._image_input([value for value in inputs if value.name not in weights])

        model = helper.make_model(
            helper.make_graph(
                nodes,
                "cut",
                [_with_channels(v, image.layout) if v.name == image.name else v for v in inputs],
                # Without types: onnxruntime infers them.
                [helper.make_empty_tensor_value_info(name) for name in tensors],
                initializer=initializers,
                sparse_initializer=sparse,
                value_info=[value for value in graph.value_info if value.name in needed],
            ),
            ir_version=self._model.ir_version,
            opset_imports=self._model.opset_import,
            functions=self._model.functions,
        )
        content = model.SerializeToString()
        self._check(model)
        return Cut(content, image)

    def check_tensor(self, tensor: str) -> None:
        """Checks that a node of the graph computes a tensor of that name.

        Raises:
          NetworkError: None does (`onnx-unknown-tensor`); the message has the nearest names.
        """
        computed = [name for node in self._model.graph.node for name in node.output if name]
        if tensor in computed:
            return
        near = difflib.get_close_matches(tensor, computed, n=3, cutoff=0.4)
        hint = f"the nearest names are {_quote(near)}" if near else "no name is similar"
        raise NetworkError(
            f"{self.path}: there is no tensor {tensor!r}; {hint}; "
            f"the outputs are {_quote(self.outputs[:8])}",
            code="onnx-unknown-tensor",
        )

    def _image_input(self, inputs: Sequence[ValueInfoProto]) -> ImageInput:
        found = ", ".join(_describe(value) for value in inputs) or "none"
        if len(inputs) == 1 and (image := _as_image(inputs[0], self.layout)):
            return image
        if self.layout and len(inputs) == 1 and _as_image(inputs[0], None):
            raise NetworkError(
                f"{self.path}: layout is {self.layout}, but the image input is {found}; leave "
                f"layout out, or set the other one",
                code="onnx-layout",
            )
        raise NetworkError(
            f"{self.path}: expected one image, (N, 3, H, W) or (N, H, W, 3) of float32, float16 or "
            f"uint8, as the only input without a default of the tensors that are read; found "
            f"{found}",
            code="onnx-input",
        )

    def _check(self, model: ModelProto) -> None:
        """Runs ONNX's checker, which changes the model: it is of no other use afterwards.

        onnxruntime trusts its input more than is wise, so nothing reaches it unchecked. The checker
        demands types of outputs, whichever, and looks for external weights in the working
        directory, so both are replaced.
        """
        for output in model.graph.output:
            output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, []))
        for tensor in external_tensors(model):
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
        try:
            onnx.checker.check_model(model)
        except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
            raise NetworkError(
                f"{self.path}: breaks the rules of ONNX, export it again: {first_line(error)}",
                code="onnx-invalid",
            ) from None


def _ancestors(graph: GraphProto, tensors: Iterable[str]) -> tuple[list[NodeProto], set[str]]:
    """Returns the nodes that the tensors need, in order, and every name these read or compute."""
    needed = set(tensors)
    nodes = []
    for node in reversed(graph.node):  # in ONNX a node comes after those that it reads from
        if needed.intersection(filter(None, node.output)):
            nodes.append(node)
            needed.update(_reads(node))
    return nodes[::-1], needed


def _reads(node: NodeProto) -> Iterator[str]:
    """Yields what a node reads, with what its branches and loop bodies take from around them."""
    yield from node.input
    for graph in subgraphs(node):
        yield from (output.name for output in graph.output)
        for inner in graph.node:
            yield from _reads(inner)


def _sort_nodes(graph: GraphProto) -> None:
    """Puts nodes behind those that they read from, as ONNX demands and converters forget.

    onnxruntime sorts them too. A graph that is in order, or that has a circle, stays as it is.
    """
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    sources = {
        index: {maker[name] for name in _reads(node) if name in maker} - {index}
        for index, node in enumerate(graph.node)
    }
    if all(source < index for index, found in sources.items() for source in found):
        return
    try:
        order = list(graphlib.TopologicalSorter(sources).static_order())
    except graphlib.CycleError:
        return  # which the checker reports
    nodes = [NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _as_image(
    value: ValueInfoProto, layout: Layout | None, *, declared: bool = False
) -> ImageInput | None:
    """Returns None unless element type and shape of the input allow an image.

    Args:
      value: An input.
      layout: The order of its axes; None finds it from the shape.
      declared: Whether the file has to say that there are 3 channels.
    """
    tensor = value.type.tensor_type
    sides = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    if not tensor.HasField("shape"):
        sides = [None] * 4
    dtype = INPUT_DTYPES.get(tensor.elem_type)
    if dtype is None or len(sides) != 4:
        return None
    found: list[Layout] = [each for each, axis in CHANNEL_AXIS.items() if sides[axis] == 3]
    layout = layout or (found or ["nchw"])[0]
    channels = sides.pop(CHANNEL_AXIS[layout])
    # A free axis is that of the channels only where no other one is.
    if layout not in found and (declared or found or channels is not None):
        return None
    batch, height, width = sides
    return ImageInput(value.name, dtype, batch, height, width, layout)


def _with_channels(value: ValueInfoProto, layout: Layout) -> ValueInfoProto:
    """Returns an image input whose channel axis is 3, where the file leaves it free."""
    if _as_image(value, layout, declared=True):
        return value
    image = ValueInfoProto()
    image.CopyFrom(value)
    shape = image.type.tensor_type.shape
    while len(shape.dim) < 4:
        shape.dim.add()
    shape.dim[CHANNEL_AXIS[layout]].dim_value = 3
    return image


def _quote(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _describe(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    try:
        dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
    except ValueError:
        dtype = "unknown"
    sides = (str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim)
    return f"{value.name!r} ({', '.join(sides)}) of {dtype}"
