"""Lists the collective operations of a compiled training step, and estimates their cost.

    python tools/benchmarks/communication.py --config configs/recommended.yaml

It compiles the step for virtual devices of the CPU and images of 64x64: the number of bytes that
devices send depends on the parameters, not on the images. It does so for the CPU's forms of the
operations and for the GPU's.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import abstract_step
import gpu_launches
import hlo_text
import jax
from rich.console import Console
from rich.table import Table

from jaxdistill import config
from jaxdistill.runtime import errors
from jaxdistill.runtime.sharding import Mesh

SIDE = 64  # height and width of an image, in pixels
_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Link(NamedTuple):
    """A connection between devices."""

    name: str
    devices: int
    rate: float
    """Bytes per second that a device sends."""
    latency: float
    """Seconds until they arrive."""


LINKS = (
    Link("8 GPUs, NVLink, 450 GB/s", 8, 450e9, 10e-6),
    Link("4 hosts, Ethernet, 100 Gb/s", 4, 12.5e9, 50e-6),
)


class Sent(NamedTuple):
    """The collective operations of a step, by kind."""

    calls: dict[str, int]
    """Their numbers."""
    bytes: dict[str, int]
    """The bytes of their results."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, compiles, and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=8, help="number of devices (default: 8)")
    parser.add_argument(
        "--channels", type=int, default=1024, help="channels of a detector tensor (default: 1024)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.1, help="computation of a step (default: 0.1 s)"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args(arguments)
    settings = config.load(args.config, args.overrides)
    if len(jax.devices()) < args.devices:
        _restart_with(args.devices)
    found = {
        name: measure(settings, args.devices, args.channels, plain=plain)
        for name, plain in (("as on a GPU", True), ("as on a CPU", False))
    }
    _print(found, args.seconds)


def _restart_with(devices: int) -> None:
    """Restarts this process: the environment sets the number of devices when JAX is imported."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    if os.environ.get("XLA_FLAGS") == flag:
        raise errors.ConfigError(
            f"--devices {devices}: there are {len(jax.devices())} devices", code="mesh-size"
        )
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def measure(settings: config.Config, devices: int, channels: int, *, plain: bool) -> Sent:
    """Compiles the training step and returns its collective operations.

    Args:
      settings: The configuration; no file that it names is read.
      devices: Number of devices.
      channels: Channels of each detector tensor.
      plain: Whether to compile the forms of the operations that a GPU uses.
    """
    own = jax.lax.platform_dependent
    jax.lax.platform_dependent = _as_on_gpu if plain else own
    try:
        return parse(_compile(settings, Mesh(devices), channels))
    finally:
        jax.lax.platform_dependent = own


def _as_on_gpu(*operands: Any, cuda: Callable[..., Any], **_: Any) -> Any:
    return cuda(*operands)


def _compile(settings: config.Config, mesh: Mesh, channels: int) -> str:
    jax.clear_caches()
    rows = mesh.size * settings.training.accumulate
    small = settings.model_copy(
        update={
            "data": settings.data.model_copy(update={"image_size": (SIDE, SIDE)}),
            "training": settings.training.model_copy(update={"batch_size": rows}),
        }
    )
    return abstract_step.lower(small, mesh, channels).train.compile().as_text()


def parse(program: str) -> Sent:
    """Returns the collective operations in the text of a compiled program.

    Those in a loop, such as that of `training.accumulate`, count as often as it is run.
    """
    calls, total = dict.fromkeys(_KINDS, 0), dict.fromkeys(_KINDS, 0)
    found = hlo_text.parse(program)
    for _, instruction, repetitions in gpu_launches.walk(found, found.entry):
        kind = instruction.opcode.removesuffix("-start")
        if kind in calls:
            calls[kind] += repetitions
            total[kind] += repetitions * instruction.bytes
    return Sent(
        {kind: n for kind, n in calls.items() if n},
        {kind: total[kind] for kind, n in calls.items() if n},
    )


def seconds(link: Link, calls: int, size: int) -> float:
    """Returns the duration of all-reduces in a ring of n devices.

    Each device sends 2 (n-1)/n of the bytes, in 2 (n-1) turns per call.
    """
    turns = 2 * (link.devices - 1)
    return turns / link.devices * size / link.rate + calls * turns * link.latency


def _print(found: dict[str, Sent], computing: float) -> None:
    console = Console(soft_wrap=True, highlight=False)
    table = Table("", "operation", "calls", "MB per step", title="Collective operations of a step")
    for name, sent in found.items():
        for kind, calls in sent.calls.items():
            table.add_row(name, kind, str(calls), f"{sent.bytes[kind] / 1e6:.3f}")
    console.print(table)
    sent = found["as on a GPU"]
    calls, size = sum(sent.calls.values()), sum(sent.bytes.values())
    table = Table("", "sending, ms", "efficiency", title=f"Steps of {computing} s computation")
    for link in LINKS:
        sending = seconds(link, calls, size)
        efficiency = computing / (computing + sending)
        table.add_row(link.name, f"{1000 * sending:.2f}", f"{efficiency:.1%}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(errors.command(main))
