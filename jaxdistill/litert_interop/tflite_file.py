"""Reads the convolutions of a `.tflite` file, which may come from an untrusted place.

A `.tflite` file is a flatbuffer: offsets and lengths that point into one block of bytes. Nothing in
it is run here. Numbers of tensors and operators are bounded before they are followed, and arrays
are views of the block.
"""

import struct
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import WeightsError, first_line

_MAX_BYTES = 2**26
_MAX_PARTS = 5000  # operators, tensors or buffers
_MAX_INPUTS = 8  # of an operator
_IDENTIFIER = b"TFL3"
_TYPES: dict[int, Any] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
}
_TRANSPOSED = "Convolution2DTransposeBias"  # MediaPipe's own operator
_OPERATORS = {number: name for name, number in vars(schema.BuiltinOperator).items()}


_DAMAGE = (
    *(ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError),
    struct.error,
)
"""What reading damaged bytes raises."""


class Convolution(NamedTuple):
    """A convolution with constant weights."""

    operator: str
    """`CONV_2D`, `DEPTHWISE_CONV_2D` or `Convolution2DTransposeBias`."""
    stride: int
    """Step between output positions; the factor of a transposed convolution."""
    kernel: np.ndarray
    """Float32 (kh, kw, inputs per group, outputs)."""
    bias: np.ndarray
    """Float32 (outputs,)."""


class Graph(NamedTuple):
    """What a file computes, as far as a conversion needs it."""

    content: bytes
    """The file, changed such that it returns the logits in front of its last sigmoid."""
    input_shape: tuple[int, ...]
    """Shape of the first input."""
    output_shape: tuple[int, ...]
    """Shape of the first output."""
    operators: Counter[str]
    """Numbers of the operators by name, without those that unpack constants."""
    convolutions: list[Convolution]
    """The convolutions in the order in which they are computed."""


def read(path: Path) -> Graph:
    """Reads a file.

    Args:
      path: The file.

    Returns:
      Its graph.

    Raises:
      WeightsError: The file does not exist (`weights-missing`), or is not a whole `.tflite` file
        with floating-point weights (`tflite-damaged`).
    """
    if not path.is_file():
        raise WeightsError(f"there is no file {path.absolute()}", code="weights-missing")
    try:
        content = files.read(path, _MAX_BYTES)
        if content[4:8] != _IDENTIFIER:
            raise ValueError("it does not begin as one")
        return _read(content)
    except OSError as error:
        reason = error.strerror or first_line(error)
    except _DAMAGE as error:
        reason = first_line(error)
    raise WeightsError(
        f"{path}: not a whole .tflite file with floating-point weights ({reason}); download it "
        f"again",
        code="tflite-damaged",
    )


def _read(content: bytes) -> Graph:
    model = schema.Model.GetRootAs(content, 0)
    if model.SubgraphsLength() != 1:
        raise ValueError(f"{model.SubgraphsLength()} graphs, expected one")
    graph = model.Subgraphs(0)
    _bounded("operators", graph.OperatorsLength())
    _bounded("tensors", graph.TensorsLength())
    _bounded("buffers", model.BuffersLength())
    operators: Counter[str] = Counter()
    unpacked: dict[int, int] = {}  # a tensor and the constant that it is unpacked from
    convolutions = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        name = _name(model.OperatorCodes(operator.OpcodeIndex()))
        if operator.InputsLength() > _MAX_INPUTS:
            raise ValueError(f"operator {index} has {operator.InputsLength()} inputs")
        inputs = [operator.Inputs(number) for number in range(operator.InputsLength())]
        if name == "DEQUANTIZE":
            unpacked[operator.Outputs(0)] = inputs[0]
            continue
        operators[name] += 1
        if name in _STRIDES:
            _, kernel, bias = (unpacked.get(tensor, tensor) for tensor in inputs)
            convolutions.append(
                Convolution(
                    name,
                    _STRIDES[name](operator),
                    # A depthwise kernel is (1, kh, kw, outputs), others (outputs, kh, kw, inputs).
                    _constant(model, graph, kernel, 4).transpose(
                        (1, 2, 0, 3) if name == "DEPTHWISE_CONV_2D" else (1, 2, 3, 0)
                    ),
                    _constant(model, graph, bias, 1),
                )
            )
    return Graph(
        _returning_logits(content, graph),
        _shape(graph.Tensors(graph.Inputs(0))),
        _shape(graph.Tensors(graph.Outputs(0))),
        operators,
        convolutions,
    )


def _returning_logits(content: bytes, graph: Any) -> bytes:
    last = graph.Operators(graph.OperatorsLength() - 1)
    if graph.OutputsLength() != 1 or last.Outputs(0) != graph.Outputs(0):
        raise ValueError("the last operator does not compute the only output")
    changed = bytearray(content)
    # 8 is the place of `outputs` in the table of a graph; the vector holds 32-bit numbers.
    position = graph._tab.Vector(graph._tab.Offset(8))
    struct.pack_into("<i", changed, position, last.Inputs(0))
    return bytes(changed)


def _bounded(what: str, count: int) -> None:
    if not 0 < count <= _MAX_PARTS:
        raise ValueError(f"{count} {what}")


def _name(code: Any) -> str:
    number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
    if number == schema.BuiltinOperator.CUSTOM:
        return code.CustomCode()[:100].decode("utf-8", "replace")
    return _OPERATORS.get(number, f"operator {number}")


def _shape(tensor: Any) -> tuple[int, ...]:
    if tensor.ShapeLength() > 4:
        raise ValueError(f"a tensor with {tensor.ShapeLength()} dimensions")
    return tuple(tensor.Shape(axis) for axis in range(tensor.ShapeLength()))


def _constant(model: Any, graph: Any, index: int, rank: int) -> np.ndarray:
    if not 0 <= index < graph.TensorsLength():
        raise ValueError(f"there is no tensor {index}")
    tensor = graph.Tensors(index)
    shape = _shape(tensor)
    if tensor.Type() not in _TYPES or len(shape) != rank:
        raise ValueError(f"weights of type {tensor.Type()} and shape {list(shape)}")
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if not isinstance(data, np.ndarray):
        raise ValueError("weights without values")
    return np.frombuffer(data.tobytes(), _TYPES[tensor.Type()]).reshape(shape).astype(np.float32)


def _stride(options: Any, operator: Any) -> int:
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return _square(options.StrideH(), options.StrideW())


def _custom_stride(operator: Any) -> int:
    _, width, height = struct.unpack("<3i", operator.CustomOptionsAsNumpy().tobytes())
    return _square(height, width)


def _square(height: int, width: int) -> int:
    if height != width or height < 1:
        raise ValueError(f"a convolution with strides {height} and {width}")
    return height


_STRIDES = {
    "CONV_2D": lambda operator: _stride(schema.Conv2DOptions(), operator),
    "DEPTHWISE_CONV_2D": lambda operator: _stride(schema.DepthwiseConv2DOptions(), operator),
    _TRANSPOSED: _custom_stride,
}
