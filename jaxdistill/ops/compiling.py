"""How XLA is asked to compile the steps."""

import functools

import jax

# On a CPU, XLA hands what it can to the library YNNPACK. That is the faster way for sums and matrix
# products, and the slower one for convolutions: several times so for those without padding.
_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}


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
