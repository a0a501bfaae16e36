"""Process-wide settings are made by functions, not by importing."""

import json
import os
import subprocess
import sys

import jax
import pytest

from jaxdistill.runtime import xla

PROGRAM = """
import json, os, sys
from jaxdistill.runtime import xla
import jax
def state():
    cache = jax.config.jax_compilation_cache_dir
    return [os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE"), cache]
before = state()
xla.allocate_as_needed()
xla.configure_for_training()
xla.configure_for_training()
print(json.dumps([before, state(), xla.compiler_options("gpu")]))
"""


def settings(**environment: str) -> list:
    names = ("XLA_PYTHON_CLIENT_PREALLOCATE", "JAX_COMPILATION_CACHE_DIR")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_configure_for_training_sets_what_is_unset() -> None:
    _, after, gpu_options = settings(HOME="/home/somebody")
    assert gpu_options == {}  # those of the CPU are for the CPU only
    assert after == ["false", "/home/somebody/.cache/jaxdistill/xla"]


def test_configure_for_training_keeps_the_environment_s_settings() -> None:
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "JAX_COMPILATION_CACHE_DIR": "/cache"}
    before, after, _ = settings(**environment)
    assert before == after == ["true", "/cache"]


def test_a_gpu_keeps_programs_that_compile_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    folder = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    kept = []
    try:
        for backend in ("cpu", "gpu"):
            monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
            xla.enable_compilation_cache()
            kept.append(jax.config.jax_persistent_cache_min_compile_time_secs)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)
        jax.config.update("jax_compilation_cache_dir", folder)
    assert kept == [shortest, 0]
