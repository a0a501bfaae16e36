"""A stage of check.py: the card, its versions, and its rates of copying and of multiplying."""

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import jax
import jax.numpy as jnp
import kit as kits
import results

_CALLS, _ROUNDS = 5, 10
_PACKAGES = ("jaxlib", "flax", "torch", "numpy", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")


def main() -> None:
    """Measures and records."""
    kit, _ = kits.opened()
    device, (elements, side) = jax.devices()[0], kit.sides
    results.record(
        "card", name=device.device_kind, platform=device.platform, driver=_driver(), **_versions()
    )
    values = jax.random.normal(jax.random.key(0), (elements,))
    rate = _rate(jax.jit(lambda x: x + 1), values)
    results.record("copy", TB_per_s=round(2 * values.nbytes * rate / 1e12, 3))
    del values
    for precision in ("float32", "bfloat16"):
        matrix = jax.random.normal(jax.random.key(1), (side, side)).astype(precision)
        rate = _rate(jax.jit(jnp.matmul), matrix, matrix)
        results.record("product", precision=precision, TFLOP_per_s=round(2e-12 * side**3 * rate, 1))


def _rate(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """Returns calls per second: the median of rounds, without the first ones.

    As long as JAX asks the driver for more memory, a call takes several times as long.
    """
    rounds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(_CALLS):
            result = function(*arguments)
        result.block_until_ready()
        rounds.append(time.perf_counter() - start)
    return _CALLS / statistics.median(rounds[2:])


def _versions() -> dict[str, str]:
    found = {"jax": jax.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _driver() -> str | None:
    """Returns the version of NVIDIA's driver, as nvidia-smi says it."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.strip().partition("\n")[0] or None


if __name__ == "__main__":
    main()
