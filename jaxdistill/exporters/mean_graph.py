"""The mean of several exported networks, as one ONNX graph.

Every member is an ONNX file of our export. The graph resizes the image to each member's size, and
the probabilities back, so that one network can be a member at several sizes. A mirrored member sees
the image flipped left to right, and its mask is flipped back. Weights that members have in common
are stored once.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from jaxdistill.config import Size
from jaxdistill.data import image_ops
from jaxdistill.exporters.onnx_graph import OPSET, Form, complete_model
from jaxdistill.runtime.errors import ConfigError, NetworkError
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_metadata import OnnxMetadata, read_metadata

Input = Literal["unit", "uint8"]
_MEMBERS = re.compile(r"^(member\.\d+/)+")
"""What a mean puts before a member's names; a mean can be a member too."""


class Member(NamedTuple):
    """A network of which the mean is taken."""

    path: Path
    """The file."""
    mirrored: bool
    """Whether it sees the image flipped left to right."""
    model: onnx.ModelProto
    """The graph, with the input `image` and one output."""
    metadata: OnnxMetadata
    """What the file says of itself."""
    size: Size | None
    """Height and width of its input; None: both are free."""

    @property
    def logits(self) -> bool:
        """Whether it returns logits instead of probabilities."""
        return self.metadata.description["output"] == "logits"

    @property
    def normalization(self) -> image_ops.Normalization:
        """What it expects of pixels in [0, 1]."""
        return image_ops.resolve(self.metadata.input_normalization)


def read_member(path: Path, *, mirrored: bool = False) -> Member:
    """Reads a file that `export` wrote.

    Args:
      path: The file.
      mirrored: See `Member.mirrored`.

    Returns:
      The member.

    Raises:
      NetworkError: The file cannot be read (see `OnnxGraph`), another program wrote it, or its
        input is of bytes (`not-a-member`).
    """
    graph = OnnxGraph(path)
    metadata = read_metadata(graph.path)
    if metadata is None or metadata.takes_bytes:
        wrong = "jaxdistill did not export it" if metadata is None else "its input is of bytes"
        raise NetworkError(
            f"{path}: {wrong}; expected a file of `jaxdistill export RUN FILE.onnx`, with another "
            f"input than uint8",
            code="not-a-member",
        )
    content, image = graph.cut(graph.outputs[:1])
    size = (image.height, image.width) if image.height and image.width else None
    return Member(graph.path, mirrored, onnx.load_from_string(content), metadata, size)


def mean_size(members: Sequence[Member], size: Size | None = None) -> Size:
    """Returns height and width of a mean's input.

    Args:
      members: The members.
      size: The size that was asked for; None: that of the largest member.

    Raises:
      ConfigError: No member has a fixed size, and none was asked for (`mean-size`).
    """
    fixed = [member.size for member in members if member.size]
    if size is None and not fixed:
        raise ConfigError(
            "height and width of all members are free; say which the mean has (--size H W)",
            code="mean-size",
        )
    return size or max(fixed, key=lambda one: one[0] * one[1])


