"""The student as an ONNX graph, written directly: what is needed for the mask and nothing else.

BatchNorms are folded into their convolutions. Tensors are named after the node that gives them,
and nodes after the student's variables: `encoder/blocks.1.0/conv_dw` holds
`encoder.blocks.1.0.conv_dw`. Height and width have to be multiples of 32, the encoder's largest
stride.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jaxdistill.config import Size
from jaxdistill.data.image_ops import Normalization
from jaxdistill.models.decoders.unet import UnetDecoder, UpBlock
from jaxdistill.models.encoders.efficientnet import (
    TAPPED_STAGES,
    DepthwiseSeparable,
    EfficientNet,
    InvertedResidual,
    SqueezeExcite,
)
from jaxdistill.models.layers import Activation, BatchNorm, Conv, relu, relu6, silu
from jaxdistill.models.student import Student

OPSET, IR_VERSION = 17, 8  # as old as the graph allows, for the sake of runtimes other than ours

Input = Literal["normalized", "unit", "uint8"]
Float = Literal["float32", "float16"]


class Form(NamedTuple):
    """How the student meets the world."""

    input: Input = "normalized"
    """`normalized`: float32 (N, 3, H, W) as the encoder expects it. `unit`: float32 (N, 3, H, W) in
    [0, 1]. `uint8`: (N, H, W, 3), as pictures are decoded. Always RGB."""
    sigmoid: bool = False
    """The output is `mask`, probabilities, rather than `logits`; float32 (N, 1, H, W) both."""
    size: Size | None = None
    """Height and width; None leaves them free."""

    @property
    def output(self) -> str:
        return "mask" if self.sigmoid else "logits"


def student_graph(student: Student, form: Form, compute: Float = "float32") -> onnx.ModelProto:
    """The whole model, checked by ONNX's own checker; weights and arithmetic are of `compute`."""
    graph = Graph(compute)
    x = _normalize(graph, student.normalization, form.input)
    if compute == "float16":
        x = graph.node("Cast", "image/float16", x, to=TensorProto.FLOAT16)
    taps = _encode(graph, student.encoder, x)
    x = _decode(graph, student.decoder, taps)
    x = graph.conv("head", student.head, x)
    if compute == "float16":
        x = graph.node("Cast", "head/float32", x, to=TensorProto.FLOAT)
    if form.sigmoid:
        x = graph.node("Sigmoid", "head/sigmoid", x)
    graph.rename_last(form.output)
    return _model(graph, student, form)


