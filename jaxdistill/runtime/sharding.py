"""The devices that share every step, in one process or many: arrays on all of them, and back.

A batch is divided among them by its rows, in the devices' order; everything else is the same on
each. A program over such arrays gives what one device would give, rounding apart: sums over a batch
are sums over all devices.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array

from jaxdistill.runtime.errors import UserError

AXIS = "data"
Tree = TypeVar("Tree")


class Mesh:
    """A row of devices.

    Args:
      size: how many of them are used; `auto` uses all there are.

    Raises:
      UserError: there are not so many; or several processes are to leave some unused.
    """

    def __init__(self, size: int | Literal["auto"] = 1) -> None:
        devices = jax.devices()
        count = len(devices) if size == "auto" else size
        if count > len(devices) or (jax.process_count() > 1 and count != len(devices)):
            raise UserError(
                f"mesh.data is {size}, but there are {len(devices)} devices in "
                f"{jax.process_count()} processes; choose auto"
            )
        self._mesh = jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=devices[:count])
        alone = SingleDeviceSharding(devices[0]) if count == 1 else None
        self.sharded: Sharding = alone or NamedSharding(self._mesh, PartitionSpec(AXIS))
        """Of arrays that are divided by their first axis."""
        self.replicated: Sharding = alone or NamedSharding(self._mesh, PartitionSpec())
        """Of arrays that are the same on every device."""

    @property
    def size(self) -> int:
        return self._mesh.size

    def check(self, batch_size: int, parts: int = 1) -> None:
        """Refuses a batch that does not divide among the devices, each of whose shares is taken in
        so many parts.

        Raises:
          UserError: names what would divide.
        """
        least = self.size * parts
        if batch_size % least:
            each = f", each in training.accumulate: {parts} parts" if parts > 1 else ""
            fewer = ", or fewer devices with mesh.data" if jax.process_count() == 1 else ""
            raise UserError(
                f"training.batch_size {batch_size} does not divide among {self.size} "
                f"devices{each}; choose a multiple of {least}{fewer}"
            )

    def shard(self, tree: Tree) -> Tree:
        """Arrays that hold this process's rows as arrays of all rows, each where it belongs."""
        return jax.make_array_from_process_local_data(self.sharded, tree)

    def replicate(self, tree: Tree) -> Tree:
        """Arrays on every device, from values that every process has.

        On a single one, too: a step whose arrays JAX may still move would be compiled again for
        those that it has made, which stay.
        """
        return jax.tree.map(lambda leaf: place(leaf, self.replicated), tree)

    def describe(self) -> str:
        """Such as `cpu`, or `8 x NVIDIA H100 in 2 processes`."""
        kind = jax.devices()[0].device_kind
        processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
        return kind if self.size == 1 else f"{self.size} x {kind}{processes}"

    def jit(self, function: Callable[..., Any], results: Any, **options: Any) -> Any:
        """A function of such arrays, compiled.

        Args:
          results: `same` or `rows` of what it gives, or a tree of these.
        """
        if self.size == 1:
            return jax.jit(function, **options)

        @functools.wraps(function)
        def known(*arguments: Any) -> Any:  # to `sum_over_rows`
            with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
                return function(*arguments)

        return jax.jit(known, out_shardings=results, **options)


def place(value: Any, sharding: Sharding) -> Array:
    """An array that every process has, where it belongs; without asking the other processes."""
    if isinstance(value, jax.Array) and value.committed and value.sharding == sharding:
        return value
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    whole = np.asarray(value)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def own_rows(array: Any) -> np.ndarray:
    """On the host, the rows that this process's devices hold."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def sum_over_rows(function: Callable[..., Array]) -> Callable[..., Array]:
    """For a function that sums over its arguments' rows in a way that the compiler cannot divide:
    each device applies it to its own rows, and the results are added."""
    known = jax.sharding.get_abstract_mesh()
    if known.empty or known.size == 1:
        return function
    return jax.shard_map(
        lambda *rows: lax.psum(function(*rows), AXIS),
        mesh=known,
        in_specs=PartitionSpec(AXIS),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
