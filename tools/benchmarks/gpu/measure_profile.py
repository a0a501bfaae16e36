"""A stage of check.py: which launches of the training step take longer than their bytes need.

The first of the kit's steps is compiled and tuned as for a user, and runs under JAX's profiler. Of
every launch, the time is compared with its floor; see `gpu_launches`. A kernel within a CUDA graph
is found by its name, which several launches may share, and a call of a library by the instruction.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gpu_launches
import hlo_text
import jax
import kernels
import kit as kits
import results
import step_program

from jaxdistill.runtime import xla
from jaxdistill.runtime.sharding import Mesh

_OUT = Path(os.environ.get("JAXDISTILL_GPU_OUT", "build/gpu_check/results"))
_STEPS = 3
_LONGEST = 30


def main() -> None:
    """Profiles the first step of the kit."""
    xla.configure_for_training()
    kit, _ = kits.opened()
    precision, batch = kit.steps[0]
    lowered = step_program.lower(kit, precision, batch, Mesh(1))
    compiled = lowered.compile()
    text = compiled.as_text()
    (_OUT / "profiled.hlo").write_text(text)
    arrays = step_program.random_arrays(step_program.specs(lowered))
    arguments, _ = jax.tree.unflatten(jax.tree.structure(lowered.args_info), arrays)
    state, *rest = arguments
    del arrays, arguments
    state, result = compiled(state, *rest)  # the first run loads kernels
    jax.block_until_ready(result)

    def steps() -> Any:
        nonlocal state
        for _ in range(_STEPS):
            state, result = compiled(state, *rest)
        return result

    seconds = by_name(kernels.profiled(steps))
    card = step_program.CARDS.get(jax.devices()[0].device_kind, gpu_launches.H100)
    rows = joined(seconds, gpu_launches.launches(hlo_text.parse(text), card))
    (_OUT / "profile.json").write_text(json.dumps(rows, indent=1))
    results.record(
        "profile",
        precision=precision,
        batch=batch,
        ms=round(1e-3 * sum(row["us"] for row in rows), 3),
        floor_ms=round(1e-3 * sum(row["floor_us"] for row in rows), 3),
        launches=rows[:_LONGEST],
    )


def by_name(found: Iterable[kernels.Kernel]) -> dict[str, float]:
    """Returns the seconds per step of what ran on the GPU, by the instruction's or kernel's name.

    Args:
      found: The kernels of `_STEPS` steps.
    """
    seconds: Counter[str] = Counter()
    for kernel in found:
        in_graph = not kernel.instruction or kernel.instruction.startswith("command_buffer")
        seconds[_key(kernel.name if in_graph else kernel.instruction)] += kernel.seconds / _STEPS
    return dict(seconds)


def joined(seconds: dict[str, float], launches: list[gpu_launches.Launch]) -> list[dict[str, Any]]:
    """Returns what took time, that with the largest difference from its floor first.

    Args:
      seconds: Seconds per step by name; see `by_name`.
      launches: The launches of the program.
    """
    rows = []
    for name, duration in seconds.items():
        own = [each for each in launches if _key(each.name) == name]
        rows.append(
            {
                "name": name,
                "us": round(1e6 * duration, 1),
                "floor_us": round(1e6 * sum(each.seconds * each.repetitions for each in own), 1),
                "MB": round(sum(each.bytes * each.repetitions for each in own) / 1e6, 1),
                "operation": own[0].op_name if own else "",
            }
        )
    return sorted(rows, key=lambda row: row["floor_us"] - row["us"])


def _key(name: str) -> str:
    """Returns a name that is the same for an instruction and for its kernel."""
    return name.replace(".", "_").replace("-", "_")


if __name__ == "__main__":
    main()
