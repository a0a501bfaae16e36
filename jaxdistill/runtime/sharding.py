"""Data parallelism: the mesh of devices, and arrays on it.

A batch is divided among the devices by its rows, in the order of the devices; everything else is
replicated. A program over such arrays computes what one device would compute, up to rounding: sums
over a batch are sums over all devices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array

from jaxdistill.runtime.errors import ConfigError

AXIS = "data"
"""Name of the mesh's only axis."""
Tree = TypeVar("Tree")


class Mesh:
    """A one-dimensional mesh of devices.

    Args:
      size: The number of devices to use; `auto` uses all there are.
      devices: The devices to choose from; None: those of this machine. Programs can be compiled for
        devices that are described only, as `jax.experimental.topologies` does.

    Raises:
      ConfigError: There are fewer devices, or several processes would leave some of them unused
        (`mesh-size`).
    """

    def __init__(
        self, size: int | Literal["auto"] = 1, devices: Sequence[jax.Device] | None = None
    ) -> None:
        devices = jax.devices() if devices is None else devices
        count = len(devices) if size == "auto" else size
        if count > len(devices) or (jax.process_count() > 1 and count != len(devices)):
            raise ConfigError(
                f"mesh.data: {size} devices are not available or would leave some unused; there "
                f"are {len(devices)} in {jax.process_count()} processes; choose auto",
                code="mesh-size",
            )
        self._mesh = jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=devices[:count])
        alone = SingleDeviceSharding(devices[0]) if count == 1 else None
        self.sharded: Sharding = alone or NamedSharding(self._mesh, PartitionSpec(AXIS))
        """Sharding of arrays that are divided along their first axis."""
        self.replicated: Sharding = alone or NamedSharding(self._mesh, PartitionSpec())
        """Sharding of arrays that are the same on every device."""
        own = [device for device in devices[:count] if device.process_index == jax.process_index()]
        self.own_devices = own
        """This process's devices."""
        mesh = jax.make_mesh((len(own),), (AXIS,), (AxisType.Auto,), devices=own)
        self.own = NamedSharding(mesh, PartitionSpec(AXIS)) if len(own) > 1 else None
        """Sharding of this process's rows among its own devices; None if it has only one."""

    @property
    def size(self) -> int:
        """The number of devices."""
        return self._mesh.size

    @property
    def platform(self) -> str:
        """The platform of the devices, such as `cpu` or `gpu`."""
        return self._mesh.devices.flat[0].platform

    def check_batch_size(self, batch_size: int, accumulate: int = 1) -> None:
        """Checks that a batch can be divided among the devices.

        Args:
          batch_size: Rows of a batch, over all processes.
          accumulate: The number of parts in which each device computes its rows.

        Raises:
          ConfigError: It cannot (`batch-not-divisible`); the message gives a size that can.
        """
        divisor = self.size * accumulate
        if batch_size % divisor:
            each = f", each in training.accumulate: {accumulate} parts" if accumulate > 1 else ""
            fewer = ", or fewer devices with mesh.data" if jax.process_count() == 1 else ""
            raise ConfigError(
                f"training.batch_size: {batch_size} rows do not divide among {self.size} "
                f"devices{each}; choose a multiple of {divisor}{fewer}",
                code="batch-not-divisible",
            )

    def shard(self, tree: Tree) -> Tree:
        """Returns global arrays, divided along their first axis.

        Args:
          tree: A tree of arrays that hold the rows of this process.
        """
        return jax.tree.map(self._shard, tree)

    def _shard(self, rows: Any) -> Array:
        if not isinstance(rows, jax.Array) or rows.sharding != self.own:
            return jax.make_array_from_process_local_data(self.sharded, rows)
        # They lie on this process's devices already, from which JAX would gather them first.
        count = len(rows) * self.size // len(self.own_devices)
        shards = [shard.data for shard in rows.addressable_shards]
        return jax.make_array_from_single_device_arrays(
            (count, *rows.shape[1:]), self.sharded, shards
        )

    def replicate(self, tree: Tree) -> Tree:
        """Returns arrays that are on every device.

        On a single device, too, arrays are committed to it: otherwise a step would be compiled
        twice, for uncommitted inputs and for its own committed outputs.

        Args:
          tree: A tree of arrays with the same values in every process.
        """
        return jax.tree.map(lambda leaf: put(leaf, self.replicated), tree)

    def describe(self) -> str:
        """Returns a description such as `cpu` or `8 x NVIDIA H100 in 2 processes`."""
        kind = self._mesh.devices.flat[0].device_kind
        processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
        return kind if self.size == 1 else f"{self.size} x {kind}{processes}"

    def jit(self, function: Callable[..., Any], out_shardings: Any, **options: Any) -> Any:
        """Returns the compiled form of a function over arrays of this mesh.

        Args:
          function: A function; `sum_over_rows` inside it knows the mesh.
          out_shardings: `replicated`, `sharded`, or a tree of these, for its results.
          **options: Further options of `jax.jit`.
        """
        if self.size == 1:
            return jax.jit(function, **options)

        @functools.wraps(function)
        def in_mesh(*args: Any) -> Any:
            with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
                return function(*args)

        return jax.jit(in_mesh, out_shardings=out_shardings, **options)


def put(value: Any, sharding: Sharding) -> Array:
    """Returns an array with the given sharding, without communication between processes.

    Args:
      value: The whole array, with the same values in every process.
      sharding: The sharding of the result.
    """
    if isinstance(value, jax.Array) and value.committed and value.sharding == sharding:
        return value
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    whole = np.asarray(value)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def local_rows(array: Any) -> np.ndarray:
    """Returns the rows that are on this process's devices, on the host.

    Args:
      array: A NumPy array, or a JAX array that is divided along its first axis.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def sum_over_rows(function: Callable[..., Array]) -> Callable[..., Array]:
    """Returns a function that each device applies to its own rows, adding the results.

    Use it inside `Mesh.jit` around a sum over rows that the compiler cannot divide by itself.

    Args:
      function: A function whose result is a sum over the rows of its arguments.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    return jax.shard_map(
        lambda *rows: lax.psum(function(*rows), AXIS),
        mesh=mesh,
        in_specs=PartitionSpec(AXIS),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
