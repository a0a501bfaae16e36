"""What ran on the GPU, from JAX's profiler."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData


class Kernel(NamedTuple):
    """A kernel that ran."""

    name: str
    instruction: str
    """The instruction of its program; empty, or `command_buffer...`, within a CUDA graph."""
    program: str
    seconds: float


def profiled(work: Callable[[], Any]) -> list[Kernel]:
    """Does some work and returns the kernels that ran, none on a CPU.

    Args:
      work: Starts programs, and returns arrays that are waited for.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(work())
        [path] = Path(folder).rglob("*.xplane.pb")
        return list(of_profile(ProfileData.from_file(str(path))))


def of_profile(profile: ProfileData) -> Iterator[Kernel]:
    """Yields the kernels of a profile.

    Args:
      profile: As JAX's profiler writes it.
    """
    for plane in profile.planes:
        if not plane.name.startswith("/device:"):
            continue
        for event in (event for line in plane.lines for event in line.events):
            stats = dict(event.stats)
            # The profiler numbers the programs of a name: jit_step(3).
            program = str(stats.get("hlo_module") or "").partition("(")[0]
            instruction = str(stats.get("hlo_op") or "")
            yield Kernel(event.name, instruction, program, 1e-9 * event.duration_ns)
