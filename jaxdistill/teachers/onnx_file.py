"""Reading an ONNX file that may come from anybody: parse it, find its external weights, hash it.

Nothing is executed. Weights beside the file (ONNX calls them external data) are never loaded here;
it is only checked that they lie in the file's own folder, so that a file from a stranger cannot
read others.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import NetworkError

MAX_PROTOBUF = 2**31 - 1
"""Bytes of the largest protobuf message, and so of an ONNX file without external weights."""


def read_model(path: Path) -> tuple[ModelProto, str]:
    """Reads an ONNX file without its external weights.

    Args:
      path: The ONNX file.

    Returns:
      The model, and the SHA-256, in hexadecimal, of the file and of its external weights.

    Raises:
      NetworkError: The file is missing (`onnx-unreadable`), too large (`onnx-too-large`), not an
        ONNX file or truncated (`onnx-damaged`), or its external weights lie outside its folder or
        are missing or too short (`onnx-external-weights`).
    """
    content = _read(path)
    model = _parse(content, path)
    return model, _fingerprint(content, _external_files(model, path))


def external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yields the tensors of a model whose values lie in other files."""
    return filter(uses_external_data, _tensors(model))


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yields the graphs inside a node: branches of an `If`, bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_PROTOBUF:
            raise NetworkError(
                f"{path}: larger than the 2 GB that an ONNX file can have; save it again with "
                "onnx.save(..., save_as_external_data=True)",
                code="onnx-too-large",
            )
        return files.read(path, MAX_PROTOBUF)
    except OSError as error:
        raise NetworkError(
            f"{path.absolute()}: cannot read the network: {error.strerror}", code="onnx-unreadable"
        ) from None


def _parse(content: bytes, path: Path) -> ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError):
        model = ModelProto()
    outputs = [output.name for output in model.graph.output]
    # protobuf returns bytes for a damaged name that is not UTF-8
    if not model.graph.node or not outputs or not all(isinstance(name, str) for name in outputs):
        raise NetworkError(
            f"{path}: not an ONNX file, or a truncated or damaged one; export or download it again",
            code="onnx-damaged",
        )
    return model


def _external_files(model: ModelProto, path: Path) -> list[Path]:
    """Returns the files with the model's external weights; each lies in the model's folder."""
    folder = path.parent.resolve()
    found = set()
    for tensor in external_tensors(model):
        try:
            info = ExternalDataInfo(tensor)
        except ValueError as error:
            raise _external(f"{path}: {error}; export it again") from None
        file = (folder / str(info.location)).resolve()  # str: a damaged location may be bytes
        if not file.is_relative_to(folder):
            raise _external(
                f"{path}: the weights {tensor.name!r} would be read from {info.location!r}, which "
                "lies outside the file's folder; move them beside the file"
            )
        if not file.is_file():
            raise _external(
                f"{path}: the weights {tensor.name!r} should be in {file}, which does not exist; "
                "copy that file beside the network"
            )
        if (info.offset or 0) + (info.length or 0) > file.stat().st_size:
            raise _external(f"{file}: too short for the weights of {path.name}; copy it again")
        found.add(file)
    return sorted(found)


def _external(message: str) -> NetworkError:
    return NetworkError(message, code="onnx-external-weights")


def _fingerprint(content: bytes, external: Iterable[Path]) -> str:
    digest = hashlib.sha256(content)
    for file in external:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yields every constant tensor of a model, at any depth."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for graph in subgraphs(node):
            yield from _of_graph(graph)
