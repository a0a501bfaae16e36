"""A stage of check.py: the training step, compiled and tuned on this machine as for a user.

With `--first`, only the first of the kit's steps.
"""

import sys
import time

import jax
import kit as kits
import results
import step_program

from jaxdistill.runtime import xla
from jaxdistill.runtime.sharding import Mesh


def measure(kit: kits.Kit, precision: str, batch: int) -> None:
    """Compiles a step, times it, and records the result."""
    lowered = step_program.lower(kit, precision, batch, Mesh(1))
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    arrays = step_program.random_arrays(step_program.specs(lowered))
    arguments, _ = jax.tree.unflatten(jax.tree.structure(lowered.args_info), arrays)
    state, *rest = arguments
    del arrays, arguments
    found = step_program.timed(lambda state: compiled(state, *rest), state, kit)
    counted = step_program.count(compiled.as_text(), jax.devices()[0].device_kind)
    memory = compiled.memory_analysis()
    results.record(
        "step",
        precision=precision,
        **results.settings(),
        compile_s=round(seconds, 1),
        temporary_GB=round(memory.temp_size_in_bytes / 1e9, 2),
        arguments_GB=round(memory.argument_size_in_bytes / 1e9, 2),
        **step_program.result(batch, counted, found),
    )


def main() -> None:
    """Measures the steps of the kit in their order."""
    xla.configure_for_training()
    kit, _ = kits.opened()
    steps = kit.steps[:1] if "--first" in sys.argv else kit.steps
    for precision, batch in steps:
        try:
            measure(kit, precision, batch)
        except Exception as error:
            results.record_error("step", error, precision=precision, batch=batch)
        jax.clear_caches()


if __name__ == "__main__":
    main()
