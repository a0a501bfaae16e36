"""An ONNX file as a graph: read it safely, find a tensor, cut there, fingerprint the file.

Nothing is executed here, and weights kept beside the file are never loaded: only their place is
checked, so that a file from a stranger cannot reach outside its own folder.
"""

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import UserError, first_line

PICTURE_TYPES: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
LARGEST_PROTOBUF = 2**31 - 1


class Picture(NamedTuple):
    """A network's input (N, 3, H, W); None where the file leaves a side free."""

    name: str
    dtype: str
    batch: int | None
    height: int | None
    width: int | None


class Cut(NamedTuple):
    """A graph that computes certain tensors of a file and nothing else."""

    model: bytes
    """A whole ONNX model; weights beside the file are still to be found in the file's folder."""
    picture: Picture


class OnnxGraph:
    """A file's graph.

    Raises:
      UserError: the file is missing, is no ONNX file, is truncated, or names weights that lie
        outside its folder or are not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        content = _read(self.path)
        self._model = _parse(content, self.path)
        self.fingerprint = _fingerprint(content, _weights_beside(self._model, self.path))
        """SHA-256, in hexadecimal, of the file and of the weights beside it."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the file's own outputs, in its order."""
        return tuple(output.name for output in self._model.graph.output)

    def nodes_of_picture(self) -> list[NodeProto]:
        """The nodes, in order, that depend on the one picture and on no other input.

        Raises:
          UserError: there is no picture (N, 3, H, W) of float32 or float16, or more than one.
        """
        graph = self._model.graph
        weights = {t.name for t in graph.initializer}
        weights |= {t.values.name for t in graph.sparse_initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        pictures = [value for value in inputs if _as_picture(value)]
        fed = {self._picture(pictures if len(pictures) == 1 else inputs).name}
        foreign = {value.name for value in inputs} - fed
        nodes = []
        for node in graph.node:
            if not foreign.isdisjoint(_reads(node)):
                foreign.update(filter(None, node.output))
            elif not fed.isdisjoint(_reads(node)):
                fed.update(filter(None, node.output))
                nodes.append(node)
        return nodes

    def whole(self) -> bytes:
        """The file's graph as it is, serialized.

        Raises:
          UserError: it breaks ONNX's rules, or has weights beside it.
        """
        if any(map(uses_external_data, _tensors(self._model))):
            raise UserError(f"{self.path}: expected its weights in the file itself")
        content = self._model.SerializeToString()
        self._check(ModelProto.FromString(content))
        return content

    def cut(self, tensors: Sequence[str]) -> Cut:
        """Keeps what the tensors (outputs or inner ones) need, and makes them the only outputs.

        Raises:
          UserError: a tensor is not in the graph; the tensors depend on anything but one picture
            (N, 3, H, W) of float32 or float16; what is kept breaks ONNX's rules.
        """
        for tensor in tensors:
            self._find(tensor)
        graph = self._model.graph
        nodes, needed = _ancestors(graph, tensors)
        initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
        sparse = [tensor for tensor in graph.sparse_initializer if tensor.values.name in needed]
        inputs = [value for value in graph.input if value.name in needed]
        # Before version 4 of the format, weights stood among the inputs too.
        weights = {tensor.name for tensor in initializers} | {t.values.name for t in sparse}
        picture = self._picture([value for value in inputs if value.name not in weights])

        model = helper.make_model(
            helper.make_graph(
                nodes,
                "cut",
                inputs,
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
        return Cut(content, picture)

    def _find(self, tensor: str) -> None:
        computed = [name for node in self._model.graph.node for name in node.output if name]
        if tensor in computed:
            return
        near = difflib.get_close_matches(tensor, computed, n=3, cutoff=0.4)
        hint = f"the nearest names are {_quote(near)}" if near else "no name is like it"
        raise UserError(
            f"{self.path}: no tensor is named {tensor!r}; {hint}; "
            f"the outputs are {_quote(self.outputs[:8])}"
        )

    def _picture(self, inputs: Sequence[ValueInfoProto]) -> Picture:
        found = ", ".join(_describe(value) for value in inputs) or "none"
        if len(inputs) == 1 and (picture := _as_picture(inputs[0])):
            return picture
        raise UserError(
            f"{self.path}: expected one picture (N, 3, H, W) of float32 or float16 as the only "
            f"input of the tensors that are read; found {found}"
        )

    def _check(self, model: ModelProto) -> None:
        """onnxruntime trusts its input more than is wise: nothing unchecked gets there.

        The checker wants types of outputs, whichever, and looks for weights outside the file in
        the working directory; so the model is filled in, and is of no other use afterwards.
        """
        for output in model.graph.output:
            output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, []))
        for tensor in filter(uses_external_data, _tensors(model)):
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
        try:
            onnx.checker.check_model(model)
        except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.path}: breaks the rules of ONNX, export it again: {first_line(error)}"
            ) from None


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_PROTOBUF:
            raise UserError(
                f"{path}: larger than the 2 GB that an ONNX file can have; save it anew with "
                "onnx.save(..., save_as_external_data=True)"
            )
        return files.read(path, LARGEST_PROTOBUF)
    except OSError as error:
        raise UserError(f"cannot read the network {path.absolute()}: {error.strerror}") from None


