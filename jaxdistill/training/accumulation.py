"""Gradient accumulation: a batch is processed in parts where memory does not hold it at once."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Rows = TypeVar("Rows")
Result = TypeVar("Result")
Carry = TypeVar("Carry")


def accumulate(
    function: Callable[[Any, Rows, Carry], tuple[Result, Carry]],
    rows: Rows,
    carry: Carry,
    parts: int,
) -> tuple[Result, Carry]:
    """Averages a function's result over the parts of a batch.

    Args:
      function: Takes the number of a part, its rows, and the carry of the part before; returns a
        result and the next carry.
      rows: Arrays whose first axis is divisible by `parts`.
      carry: Passed from part to part, such as BatchNorm statistics.
      parts: Number of parts; 1 calls the function once.

    Returns:
      The mean of the results, and the last carry.
    """
    if parts == 1:
        return function(0, rows, carry)

    def add(
        total_and_carry: tuple[Result, Carry], part: Array
    ) -> tuple[tuple[Result, Carry], None]:
        total, carry = total_and_carry
        own = jax.tree.map(lambda x: _part(x, part, parts), rows)
        result, carry = function(part, own, carry)
        return (jax.tree.map(jnp.add, total, result), carry), None

    first = jax.tree.map(lambda x: _part(x, jnp.asarray(0), parts), rows)
    like, _ = jax.eval_shape(function, 0, first, carry)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    (total, carry), _ = lax.scan(add, (zero, carry), jnp.arange(parts))
    return jax.tree.map(lambda leaf: leaf / parts, total), carry


def _part(x: Array, part: Array, parts: int) -> Array:
    # Every `parts`-th row, not a contiguous slice: each device then has a share of every part, and
    # which rows form a part does not depend on the number of devices.
    grouped = x.reshape(len(x) // parts, parts, *x.shape[1:])
    return lax.dynamic_index_in_dim(grouped, part, axis=1, keepdims=False)
