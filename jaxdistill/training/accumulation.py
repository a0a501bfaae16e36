"""A batch in parts, one after the other, where memory does not hold it at once."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Rows = TypeVar("Rows")
Measured = TypeVar("Measured")
Carried = TypeVar("Carried")
Measure = Callable[[Any, Rows, Carried], tuple[Measured, Carried]]


def accumulate(
    measure: Measure[Rows, Carried, Measured], rows: Rows, carried: Carried, parts: int
) -> tuple[Measured, Carried]:
    """The mean of what is measured on each part, and what was carried from one to the next.

    Args:
      measure: takes a part's number, its rows, and what is carried.
      rows: arrays whose first axis divides into so many parts.
    """
    if parts == 1:
        return measure(0, rows, carried)

    def add(before: tuple[Measured, Carried], part: Array) -> tuple[tuple[Measured, Carried], None]:
        total, carried = before
        own = jax.tree.map(lambda x: _part(x, part, parts), rows)
        measured, carried = measure(part, own, carried)
        return (jax.tree.map(jnp.add, total, measured), carried), None

    first = jax.tree.map(lambda x: _part(x, jnp.asarray(0), parts), rows)
    like, _ = jax.eval_shape(measure, 0, first, carried)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    (total, carried), _ = lax.scan(add, (zero, carried), jnp.arange(parts))
    return jax.tree.map(lambda leaf: leaf / parts, total), carried


def _part(x: Array, part: Array, parts: int) -> Array:
    # Every so-manieth row, not a run of them: of each part every device has its share, and which
    # rows are together does not depend on how many devices there are.
    grouped = x.reshape(len(x) // parts, parts, *x.shape[1:])
    return lax.dynamic_index_in_dim(grouped, part, axis=1, keepdims=False)
