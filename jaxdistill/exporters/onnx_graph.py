"""Builds an ONNX graph by calling a student with a symbolic tensor.

Each layer adds its own nodes, by `to_onnx` of its class in `models/layers/`. BatchNorms are folded
into the convolutions before them. Nodes are named after the modules: `encoder/blocks.1.0/conv_dw`
is the node of the layer `encoder.blocks.1.0.conv_dw`, and a tensor has the name of the node that
computes it.
"""

import traceback
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from flax import nnx
from onnx import TensorProto, helper, numpy_helper

from jaxdistill.config import Size
from jaxdistill.data import image_ops
from jaxdistill.data.image_ops import Normalization
from jaxdistill.exporters.registry import Input
from jaxdistill.models.parameters import dotted
from jaxdistill.models.student import Student, without_projectors
from jaxdistill.models.symbolic import SymbolicTensor
from jaxdistill.runtime.errors import ExportError, UserError, first_line

# The oldest versions that the graph allows, for runtimes other than onnxruntime.
OPSET, IR_VERSION = 17, 8

Float = Literal["float32", "float16"]


class Form(NamedTuple):
    """Input and output of a graph."""

    input: Input = "normalized"
    """See `Options.input`."""
    sigmoid: bool = False
    """Whether the output is `mask`, probabilities, instead of `logits`; both are float32
    (N, 1, H, W)."""
    size: Size | None = None
    """Height and width; None: both are free, in multiples of the student's largest stride."""

    @property
    def output(self) -> str:
        """Name of the output."""
        return "mask" if self.sigmoid else "logits"


def student_graph(student: Student, form: Form, compute: Float = "float32") -> onnx.ModelProto:
    """Builds the graph of a student's masks.

    Args:
      student: The student; projectors are left out.
      form: Input and output of the graph.
      compute: Number format of weights and arithmetic.

    Returns:
      The model, with inferred shapes, checked by ONNX's own checker.

    Raises:
      ExportError: A module has no ONNX form (`no-onnx-form`).
    """
    student = without_projectors(student)
    graph = OnnxGraphBuilder(student, compute)
    x = _normalize(graph, student.normalization, form.input)
    if compute == "float16":
        x = graph.node("Cast", "image/float16", [x], to=TensorProto.FLOAT16)
    logits = _trace(student, graph, x)
    if compute == "float16":
        logits = graph.node("Cast", "head/float32", [logits], to=TensorProto.FLOAT)
    if form.sigmoid:
        graph.node("Sigmoid", "head/sigmoid", [logits])
    graph.rename_last(form.output)
    return complete_model(graph.nodes, list(graph.constants.values()), form)


