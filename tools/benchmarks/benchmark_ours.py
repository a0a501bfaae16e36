"""Our own step as a contestant of `benchmark_step.py`, with a target cache if there is one.

The whole step is what `jaxdistill train` does: images are read, augmented and given their teacher
outputs ahead of the step, in a thread of their own, while the step computes; on a CPU in its turn.
"""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import jax
import numpy as np
from benchmark_child import Given, Seconds, between, serve, timed
from rich.console import Console

from jaxdistill.data import augment
from jaxdistill.runtime import errors
from jaxdistill.teachers.base import restrict
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.training.trainer import Trainer
from jaxdistill.types import Scalars

LEAD = 3  # steps until as many targets lie ready as ever will


class OurStep:
    def __init__(self, given: Given) -> None:
        self._trainer = Trainer.from_config(given.settings, console=Console(stderr=True))
        self._trainer.setup()
        with closing(self._trainer.train_batches(first_step=0)) as batches:
            self._fed = jax.block_until_ready(next(batches))
        began = time.perf_counter()
        jax.block_until_ready(self._learn())
        self.found = {
            "device": jax.devices()[0].device_kind,
            "first step": time.perf_counter() - began,
        }
        self.whole(1)

    def whole(self, steps: int) -> Seconds:
        marks, pending = [], None
        with closing(self._trainer.train_batches(first_step=0)) as batches:
            for _ in range(LEAD + steps + 1):
                self._fed = next(batches)
                scalars = self._learn()
                self._trainer.wait_on_cpu(scalars)
                jax.device_get(pending)  # a step late, as in training
                pending = scalars
                marks.append(time.perf_counter())
            jax.block_until_ready(pending)
        return {"whole step": between(marks)[-steps:]}

    def parts(self, steps: int) -> Seconds:
        each = {**self._producers(), "augmentation": self._augment, "student step": self._learn}
        return {name: timed(partial(_finish, work), steps) for name, work in each.items()}

    def device_memory(self) -> int | None:
        if jax.default_backend() == "cpu":
            return None
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]

    def _learn(self) -> Scalars:
        trainer = self._trainer
        batch = trainer.mesh.shard(self._fed)
        trainer.state, scalars = trainer.train_step(trainer.state, trainer.frozen, *batch)
        return scalars

    def _producers(self) -> dict[str, Callable[[], object]]:
        """What computes teacher outputs for the images at hand."""
        batch, _ = self._fed
        pipeline = self._trainer.inputs.train
        teacher = pipeline.teacher
        if isinstance(teacher, CachedTeacher):
            keys, flipped = pipeline.keys_of(batch), np.zeros(len(batch.ids), bool)
            weights = np.asarray(batch.weights)
            return {"stored targets": partial(teacher, batch.images, keys, flipped, weights)}
        parts = {
            "teacher": restrict(teacher, features=False),
            "detector": restrict(teacher, logits=False),
        }
        return {name: partial(part, batch.images) for name, part in parts.items() if part}

    def _augment(self) -> object:
        batch, _ = self._fed
        kind = self._trainer.settings.data.augment
        rows = augment.Rows.of_process(len(batch.images))
        return augment.augment(jax.random.key(0), batch.images, batch.masks, kind, rows)


def _finish(work: Callable[[], object]) -> None:
    jax.block_until_ready(work())


if __name__ == "__main__":
    raise SystemExit(errors.command(lambda: serve(OurStep)))