def _parse(content: bytes, path: Path) -> ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError):
        model = ModelProto()
    outputs = [output.name for output in model.graph.output]
    # protobuf gives bytes where a damaged name is not UTF-8
    if not model.graph.node or not outputs or not all(isinstance(name, str) for name in outputs):
        raise UserError(
            f"{path}: not an ONNX file, or a truncated or damaged one; export or download it again"
        )
    return model


def _weights_beside(model: ModelProto, path: Path) -> list[Path]:
    """The files that hold the model's external data, each proven to lie in the model's folder."""
    folder = path.parent.resolve()
    files = set()
    for tensor in filter(uses_external_data, _tensors(model)):
        try:
            info = ExternalDataInfo(tensor)
        except ValueError as error:
            raise UserError(f"{path}: {error}; export it again") from None
        file = (folder / str(info.location)).resolve()  # str: see _parse
        if not file.is_relative_to(folder):
            raise UserError(
                f"{path}: the weights {tensor.name!r} would be read from {info.location!r}, which "
                "lies outside the file's folder; put them beside the file"
            )
        if not file.is_file():
            raise UserError(
                f"{path}: the weights {tensor.name!r} should lie in {file}, which is not there; "
                "copy it beside the network"
            )
        if (info.offset or 0) + (info.length or 0) > file.stat().st_size:
            raise UserError(f"{file}: too short for the weights of {path.name}; copy it again")
        files.add(file)
    return sorted(files)


def _fingerprint(content: bytes, weights: Iterable[Path]) -> str:
    digest = hashlib.sha256(content)
    for file in weights:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _ancestors(graph: GraphProto, tensors: Iterable[str]) -> tuple[list[NodeProto], set[str]]:
    """The nodes that the tensors need, in order, and every name that those read or give."""
    needed = set(tensors)
    nodes = []
    for node in reversed(graph.node):  # in ONNX a node stands after those that it reads from
        if needed.intersection(filter(None, node.output)):
            nodes.append(node)
            needed.update(_reads(node))
    return nodes[::-1], needed


def _reads(node: NodeProto) -> Iterator[str]:
    """What a node reads, including what its branches and loop bodies take from around them."""
    yield from node.input
    for graph in _subgraphs(node):
        yield from (output.name for output in graph.output)
        for inner in graph.node:
            yield from _reads(inner)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant tensor of a model, wherever it stands."""

    def of_graph(graph: GraphProto) -> Iterator[TensorProto]:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from of_nodes(graph.node)

    def of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
        for node in nodes:
            for attribute in node.attribute:
                yield attribute.t
                yield from attribute.tensors
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
            for graph in _subgraphs(node):
                yield from of_graph(graph)

    yield from of_graph(model.graph)
    for function in model.functions:
        yield from of_nodes(function.node)


def _as_picture(value: ValueInfoProto) -> Picture | None:
    """None unless it is float32 or float16 of shape (N, 3, H, W); a free side is None."""
    tensor = value.type.tensor_type
    sides = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    dtype = PICTURE_TYPES.get(tensor.elem_type)
    if dtype is None or len(sides) != 4 or sides[1] != 3:
        return None
    batch, _, height, width = sides
    return Picture(value.name, dtype, batch, height, width)


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