class OnnxGraphBuilder:
    """Collects the nodes and weights of a graph, in the order in which they are added.

    Implements `models.symbolic.GraphBuilder`.

    Args:
      module: The network whose modules the nodes are named after.
      compute: Number format of the weights.
    """

    def __init__(self, module: nnx.Module, compute: Float = "float32") -> None:
        self.compute = compute
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._module = module  # keeps the ids valid
        self._paths = {id(part): dotted(path) for path, part in nnx.iter_modules(module)}
        self._names: set[str] = set()

    def node(self, operation: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node and returns the name of its output; see `GraphBuilder.node`."""
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        self.nodes.append(helper.make_node(operation, inputs, [unique], unique, **attributes))
        return unique

    def weight(self, name: str, value: np.ndarray) -> str:
        """Adds a constant in the number format of the graph; see `GraphBuilder.weight`."""
        return self.constant(name, value.astype(self.compute))

    def constant(self, name: str, value: np.ndarray) -> str:
        """Adds a constant, once for each name; see `GraphBuilder.constant`."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def path(self, module: nnx.Module) -> str:
        """Returns the dotted path of a module; see `GraphBuilder.path`."""
        return self._paths[id(module)]

    def innermost(self, error: BaseException) -> str:
        """Returns the path of the innermost module whose method was running at an error."""
        path = ""
        for frame, _ in traceback.walk_tb(error.__traceback__):
            path = self._paths.get(id(frame.f_locals.get("self")), path)
        return path

    def rename_last(self, output: str) -> None:
        """Changes the name of the last node's output."""
        self.nodes[-1].output[0] = output


def _trace(student: Student, graph: OnnxGraphBuilder, image: str) -> str:
    """Calls the student with the normalised image, and returns the name of the logits."""
    x: Any = SymbolicTensor(graph, image)
    try:
        features = student.encoder(x, train=False)
        logits: Any = student(x, train=False, encoder_features=features).logits
        return logits.name
    except UserError:
        raise
    except Exception as error:  # whatever a function of arrays raises for a symbolic tensor
        raise ExportError(
            f"{graph.innermost(error) or 'student'}: this module has no ONNX form "
            f"({type(error).__name__}: {first_line(error)}); use the functions of "
            f"jaxdistill.models.functional instead of JAX's, or derive the layer from "
            f"jaxdistill.models.layers.Layer and define to_onnx",
            code="no-onnx-form",
        ) from error


def _normalize(graph: OnnxGraphBuilder, normalization: Normalization, form: Input) -> str:
    """Adds the normalisation in front of the first convolution.

    It cannot be folded into the convolution, which pads with zeros: these are the mean colour for
    the student, but would be black for a kernel that normalises too.
    """
    x, by_caller = "image", caller_normalization(form, normalization)
    if by_caller == normalization:
        return x
    if by_caller is not None:
        # x is (pixels - by_caller.mean) / by_caller.std; the result (pixels - mean) / std.
        own_mean, own_std, mean, std = (
            np.array(values).reshape(1, 3, 1, 1) for values in (*by_caller, *normalization)
        )
        factor = graph.constant("factor", (own_std / std).astype("float32"))
        shift = graph.constant("shift", ((own_mean - mean) / std).astype("float32"))
        x = graph.node("Mul", "image/scaled", [x, factor])
        return graph.node("Add", "image/normalized", [x, shift])
    white = 1.0
    if form == "uint8":
        x = graph.node("Transpose", "image/nchw", [x], perm=[0, 3, 1, 2])
        x = graph.node("Cast", "image/float32", [x], to=TensorProto.FLOAT)
        white = 255.0
    mean, std = (white * np.array(values).reshape(1, 3, 1, 1) for values in normalization)
    if mean.any():
        name = graph.constant("mean", mean.astype("float32"))
        x = graph.node("Sub", "image/centred", [x, name])
    if (std != 1).any():
        name = graph.constant("std", std.astype("float32"))
        x = graph.node("Div", "image/normalized", [x, name])
    return x


def caller_normalization(form: Input, normalization: Normalization) -> Normalization | None:
    """Returns how a caller normalises pixels in [0, 1] for a graph.

    Args:
      form: Input of the graph.
      normalization: What the student expects.

    Returns:
      Mean and deviation; None: the graph normalises.
    """
    if form == "imagenet":
        return image_ops.resolve("imagenet")
    return normalization if form == "normalized" else None


def complete_model(
    nodes: Sequence[onnx.NodeProto], constants: Sequence[TensorProto], form: Form
) -> onnx.ModelProto:
    """Builds a model from the nodes between the input `image` and the output.

    Args:
      nodes: The nodes, in an order in which they can be computed.
      constants: Their weights and other constants.
      form: Input and output of the graph.

    Returns:
      The model, with inferred shapes, checked by ONNX's own checker.

    Raises:
      onnx.shape_inference.InferenceError: The shapes of tensors do not fit together.
    """
    height, width = form.size or ("height", "width")
    if form.input == "uint8":
        shape: list[str | int] = ["batch", height, width, 3]
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, shape)
    else:
        shape = ["batch", 3, height, width]
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    output = helper.make_tensor_value_info(
        form.output, TensorProto.FLOAT, ["batch", 1, height, width]
    )
    model = helper.make_model(
        helper.make_graph(nodes, "student", [image], [output], constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    # The shapes of inner tensors help people who open the file in a viewer.
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model
