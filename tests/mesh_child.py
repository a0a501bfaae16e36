"""What one and eight devices learn from the same batches; `test_mesh.py` runs it in a process of
its own, since a process has as many devices as it had at its start."""

import json
import sys
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tiny_run
from double import in_float64, wide

from jaxdistill import config, schedules
from jaxdistill.job import Job, prepare
from jaxdistill.models.student import Variables
from jaxdistill.update import Fed, TrainState

STEPS = 3
GIVEN = [
    "training.batch_size=8",
    "training.learning_rate=1e-4",
    # B0 starts with maps so small that rounding alone, by another order of the batch's rows, moves
    # its decoder's parameters by 2e-4 in three steps; this one's by 3e-6.
    "student.encoder=tf_efficientnet_lite0",
]
SPECIFIED = "student.encoder=timm-efficientnet-b0"
"""For float64, where there is no such rounding."""


class Learnt(NamedTuple):
    parameters: np.ndarray
    statistics: np.ndarray
    measured: dict[str, np.ndarray]


def learn(
    place: Path, *more: str, turned: bool = False, nudged: bool = False, double: bool = False
) -> Learnt:
    """After some steps.

    Args:
      turned: the rows of every batch are in the opposite order.
      nudged: every weight of the encoder has another last bit.
      double: in float64, from the same values.
    """
    overrides = [*tiny_run.overrides(place), *GIVEN, *more]
    job = prepare(config.load(tiny_run.SPECIFIED, overrides), tiny_run.QUIET)
    with closing(job.training(first_step=0)) as read:
        batches = list(islice(read, STEPS))
    with closing(job.validation()) as read:
        held_out = next(read)
    if turned:
        batches = jax.tree.map(lambda rows: rows[::-1], batches)
    with in_float64() if double else nullcontext():
        start, frozen = wide(job.start()), wide(job.frozen)
        if nudged:
            frozen = jax.tree.map(_nudged, frozen)
        return _learn(job, start, frozen, wide(batches), wide(held_out))


def _learn(
    job: Job, start: TrainState, frozen: Variables, batches: list[Fed], held_out: Fed
) -> Learnt:
    state, frozen = job.mesh.replicate((start, frozen))
    measured = []
    for fed in batches:
        state, scalars = job.train_step(state, frozen, *job.mesh.share(fed))
        measured.append(jax.device_get(scalars))
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == job.mesh.size
    told = {name: np.stack([values[name] for values in measured]) for name in measured[0]}
    temperature = schedules.temperature(job.settings.losses.temperature, 0, 1)
    fed = job.mesh.share(held_out)
    sums, _ = job.eval_step(state.parameters, state.statistics, frozen, *fed, temperature)
    told |= {f"validation {name}": np.asarray(value.total) for name, value in sums.items()}
    return Learnt(_flat(state.parameters), _flat(state.statistics), told)


def _nudged(array: np.ndarray) -> np.ndarray:
    """The next number, upwards or downwards by chance."""
    up = np.random.default_rng(0).integers(2, size=array.shape)
    return np.nextafter(array, np.where(up, np.inf, -np.inf).astype(array.dtype))


def _flat(variables: dict[str, jax.Array]) -> np.ndarray:
    return np.concatenate([np.ravel(variables[name]) for name in sorted(variables)])


def apart(one: Learnt, other: Learnt) -> dict[str, float]:
    return {
        "parameters": _apart(one.parameters, other.parameters),
        "statistics": _apart(one.statistics, other.statistics),
        **{name: _apart(one.measured[name], other.measured[name]) for name in one.measured},
    }


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-6))


def main() -> None:
    place = Path(sys.argv[1])
    one = learn(place, "mesh.data=1")
    parts = learn(place, "mesh.data=1", "training.accumulate=2")
    double = learn(place, "mesh.data=1", SPECIFIED, double=True)
    found = {
        "eight, float64": apart(double, learn(place, "mesh.data=8", SPECIFIED, double=True)),
        "eight": apart(one, learn(place, "mesh.data=8")),
        "last bits": apart(one, learn(place, "mesh.data=1", nudged=True)),
        "rows turned": apart(one, learn(place, "mesh.data=1", turned=True)),
        "four, in parts": apart(parts, learn(place, "mesh.data=4", "training.accumulate=2")),
        "in parts": apart(one, parts),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
