"""The project's float32 as float64: what then differs is not rounding."""

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
    """Where the project says float32, float64 is meant."""
    with mock.patch.object(jnp, "float32", jnp.float64), jax.enable_x64(True):
        yield


def wide(tree: Tree) -> Tree:
    """Arrays of floats on the host, in float64 where that is meant."""
    return jax.tree.map(_wide, tree)


def _wide(leaf: jax.Array) -> np.ndarray:
    floats = jnp.issubdtype(leaf.dtype, jnp.floating)
    return np.asarray(leaf, jnp.float32 if floats else leaf.dtype)
