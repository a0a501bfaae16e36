"""What devices tell each other in a step, read from the compiled program; and what that costs.

    python tools/benchmarks/communication.py --config configs/recommended.yaml

Compiles the training step for so many virtual devices of the CPU, at 64x64: what is sent depends on
the parameters, not on the pictures. The CPU's forms of the operations and the GPU's are both
looked at, since what can be divided may differ.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from jaxdistill import config, losses
from jaxdistill.models import feature_info, student, unfreezing
from jaxdistill.models.feature_info import find_tap
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.runtime import errors
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.training.step import compile_train_step, initial_state, step_spec
from jaxdistill.types import Batch, TeacherOutputs

SIDE = 64  # of a picture
_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_CALL = re.compile(rf"= (\(?[^=]*?\)?) ({'|'.join(_KINDS)})(?:-start)?\(")
_COMMENT = re.compile(r"/\*.*?\*/")  # such as the number of every fifth result
_ARRAY = re.compile(r"(pred|[a-z]+\d+)\[([\d,]*)\]")


class Link(NamedTuple):
    """What connects devices: bytes per second that one sends, and seconds until they arrive."""

    name: str
    devices: int
    rate: float
    latency: float


LINKS = (
    Link("8 GPUs, NVLink, 450 GB/s", 8, 450e9, 10e-6),
    Link("4 hosts, Ethernet, 100 Gb/s", 4, 12.5e9, 50e-6),
)


class Sent(NamedTuple):
    """By kind of collective operation: how many there are, and the bytes of their results."""

    calls: dict[str, int]
    bytes: dict[str, int]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=8, help="in the compiled program; 8")
    parser.add_argument("--channels", type=int, default=1024, help="of each detector tensor; 1024")
    parser.add_argument(
        "--seconds", type=float, default=0.1, help="that a device computes in a step; 0.1"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_intermixed_args(arguments)
    settings = config.load(given.config, given.overrides)
    if len(jax.devices()) < given.devices:
        _again_with(given.devices)
    found = {
        name: measure(settings, given.devices, given.channels, plain=plain)
        for name, plain in (("as on a GPU", True), ("as on a CPU", False))
    }
    _print(found, given.seconds)


def _again_with(devices: int) -> None:
    """A process has as many virtual devices as its environment said at its start."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    if os.environ.get("XLA_FLAGS") == flag:
        raise errors.UserError(f"there are {len(jax.devices())} devices and not {devices}")
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def measure(settings: config.Config, devices: int, channels: int, *, plain: bool) -> Sent:
    """What the compiled training step sends.

    Args:
      channels: of each detector tensor.
      plain: compiles the forms that a GPU has.
    """
    own = jax.lax.platform_dependent
    jax.lax.platform_dependent = _default if plain else own
    try:
        return parse(_compile(settings, Mesh(devices), channels))
    finally:
        jax.lax.platform_dependent = own


def _default(*operands: Any, default: Callable[..., Any], **_: Any) -> Any:
    return default(*operands)


def _compile(settings: config.Config, mesh: Mesh, channels: int) -> str:
    jax.clear_caches()
    pairs = [Pair(f.tap, channels, f.hidden_channels) for f in settings.features]
    without_files = settings.student.model_copy(update={"encoder_weights": None, "weights": None})
    network = student.build(without_files, pairs, seed=0, dtype=settings.precision)
    parts = unfreezing.partition_in_phase(network, without_files, phase=0)
    terms = losses.from_config(settings)
    spec = step_spec(settings, network, parts.graphdef, terms, steps_per_epoch=1)
    step = compile_train_step(spec, mesh)
    rows = mesh.size * settings.training.accumulate
    shape = (rows, SIDE, SIDE)
    batch = Batch(
        **{
            name: jnp.zeros({"images": (*shape, 3), "masks": (*shape, 1)}.get(name, (rows,)))
            for name in Batch._fields
        }
    )
    taps = feature_info(without_files)
    sizes = [find_tap(pair.tap, taps).size((SIDE, SIDE)) for pair in pairs]
    features = tuple(jnp.zeros((rows, *size, channels)) for size in sizes)
    targets = TeacherOutputs(jnp.zeros((*shape, 1)) if settings.teacher else None, features)
    state = mesh.replicate(initial_state(spec, parts))
    frozen = mesh.replicate(parts.frozen)
    return step.lower(state, frozen, *mesh.shard((batch, targets))).compile().as_text()


def parse(program: str) -> Sent:
    """The collective operations of a compiled program, as XLA writes it."""
    calls, total = dict.fromkeys(_KINDS, 0), dict.fromkeys(_KINDS, 0)
    for result, kind in _CALL.findall(_COMMENT.sub("", program)):
        calls[kind] += 1
        total[kind] += sum(_bytes(*array) for array in _ARRAY.findall(result))
    return Sent(
        {kind: n for kind, n in calls.items() if n},
        {kind: total[kind] for kind, n in calls.items() if n},
    )


def _bytes(kind: str, dims: str) -> int:
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
    count = 1
    for dim in filter(None, dims.split(",")):
        count *= int(dim)
    return count * bits // 8


def seconds(link: Link, calls: int, size: int) -> float:
    """Of all-reduces in a ring of n: each device sends 2 (n-1)/n of the bytes, in 2 (n-1) turns."""
    turns = 2 * (link.devices - 1)
    return turns / link.devices * size / link.rate + calls * turns * link.latency


def _print(found: dict[str, Sent], computing: float) -> None:
    console = Console(soft_wrap=True, highlight=False)
    table = Table("", "operation", "calls", "MB per step", title="Sent in a step")
    for name, sent in found.items():
        for kind, calls in sent.calls.items():
            table.add_row(name, kind, str(calls), f"{sent.bytes[kind] / 1e6:.3f}")
    console.print(table)
    sent = found["as on a GPU"]
    calls, size = sum(sent.calls.values()), sum(sent.bytes.values())
    table = Table("", "sending, ms", "efficiency", title=f"Of steps that compute for {computing} s")
    for link in LINKS:
        sending = seconds(link, calls, size)
        efficiency = computing / (computing + sending)
        table.add_row(link.name, f"{1000 * sending:.2f}", f"{efficiency:.1%}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(errors.command(main))