def mean_graph(members: Sequence[Member], size: Size, form: Input = "unit") -> onnx.ModelProto:
    """Builds the graph of the members' mean probabilities.

    Args:
      members: The members, two or more.
      size: Height and width of the input and of the output.
      form: `unit`: `image` is float32 (N, 3, H, W) in [0, 1]; `uint8`: (N, H, W, 3), as images are
        decoded.

    Returns:
      The model, with the output `mask` (N, 1, H, W), checked by ONNX's own checker.

    Raises:
      ConfigError: A member was exported for another version of ONNX (`member-versions`), or a
        member of free size cannot have this one (`mean-size`).
    """
    for member in members:
        versions = {each.domain: each.version for each in member.model.opset_import}
        if versions != {"": OPSET}:
            raise ConfigError(
                f"{member.path}: it does not use version {OPSET} of ONNX's operators; export it "
                f"again, with this version of jaxdistill",
                code="member-versions",
            )
    graph, image = _Graph(), "image"
    if form == "uint8":
        image = graph.node("Transpose", "image/nchw", [image], perm=[0, 3, 1, 2])
        image = graph.node("Cast", "image/float32", [image], to=TensorProto.FLOAT)
        image = graph.node("Div", "image/unit", [image, graph.constant("white", np.float32(255))])
    total = ""
    for number, member in enumerate(members):
        probabilities = _add_member(graph, member, f"member.{number}", image, size)
        total = (
            graph.node("Add", f"sum.{number}", [total, probabilities]) if total else probabilities
        )
    share = graph.constant("share", np.float32(1 / len(members)))
    graph.nodes.append(helper.make_node("Mul", [total, share], ["mask"], "mask"))
    try:
        return complete_model(graph.nodes, list(graph.constants.values()), Form(form, True, size))
    except onnx.shape_inference.InferenceError:
        raise ConfigError(
            "a member whose height and width are free cannot have those of the mean, "
            f"{size[0]} x {size[1]}; its model card says of what number they are multiples",
            code="mean-size",
        ) from None


class _Graph:
    """Nodes, and constants, which are stored once for each name and content."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[object, ...], TensorProto] = {}

    def node(self, operation: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operation, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        return self.tensor(numpy_helper.from_array(np.asarray(value), name), name)

    def tensor(self, tensor: TensorProto, own_name: str) -> str:
        content = numpy_helper.to_array(tensor).tobytes()
        key = (own_name, tensor.data_type, tuple(tensor.dims), content)
        return self.constants.setdefault(key, tensor).name


def _add_member(graph: _Graph, member: Member, name: str, image: str, size: Size) -> str:
    """Adds a member's nodes, and returns the name of its probabilities at the mean's size."""
    x, own = image, member.size or size
    if own != size:
        x = _resize(graph, x, f"{name}/resized", size, own)
    if member.mirrored:
        x = _mirror(graph, x, f"{name}/mirrored")
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in member.normalization)
    if mean.any():
        x = graph.node("Sub", f"{name}/centred", [x, graph.constant(f"{name}/mean", mean)])
    if (std != 1).any():
        x = graph.node("Div", f"{name}/normalized", [x, graph.constant(f"{name}/std", std)])
    model = compose.add_prefix(member.model, f"{name}/")
    renamed = {
        tensor.name: graph.tensor(tensor, _MEMBERS.sub("", tensor.name))
        for tensor in model.graph.initializer
    }
    renamed[model.graph.input[0].name] = x
    for node in model.graph.node:
        node.input[:] = [renamed.get(each, each) for each in node.input]
    graph.nodes.extend(model.graph.node)
    x = model.graph.output[0].name
    if member.logits:
        x = graph.node("Sigmoid", f"{name}/probabilities", [x])
    if member.mirrored:
        x = _mirror(graph, x, f"{name}/mirrored_back")
    return x if own == size else _resize(graph, x, f"{name}/enlarged", own, size)


def _resize(graph: _Graph, x: str, name: str, old: Size, new: Size) -> str:
    """Adds a bilinear interpolation between positions, which are centres of squares."""
    factors = np.ones(4, np.float32)
    for axis, (before, after) in enumerate(zip(old, new, strict=True), start=2):
        factor = np.float32(after / before)
        # Runtimes round the product of a size and its factor down; ONNX computes it in float64.
        while int(before * float(factor)) < after:
            factor = np.nextafter(factor, np.float32(np.inf))
        factors[axis] = factor
    return graph.node(
        "Resize",
        name,
        [x, "", graph.constant(f"{name}/factors", factors)],
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def _mirror(graph: _Graph, x: str, name: str) -> str:
    """Adds a flip from left to right."""
    ends = {"starts": -1, "ends": np.iinfo(np.int64).min, "axes": 3, "steps": -1}
    inputs = [graph.constant(f"mirror/{key}", np.array([value])) for key, value in ends.items()]
    return graph.node("Slice", name, [x, *inputs])
