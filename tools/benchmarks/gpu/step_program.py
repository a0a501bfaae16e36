"""The training step as a program that can be timed: lowered, with random arguments, counted."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import abstract_step
import gpu_launches
import hlo_text
import jax
import kit as kits
import numpy as np
import results

from jaxdistill import config
from jaxdistill.runtime.sharding import Mesh

CARDS = {
    "NVIDIA H100 80GB HBM3": gpu_launches.H100,
    "NVIDIA H200": gpu_launches.H100._replace(bandwidth=4.8e12),
    "NVIDIA A100-SXM4-80GB": gpu_launches.Device(
        2.039e12, {"f32": 156e12, "bf16": 312e12, "f16": 312e12}, 19.5e12
    ),
}
"""Rates of cards by JAX's name for them, from their data sheets; others get no floor."""
_PERIOD = 1 << 20  # elements after which the noise repeats


class Spec(NamedTuple):
    """An argument of a program."""

    path: str
    """Its place in the arguments, such as `[0].params['head.kernel']`."""
    shape: tuple[int, ...]
    dtype: str


class Count(NamedTuple):
    """What a compiled program does in one step; None where its text cannot be read."""

    launches: int | None = None
    bytes: int | None = None
    floor: float | None = None
    """Seconds at the full rate of the card; None for a card that is not in `CARDS`."""


def settings_of(kit: kits.Kit, precision: str, batch: int) -> config.Config:
    """Returns the specified configuration at a precision and a batch size."""
    changes = [f"precision={precision}", f"training.batch_size={batch}", *kit.overrides]
    return config.load(kits.ROOT / kits.SPECIFIED, changes)


def lower(kit: kits.Kit, precision: str, batch: int, mesh: Mesh) -> jax.stages.Lowered:
    """Lowers the training step for the devices of a mesh."""
    return abstract_step.lower(settings_of(kit, precision, batch), mesh, kit.channels).train


def specs(step: jax.stages.Lowered) -> list[Spec]:
    """Returns the arguments of a step, those of the state first."""
    arguments, _ = step.args_info
    leaves, _ = jax.tree_util.tree_flatten_with_path(arguments)
    return [Spec(jax.tree_util.keystr(path), each.shape, str(each.dtype)) for path, each in leaves]


def random_arrays(wanted: Sequence[Spec]) -> list[jax.Array]:
    """Returns arguments on the device: random weights, and noise for images and teacher outputs.

    NumPy draws them: JAX would compile a program for every shape, which takes a GPU a minute.
    """
    noise = np.random.default_rng(0).uniform(-1, 1, _PERIOD).astype(np.float32)
    device = jax.devices()[0]
    return [jax.device_put(_random(spec, noise), device) for spec in wanted]


def _random(spec: Spec, noise: np.ndarray) -> np.ndarray:
    shape, last = spec.shape, spec.path.rpartition(".")[2].strip("']")
    counts = np.issubdtype(spec.dtype, np.integer)
    if spec.path.startswith("[0].opt_state") or counts or last in ("bias", "mean"):
        return np.zeros(shape, spec.dtype)
    if len(shape) < 2:  # scales, variances, weights of images
        return np.ones(shape, spec.dtype)
    values = np.resize(noise, shape)
    if last == "kernel":
        values *= (6 / np.prod(shape[:-1])) ** 0.5  # He's uniform initialisation
    else:
        np.abs(values, out=values)
    return values.astype(spec.dtype, copy=False)


def timed(step: Callable[[Any], tuple[Any, Any]], state: Any, kit: kits.Kit) -> dict[str, float]:
    """Returns milliseconds per step: the median of rounds of steps, each round awaited once.

    Args:
      step: Takes a state, returns the next one and what to wait for.
      state: The first state.
      kit: How long to measure, at least three rounds, and how many steps are a round.
    """
    rounds: list[float] = []
    end = float("inf")
    while len(rounds) < 4 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(kit.round):
            state, result = step(state)
        jax.block_until_ready(result)
        rounds.append((time.perf_counter() - start) / kit.round)
        if len(rounds) == 1:  # it warms up
            end = time.perf_counter() + kit.seconds
    return {"ms": 1e3 * statistics.median(rounds[1:]), "ms_least": 1e3 * min(rounds[1:])}


def count(text: str, card: str) -> Count:
    """Counts what a compiled program does, from its text.

    Args:
      text: The program.
      card: JAX's name of the card whose full rate is assumed.
    """
    device = CARDS.get(card)
    try:
        found = gpu_launches.launches(hlo_text.parse(text), device or gpu_launches.H100)
    except Exception as error:  # the times count more than what they are compared with
        results.record_error("count", error)
        return Count()

    def total(field: str) -> Any:
        return sum(getattr(launch, field) * launch.repetitions for launch in found)

    return Count(
        sum(launch.repetitions for launch in found),
        total("bytes"),
        total("seconds") if device else None,
    )


def result(batch: int, counted: Count, found: dict[str, float]) -> dict[str, Any]:
    """Returns the values of a timed step that every kind of step records."""
    floor = counted.floor
    return {
        "batch": batch,
        "ms": round(found["ms"], 3),
        "ms_least": round(found["ms_least"], 3),
        "images_per_s": round(1e3 * batch / found["ms"], 1),
        "floor_ms": floor and round(1e3 * floor, 3),
        "share_of_floor": floor and round(1e3 * floor / found["ms"], 3),
        "GB": counted.bytes and round(counted.bytes / 1e9, 2),
        "launches": counted.launches,
    }
