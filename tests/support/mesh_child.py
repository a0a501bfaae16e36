"""What one and eight devices learn from the same batches; `test_mesh.py` runs it in a process of
its own, since a process has as many devices as it had at its start."""

import json
import sys
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tiny_run
from double import in_float64, to_float64
from smooth import smooth_activations

from jaxdistill import config
from jaxdistill.training import Trainer
from jaxdistill.training.input_pipeline import TrainBatch
from jaxdistill.types import TrainState, Variables

STEPS = 3
GIVEN = ["training.batch_size=8", "training.learning_rate=1e-4"]
SEEDS = range(9)


class Learnt(NamedTuple):
    params: np.ndarray
    batch_stats: np.ndarray
    measured: dict[str, np.ndarray]


def learn(place: Path, *more: str, double: bool = False) -> Learnt:
    """After some steps.

    Args:
      double: in float64, from the same values.
    """
    overrides = [*tiny_run.overrides(place), *GIVEN, *more]
    trainer = Trainer.from_config(config.load(tiny_run.SPECIFIED, overrides))
    trainer.setup()
    with closing(trainer.train_batches(first_step=0)) as read:
        batches = list(islice(read, STEPS))
    with closing(trainer.validation_batches()) as read:
        held_out = next(read)
    with in_float64() if double else nullcontext():
        return _learn(
            trainer,
            to_float64(trainer.state),
            to_float64(trainer.frozen),
            to_float64(batches),
            to_float64(held_out),
        )


def _learn(
    trainer: Trainer,
    start: TrainState,
    frozen: Variables,
    batches: list[TrainBatch],
    held_out: TrainBatch,
) -> Learnt:
    state, frozen = trainer.mesh.replicate((start, frozen))
    measured = []
    for batch in batches:
        state, scalars = trainer.train_step(state, frozen, *trainer.mesh.shard(batch))
        measured.append(jax.device_get(scalars))
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == trainer.mesh.size
    told = {name: np.stack([values[name] for values in measured]) for name in measured[0]}
    batch = trainer.mesh.shard(held_out)
    sums, _ = trainer.eval_step(state.params, state.batch_stats, frozen, *batch, np.int32(0))
    told |= {f"validation {name}": np.asarray(value.total) for name, value in sums.items()}
    return Learnt(_flat(state.params), _flat(state.batch_stats), told)


def _flat(variables: dict[str, jax.Array]) -> np.ndarray:
    return np.concatenate([np.ravel(variables[name]) for name in sorted(variables)])


def apart(one: Learnt, other: Learnt) -> dict[str, float]:
    return {
        "params": _apart(one.params, other.params),
        "batch_stats": _apart(one.batch_stats, other.batch_stats),
        **{name: _apart(one.measured[name], other.measured[name]) for name in one.measured},
    }


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-6))


def main() -> None:
    place, encoder = map(Path, sys.argv[1:])
    real = ["student.encoder=tf_efficientnet_lite0", f"student.encoder_weights={encoder}"]
    ones = [learn(place, "mesh.data=1", *real, f"seed={seed}") for seed in SEEDS]
    eights = [learn(place, "mesh.data=8", *real, f"seed={seed}") for seed in SEEDS]
    found: dict[str, Any] = {
        "float64": apart(
            learn(place, "mesh.data=1", double=True), learn(place, "mesh.data=8", double=True)
        ),
        "float32": [apart(one, eight) for one, eight in zip(ones, eights, strict=True)],
    }
    with smooth_activations():
        one = learn(place, "mesh.data=1", *real)
        parts = learn(place, "mesh.data=1", "training.accumulate=2", *real)
        found |= {
            "smooth": apart(one, learn(place, "mesh.data=8", *real)),
            "four, in parts": apart(
                parts, learn(place, "mesh.data=4", "training.accumulate=2", *real)
            ),
            "in parts": apart(one, parts),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
