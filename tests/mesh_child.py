"""What one and eight devices learn from the same batches; `test_mesh.py` runs it in a process of
its own, since a process has as many devices as it had at its start."""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tiny_run

from jaxdistill import config, schedules
from jaxdistill.job import Job, prepare
from jaxdistill.update import TrainState

STEPS = 3
GIVEN = [
    "training.batch_size=8",
    "training.learning_rate=1e-4",
    # B0 starts with maps so small that rounding alone, by another order of the batch's rows, moves
    # its decoder's parameters by 2e-4 in three steps; this one's by 3e-6.
    "student.encoder=tf_efficientnet_lite0",
]


class Learnt(NamedTuple):
    parameters: np.ndarray
    statistics: np.ndarray
    measured: dict[str, np.ndarray]


def learn(place: Path, *more: str, turned: bool = False) -> Learnt:
    overrides = [*tiny_run.overrides(place), *GIVEN, *more]
    job = prepare(config.load(tiny_run.SPECIFIED, overrides), tiny_run.QUIET)
    state, measured = job.start(), []
    with closing(job.training(first_step=0)) as batches:
        for _ in range(STEPS):
            fed = next(batches)
            fed = jax.tree.map(lambda rows: rows[::-1], fed) if turned else fed
            state, scalars = job.train_step(state, job.frozen, *job.mesh.share(fed))
            measured.append(jax.device_get(scalars))
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == job.mesh.size
    told = {name: np.stack([values[name] for values in measured]) for name in measured[0]}
    return Learnt(_flat(state.parameters), _flat(state.statistics), {**told, **_sums(job, state)})


def _sums(job: Job, state: TrainState) -> dict[str, np.ndarray]:
    temperature = schedules.temperature(job.settings.losses.temperature, 0, 1)
    with closing(job.validation()) as batches:
        fed = job.mesh.share(next(batches))
        sums, _ = job.eval_step(state.parameters, state.statistics, job.frozen, *fed, temperature)
    return {f"validation {name}": np.asarray(value.total) for name, value in sums.items()}


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
    found = {
        "moved": float(np.linalg.norm(one.measured["gradient_norm"])),
        "eight": apart(one, learn(place, "mesh.data=8")),
        "rows turned": apart(one, learn(place, "mesh.data=1", turned=True)),
        "four, in parts": apart(parts, learn(place, "mesh.data=4", "training.accumulate=2")),
        "in parts": apart(one, parts),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
