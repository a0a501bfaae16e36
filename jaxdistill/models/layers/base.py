"""The base class of layers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxdistill.models.symbolic import GraphBuilder, find_graph


class Layer(nnx.Module):
    """Base class of layers that an exporter cannot look into.

    A subclass defines `__call__` for arrays and `to_onnx(graph, *inputs)` for symbolic tensors. A
    call with a symbolic tensor goes to `to_onnx`, with the keyword arguments of the call except
    for `train`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Redirects calls with symbolic tensors to `to_onnx`."""
        super().__init_subclass__(**options)
        call: Any = cls.__call__
        if not hasattr(call, "_takes_symbolic"):
            cls.__call__ = _redirected(call)  # type: ignore[method-assign]

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Computes arrays from arrays."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")

    def to_onnx(self, graph: GraphBuilder, *inputs: Any, **options: Any) -> Any:
        """Adds the layer's nodes to a graph.

        Args:
          graph: The graph; `node_name(graph.path(self))` is the name for the layer's node.
          *inputs: The arguments of the call.
          **options: The keyword arguments of the call, except for `train`.

        Returns:
          What the call returns for arrays, as symbolic tensors.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no to_onnx")


def constant(value: float, *shape: int) -> Array:
    """Returns a float32 array with one value in all its elements, without compiling a program."""
    return jax.device_put(np.full(shape, value, np.float32))


def _redirected(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapped(self: Layer, *inputs: Any, **options: Any) -> Any:
        graph = find_graph(inputs)
        if graph is None:
            return call(self, *inputs, **options)
        options.pop("train", None)
        return self.to_onnx(graph, *inputs, **options)

    wrapped._takes_symbolic = True  # type: ignore[attr-defined]
    return wrapped
