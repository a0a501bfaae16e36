"""Runs the package's float32 code in float64, where rounding cannot explain a difference."""

import contextlib
from collections.abc import Iterator
from typing import TypeVar
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

Tree = TypeVar("Tree")


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Replaces `jnp.float32` by float64 inside the `with` block."""
    with mock.patch.object(jnp, "float32", jnp.float64), jax.enable_x64(True):
        yield


def to_float64(tree: Tree) -> Tree:
    """Copies arrays to the host; floats become float64 inside `in_float64`, float32 outside."""
    return jax.tree.map(_to_float64, tree)


def _to_float64(leaf: jax.Array) -> np.ndarray:
    floats = jnp.issubdtype(leaf.dtype, jnp.floating)
    return np.asarray(leaf, jnp.float32 if floats else leaf.dtype)
