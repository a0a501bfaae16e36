"""Compares training on one and eight devices, for `test_sharding.py`.

It runs in a process of its own, because the number of devices is fixed when JAX starts.
"""

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
SETTINGS = ["training.batch_size=8", "training.learning_rate=1e-4"]
SEEDS = range(9)


class Trained(NamedTuple):
    params: np.ndarray
    batch_stats: np.ndarray
    metrics: dict[str, np.ndarray]


def train(folder: Path, *more: str, double: bool = False) -> Trained:
    """Returns the values after a few steps.

    Args:
      double: Whether to compute in float64, from the same values.
    """
    overrides = [*tiny_run.overrides(folder), *SETTINGS, *more]
    trainer = Trainer.from_config(config.load(tiny_run.SPECIFIED, overrides))
    trainer.setup()
    with closing(trainer.inputs.train_batches(first_step=0)) as read:
        batches = list(islice(read, STEPS))
    with closing(trainer.inputs.validation_batches()) as read:
        held_out = next(read)
    with in_float64() if double else nullcontext():
        return _take_steps(
            trainer,
            to_float64(trainer.state),
            to_float64(trainer.frozen),
            to_float64(batches),
            to_float64(held_out),
        )


def _take_steps(
    trainer: Trainer,
    start: TrainState,
    frozen: Variables,
    batches: list[TrainBatch],
    held_out: TrainBatch,
) -> Trained:
    state, frozen = trainer.mesh.replicate((start, frozen))
    metrics = []
    for batch in batches:
        state, scalars = trainer.train_step(state, frozen, *trainer.mesh.shard(batch))
        metrics.append(jax.device_get(scalars))
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == trainer.mesh.size
    scalars = {name: np.stack([values[name] for values in metrics]) for name in metrics[0]}
    batch = trainer.mesh.shard(held_out)
    sums, _ = trainer.eval_step(state.params, state.batch_stats, frozen, *batch, np.int32(0))
    scalars |= {f"validation {name}": np.asarray(value.total) for name, value in sums.items()}
    return Trained(_flat(state.params), _flat(state.batch_stats), scalars)


def _flat(variables: dict[str, jax.Array]) -> np.ndarray:
    return np.concatenate([np.ravel(variables[name]) for name in sorted(variables)])


def relative_differences(one: Trained, other: Trained) -> dict[str, float]:
    return {
        "params": _relative_difference(one.params, other.params),
        "batch_stats": _relative_difference(one.batch_stats, other.batch_stats),
        **{
            name: _relative_difference(one.metrics[name], other.metrics[name])
            for name in one.metrics
        },
    }


def _relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-6))


def main() -> None:
    folder, encoder = map(Path, sys.argv[1:])
    real = ["student.encoder=tf_efficientnet_lite0", f"student.encoder_weights={encoder}"]
    ones = [train(folder, "mesh.data=1", *real, f"seed={seed}") for seed in SEEDS]
    eights = [train(folder, "mesh.data=8", *real, f"seed={seed}") for seed in SEEDS]
    differences: dict[str, Any] = {
        "float64": relative_differences(
            train(folder, "mesh.data=1", double=True), train(folder, "mesh.data=8", double=True)
        ),
        "float32": [
            relative_differences(one, eight) for one, eight in zip(ones, eights, strict=True)
        ],
    }
    with smooth_activations():
        one = train(folder, "mesh.data=1", *real)
        parts = train(folder, "mesh.data=1", "training.accumulate=2", *real)
        differences |= {
            "smooth": relative_differences(one, train(folder, "mesh.data=8", *real)),
            "four, in parts": relative_differences(
                parts, train(folder, "mesh.data=4", "training.accumulate=2", *real)
            ),
            "in parts": relative_differences(one, parts),
        }
    print(json.dumps(differences))


if __name__ == "__main__":
    main()
