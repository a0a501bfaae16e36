"""XLA's compiler options, the compilation cache, and the process-wide settings of training."""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxdistill.runtime import distributed, memory

FAST_COMPILE = {"xla_backend_optimization_level": 0}
"""`compiler_options` of `jax.jit` for a program that runs once and costs mostly its compilation."""

# On a CPU, XLA can hand sums, matrix products and convolutions to the library YNNPACK. For sums
# that is much faster; for the others, above all convolutions without padding, XLA itself is faster.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
_SHORTEST = "jax_persistent_cache_min_compile_time_secs"
_LONG_COMPILATION = 1.0  # seconds; a longer one leaves much freed memory behind


def allocate_as_needed() -> None:
    """Lets JAX allocate GPU memory as it is needed, since onnxruntime needs a share of it.

    Call it before JAX looks for devices, which `distributed.initialized` does. It sets
    `XLA_PYTHON_CLIENT_PREALLOCATE`, unless the environment does.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@functools.cache
def configure_for_training() -> None:
    """Configures this process for training, before it compiles anything or starts a thread.

    - Compiled programs are cached on disk (see `enable_compilation_cache`).
    - On a CPU all threads share one heap, and memory that a compilation has freed is returned to
      the system (see `runtime.memory`).
    """
    enable_compilation_cache()
    memory.share_heap()
    jax.monitoring.register_event_duration_secs_listener(_after_compilation)


def enable_compilation_cache() -> None:
    """Caches compiled programs in `~/.cache/jaxdistill/xla`, unless JAX already has a cache.

    On a GPU programs that compile in less than a second are kept too, which JAX leaves out unless
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` is set: there are many, and each tries kernels out.

    Several processes use the cache only if all of them see the same folder. Only process 0 writes
    it, and XLA divides the trials of kernels among the processes that compile: where process 0
    reads a program and the others compile it, they would wait for its share for a day.
    """
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    if folder is None:
        folder = str(Path("~/.cache/jaxdistill/xla").expanduser())
        jax.config.update("jax_compilation_cache_dir", folder)
    if not distributed.share_folder(Path(folder)):
        jax.config.update("jax_enable_compilation_cache", False)
    if jax.default_backend() != "cpu" and _SHORTEST.upper() not in os.environ:
        jax.config.update(_SHORTEST, 0.0)


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
    """Returns `compiler_options` of `jax.jit` for a training step.

    Args:
      platform: The platform that the step is compiled for, such as `cpu` or `gpu`.

    Returns:
      Options by name; empty on a platform that needs none, or if this XLA has no such option.
    """
    if platform != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_CPU_OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # experimental options come and go
        return {}
    return _CPU_OPTIONS


def cpu_device() -> jax.Device | None:
    """Returns the CPU, for `jax.default_device`.

    A program that runs once compiles there sooner: a GPU takes half a minute, because kernels are
    tried out. A result is not waited for behind an accelerator's other work.

    Returns:
      The device, or None if JAX was configured without a CPU (`JAX_PLATFORMS`).
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Computes in full float32, on the CPU if JAX has it, for comparisons with other programs.

    A GPU rounds the factors of products to TF32, which would hide or mimic a difference.
    """
    with jax.default_device(cpu_device()), jax.default_matmul_precision("highest"):
        yield


def _after_compilation(event: str, duration_secs: float, **_: Any) -> None:
    """Returns the memory that the compiler has freed, more than half a gigabyte for a step."""
    if event.endswith("backend_compile_duration") and duration_secs > _LONG_COMPILATION:
        memory.return_freed()
