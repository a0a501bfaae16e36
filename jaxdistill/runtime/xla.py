"""How XLA is asked to compile the steps, and what is done with what compiling leaves behind."""

import functools
import os
from pathlib import Path
from typing import Any

import jax

from jaxdistill.runtime import memory

# On a CPU, XLA hands what it can to the library YNNPACK: sums, matrix products, convolutions. For
# sums that is the faster way by far; for the others, and above all for convolutions without
# padding, XLA's own is.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
QUICKLY = {"xla_backend_optimization_level": 0}
"""`jax.jit`'s `compiler_options` for a program that runs once, and costs little but compiling."""
_LONG = 1.0  # seconds of compiling that leave much behind


def host() -> jax.Device | None:
    """The CPU, as `jax.default_device` for a program that runs once: compiling it for a GPU takes
    half a minute, for the kernels that are tried out. None if JAX was told to have no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


@functools.cache
def options() -> dict[str, str]:
    """For `jax.jit`'s `compiler_options`; empty where this XLA has no such option, or no need."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # experimental options come and go
        return {}
    return _CPU


@functools.cache
def set_up() -> None:
    """For programs that train: compiled steps stay on disk, and compiling gives back its memory.

    Before they start threads.
    """
    memory.share_heap()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path("~/.cache/jaxdistill/xla").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.monitoring.register_event_duration_secs_listener(_give_back)


def _give_back(event: str, duration_secs: float, **_: Any) -> None:
    """What the compiler freed goes to the system, before the program it made wants its own.

    The C library would keep it, more than half a gigabyte for a training step.
    """
    if event.endswith("backend_compile_duration") and duration_secs > _LONG:
        memory.give_back()