class Graph:
    """Nodes and weights, in the order in which they are drawn."""

    def __init__(self, compute: Float) -> None:
        self.compute = compute
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its only output, which is the node's."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def rename_last(self, output: str) -> None:
        self.nodes[-1].output[0] = output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name: str, value: np.ndarray) -> str:
        return self.constant(name, value.astype(self.compute))

    def conv(self, name: str, conv: Conv, x: str, norm: BatchNorm | None = None) -> str:
        kernel, bias = _fold(conv, norm)
        variable = name.replace("/", ".")
        inputs = [x, self.weight(f"{variable}.weight", kernel)]
        if bias is not None:
            inputs.append(self.weight(f"{variable}.bias", bias))
        before, after = _padding(conv)
        return self.node(
            "Conv",
            name,
            *inputs,
            kernel_shape=[conv.size] * 2,
            strides=[conv.stride] * 2,
            pads=[before, before, after, after],
            group=conv.groups,
        )

    def activate(self, activation: Activation, x: str) -> str:
        if activation is silu:
            return self.node("Mul", f"{x}/silu", x, self.node("Sigmoid", f"{x}/sigmoid", x))
        if activation is relu6:
            low, high = (self._scalar(name, value) for name, value in (("zero", 0), ("six", 6)))
            return self.node("Clip", f"{x}/relu6", x, low, high)
        assert activation is relu
        return self.node("Relu", f"{x}/relu", x)

    def upsample(self, name: str, x: str) -> str:
        """Nearest, by two: every pixel becomes a square of four."""
        scales = self._once("two_by_two", np.array([1, 1, 2, 2], np.float32))
        return self.node(
            "Resize",
            name,
            x,
            "",
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def _scalar(self, name: str, value: float) -> str:
        return self._once(name, np.array(value, self.compute))

    def _once(self, name: str, value: np.ndarray) -> str:
        known = any(constant.name == name for constant in self.constants)
        return name if known else self.constant(name, value)


def _fold(conv: Conv, norm: BatchNorm | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel (O, I, h, w) and bias with the normalisation inside, in float64."""
    kernel = np.asarray(conv.kernel[...], np.float64).transpose(3, 2, 0, 1)
    bias = None if conv.bias is None else np.asarray(conv.bias[...], np.float64)
    if norm is None:
        return kernel, bias
    scale, shift, mean, var = (
        np.asarray(variable[...], np.float64)
        for variable in (norm.scale, norm.bias, norm.mean, norm.var)
    )
    factor = scale / np.sqrt(var + norm.eps)
    return kernel * factor[:, None, None, None], shift + ((bias or 0.0) - mean) * factor


def _padding(conv: Conv) -> tuple[int, int]:
    """Before and after. TensorFlow's SAME depends on the size, but not among even ones."""
    if conv.padding == "symmetric":
        return conv.size // 2, conv.size // 2
    total = conv.size - conv.stride
    return total // 2, total - total // 2


def _normalize(graph: Graph, normalization: Normalization, form: Input) -> str:
    """Nodes in front of the first convolution, not folded into it: it pads with zeros, which mean
    the mean colour to the student but black to a kernel that normalises too."""
    x = "image"
    if form == "normalized":
        return x
    white = 1.0
    if form == "uint8":
        x = graph.node("Transpose", "image/nchw", x, perm=[0, 3, 1, 2])
        x = graph.node("Cast", "image/float32", x, to=TensorProto.FLOAT)
        white = 255.0
    mean, std = (white * np.array(values).reshape(1, 3, 1, 1) for values in normalization)
    if mean.any():
        x = graph.node("Sub", "image/centred", x, graph.constant("mean", mean.astype("float32")))
    if (std != 1).any():
        x = graph.node("Div", "image/normalized", x, graph.constant("std", std.astype("float32")))
    return x


def _encode(graph: Graph, encoder: EfficientNet, x: str) -> list[str]:
    """The taps, finest first."""
    act = encoder.variant.activation
    x = graph.activate(act, graph.conv("encoder/conv_stem", encoder.conv_stem, x, encoder.bn1))
    taps = [x]
    for index, stage in enumerate(encoder.blocks):
        for position, block in enumerate(stage):
            x = _block(graph, f"encoder/blocks.{index}.{position}", block, x)
        if index in TAPPED_STAGES:
            taps.append(x)
    return taps


def _block(graph: Graph, name: str, block: DepthwiseSeparable | InvertedResidual, x: str) -> str:
    act = block.activation
    if isinstance(block, InvertedResidual):
        y = graph.activate(act, graph.conv(f"{name}/conv_pw", block.conv_pw, x, block.bn1))
        y = graph.activate(act, graph.conv(f"{name}/conv_dw", block.conv_dw, y, block.bn2))
        y = _squeeze_excite(graph, f"{name}/se", block.se, y)
        y = graph.conv(f"{name}/conv_pwl", block.conv_pwl, y, block.bn3)
    else:
        y = graph.activate(act, graph.conv(f"{name}/conv_dw", block.conv_dw, x, block.bn1))
        y = _squeeze_excite(graph, f"{name}/se", block.se, y)
        y = graph.conv(f"{name}/conv_pw", block.conv_pw, y, block.bn2)
    return graph.node("Add", f"{name}/add", x, y) if block.residual else y


def _squeeze_excite(graph: Graph, name: str, squeeze: SqueezeExcite | None, x: str) -> str:
    if squeeze is None:
        return x
    y = graph.node("GlobalAveragePool", f"{name}/pool", x)
    y = graph.activate(silu, graph.conv(f"{name}/conv_reduce", squeeze.conv_reduce, y))
    y = graph.conv(f"{name}/conv_expand", squeeze.conv_expand, y)
    return graph.node("Mul", f"{name}/scale", x, graph.node("Sigmoid", f"{name}/gate", y))


def _decode(graph: Graph, decoder: UnetDecoder, taps: Sequence[str]) -> str:
    x, *skips = reversed(taps)
    for index, (block, skip) in enumerate(zip(decoder.blocks, [*skips, None], strict=True)):
        x = _up(graph, f"decoder/blocks.{index}", block, x, skip)
    return x


def _up(graph: Graph, name: str, block: UpBlock, x: str, skip: str | None) -> str:
    x = graph.upsample(f"{name}/upsample", x)
    if skip is not None:
        x = graph.node("Concat", f"{name}/concat", x, skip, axis=1)
    for part, layer in (("conv1", block.conv1), ("conv2", block.conv2)):
        x = graph.activate(relu, graph.conv(f"{name}/{part}", layer.conv, x, layer.norm))
    return x


def _model(graph: Graph, student: Student, form: Form) -> onnx.ModelProto:
    height, width = form.size or ("height", "width")
    if form.input == "uint8":
        image = helper.make_tensor_value_info(
            "image", TensorProto.UINT8, ["batch", height, width, 3]
        )
    else:
        image = helper.make_tensor_value_info(
            "image", TensorProto.FLOAT, ["batch", 3, height, width]
        )
    output = helper.make_tensor_value_info(
        form.output, TensorProto.FLOAT, ["batch", 1, height, width]
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "student", [image], [output], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    # Shapes of inner tensors are for whoever opens the file in a viewer.
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model
