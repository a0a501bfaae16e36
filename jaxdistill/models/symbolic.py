"""Symbolic tensors: a student called with one writes its own graph, such as an ONNX graph.

A `SymbolicTensor` stands for a feature map of which only the name in the graph is known. Layers
(`models.layers`) and functions (`models.functional`) that receive one add nodes to the graph of the
tensor instead of computing arrays. Tensors in the graph have the layout NCHW.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from flax import nnx


class GraphBuilder(Protocol):
    """The graph that symbolic tensors add nodes to; `exporters.onnx_graph` implements it."""

    def node(self, operation: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node with one output.

        Args:
          operation: Operator of ONNX's default domain, such as `Conv`.
          name: Name of the node and of its output; a number is appended where it is taken.
          inputs: Names of tensors, and empty text for an input that is left out.
          **attributes: Attributes of the operator.

        Returns:
          The name of the output.
        """
        ...

    def weight(self, name: str, value: np.ndarray) -> str:
        """Adds a constant in the number format that the graph computes in.

        Args:
          name: Name of the constant; under one name there is one constant, the first.
          value: Its values, of any shape; those of a kernel in the order of axes of its operator.

        Returns:
          The name, for `inputs` of a node.
        """
        ...

    def constant(self, name: str, value: np.ndarray) -> str:
        """Adds a constant in its own number format, such as the scales of a `Resize`.

        Args:
          name: Name of the constant; under one name there is one constant, the first.
          value: Its values, of any shape.

        Returns:
          The name, for `inputs` of a node.
        """
        ...

    def path(self, module: nnx.Module) -> str:
        """Returns the dotted path of a module in the network that is written.

        Args:
          module: A module of that network, such as the layer that adds a node.
        """
        ...


@dataclasses.dataclass(frozen=True)
class SymbolicTensor:
    """A tensor of a graph that is being written: a feature map (N, C, h, w) of unknown sizes."""

    graph: GraphBuilder
    """The graph that the tensor is in."""
    name: str
    """Name of the tensor in the graph."""
    layer: str = ""
    """Name of the layer that made the tensor, with functions of one argument applied to it; nodes
    with several inputs are named after the module that holds the layer of the last one."""

    def apply(
        self, operation: str, suffix: str, *inputs: str, **attributes: Any
    ) -> "SymbolicTensor":
        """Adds a node whose first input is this tensor.

        Args:
          operation: Operator of ONNX's default domain.
          suffix: Last part of the node's name, which starts with the tensor's name.
          *inputs: Names of further inputs, such as what `GraphBuilder.weight` returned.
          **attributes: Attributes of the operator.

        Returns:
          The output, with the same `layer`.
        """
        name = f"{self.name}/{suffix}"
        output = self.graph.node(operation, name, [self.name, *inputs], **attributes)
        return dataclasses.replace(self, name=output)

    def astype(self, dtype: Any) -> "SymbolicTensor":
        """Returns the tensor itself: the graph determines the number format.

        Args:
          dtype: Ignored.
        """
        return self

    def __add__(self, other: "SymbolicTensor | float") -> "SymbolicTensor":
        """Adds two tensors, or a number to each element."""
        return _combine("Add", "add", self, other)

    def __mul__(self, other: "SymbolicTensor | float") -> "SymbolicTensor":
        """Multiplies two tensors, or each element by a number."""
        return _combine("Mul", "multiply", self, other)

    __radd__ = __add__
    __rmul__ = __mul__


def join(
    operation: str, suffix: str, tensors: Sequence[SymbolicTensor], **attributes: Any
) -> SymbolicTensor:
    """Adds a node with several inputs, such as a concatenation.

    Args:
      operation: Operator of ONNX's default domain.
      suffix: Last part of the node's name, behind the module that holds the layer of the last
        tensor.
      tensors: The inputs, of one graph.
      **attributes: Attributes of the operator.

    Returns:
      The output.
    """
    graph, last = tensors[-1].graph, tensors[-1].layer
    module = last.rpartition("/")[0]
    name = f"{module}/{suffix}" if module else suffix
    output = graph.node(operation, name, [tensor.name for tensor in tensors], **attributes)
    return SymbolicTensor(graph, output, output)


def find_graph(values: Sequence[Any]) -> GraphBuilder | None:
    """Returns the graph of the first symbolic tensor among some values; None if there is none.

    Args:
      values: Arguments of a function, arrays or symbolic tensors.
    """
    return next((value.graph for value in values if isinstance(value, SymbolicTensor)), None)


def node_name(path: str) -> str:
    """Returns the name that a layer's node has in a graph.

    Slashes replace the dots, except for those before a number: `encoder.blocks.1.0.conv_dw` becomes
    `encoder/blocks.1.0/conv_dw`.

    Args:
      path: Dotted path of the layer in its network.
    """
    name = ""
    for part in path.split("."):
        name += part if not name else f".{part}" if part.isdigit() else f"/{part}"
    return name


def _combine(
    operation: str, suffix: str, one: SymbolicTensor, other: SymbolicTensor | float
) -> SymbolicTensor:
    if isinstance(other, SymbolicTensor):
        return join(operation, suffix, (one, other))
    if isinstance(other, int | float):
        number = one.graph.weight(f"{other:g}", np.array(other))
        return one.apply(operation, suffix, number)
    return NotImplemented
