"""An ONNX file as a graph: find a tensor, and cut the graph there. Nothing is executed."""

import difflib
import graphlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from jaxdistill.runtime.errors import NetworkError, first_line
from jaxdistill.teachers.onnx_file import external_tensors, read_model, subgraphs

INPUT_DTYPES: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
"""Element types of an image input that we can feed, and their NumPy names."""


class ImageInput(NamedTuple):
    """The image input (N, 3, H, W) of a network; None where the file leaves a dimension free.

    A free channel axis is 3: some exporters leave every axis free, or write no shape at all.
    """

    name: str
    dtype: str
    """`float32` or `float16`."""
    batch: int | None
    height: int | None
    width: int | None


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

    Raises:
      NetworkError: The file cannot be read or is not safe to use; see `onnx_file.read_model`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self._model, self.fingerprint = read_model(self.path)
        """SHA-256, in hexadecimal, of the file and of its external weights."""
        _sort_nodes(self._model.graph)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the file's outputs, in its order."""
        return tuple(output.name for output in self._model.graph.output)

    def image_nodes(self) -> list[NodeProto]:
        """Returns the nodes, in order, that depend on the image and on no other input.

        Raises:
          NetworkError: There is no image input (N, 3, H, W) of float32 or float16, or more than one
            (`onnx-input`).
        """
        graph = self._model.graph
        weights = {tensor.name for tensor in graph.initializer}
        weights |= {sparse.values.name for sparse in graph.sparse_initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        images = [value for value in inputs if _as_image(value, declared=True)]
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

    def whole(self) -> bytes:
        """Returns the file's graph as it is, serialized.

        Raises:
          NetworkError: The graph breaks the rules of ONNX (`onnx-invalid`), or has external weights
            (`onnx-external-weights`).
        """
        if next(external_tensors(self._model), None) is not None:
            raise NetworkError(
                f"{self.path}: expected the weights in the file itself; save it again without "
                "external data",
                code="onnx-external-weights",
            )
        content = self._model.SerializeToString()
        self._check(ModelProto.FromString(content))
        return content

    def cut(self, tensors: Sequence[str]) -> Cut:
        """Cuts the graph so that the given tensors are its only outputs.

        Args:
          tensors: Names of outputs or inner tensors.

        Returns:
          A model with no more than the nodes and weights that these tensors need.

        Raises:
          NetworkError: A tensor is not in the graph (`onnx-unknown-tensor`), the tensors depend on
            anything but one image (N, 3, H, W) of float32 or float16 (`onnx-input`), or the cut
            graph breaks the rules of ONNX (`onnx-invalid`).
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
                [_with_channels(value) if value.name == image.name else value for value in inputs],
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
        if len(inputs) == 1 and (image := _as_image(inputs[0])):
            return image
        raise NetworkError(
            f"{self.path}: expected one image (N, 3, H, W) of float32 or float16 as the only "
            f"input of the tensors that are read; found {found}",
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


def _as_image(value: ValueInfoProto, *, declared: bool = False) -> ImageInput | None:
    """Returns None unless the input is float32 or float16, and its shape allows (N, 3, H, W).

    Args:
      value: An input.
      declared: Whether the file has to say that there are 3 channels.
    """
    tensor = value.type.tensor_type
    sides = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    if not tensor.HasField("shape"):
        sides = [None] * 4
    dtype = INPUT_DTYPES.get(tensor.elem_type)
    if dtype is None or len(sides) != 4:
        return None
    is_free = sides[1] is None and sides[3] != 3  # which would be (N, H, W, 3)
    if sides[1] != 3 and (declared or not is_free):
        return None
    batch, _, height, width = sides
    return ImageInput(value.name, dtype, batch, height, width)


def _with_channels(value: ValueInfoProto) -> ValueInfoProto:
    """Returns an image input whose channel axis is 3, where the file leaves it free."""
    if _as_image(value, declared=True):
        return value
    image = ValueInfoProto()
    image.CopyFrom(value)
    shape = image.type.tensor_type.shape
    while len(shape.dim) < 4:
        shape.dim.add()
    shape.dim[1].dim_value = 3
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
