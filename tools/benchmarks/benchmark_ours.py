"""The training step of jaxdistill as a contestant of `benchmark_step.py`.

A whole step is what `jaxdistill train` does: a thread reads and augments images and computes
teacher outputs while the step computes; on a CPU, the two take turns. With `targets.cache` the
teacher outputs are read from the target cache.
"""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import jax
import numpy as np
from benchmark_child import Seconds, Setting, between, serve, timed
from rich.console import Console

from jaxdistill.data import augment
from jaxdistill.losses.base import Scalars
from jaxdistill.runtime import errors
from jaxdistill.teachers.base import restrict
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.training.trainer import Trainer
from jaxdistill.training.waits import finish_step_on_cpu

LEAD = 3  # steps until the prefetched batches are as many as they ever will be


class OurStep:
    def __init__(self, setting: Setting) -> None:
        console = Console(stderr=True)
        self._trainer = Trainer.from_config(setting.settings, console, setting.threads)
        self._trainer.setup()
        with closing(self._trainer.inputs.train_batches(first_step=0)) as batches:
            self._batch = jax.block_until_ready(next(batches))
        start = time.perf_counter()
        jax.block_until_ready(self._train_step())
        self.found = {
            "device": jax.devices()[0].device_kind,
            "first step": time.perf_counter() - start,
        }
        self.whole(1)

    def whole(self, steps: int) -> Seconds:
        marks, pending = [], None
        with closing(self._trainer.inputs.train_batches(first_step=0)) as batches:
            for _ in range(LEAD + steps + 1):
                self._batch = next(batches)
                scalars = self._train_step()
                finish_step_on_cpu(scalars)
                jax.device_get(pending)  # one step late, as in training
                pending = scalars
                marks.append(time.perf_counter())
            jax.block_until_ready(pending)
        return {"whole step": between(marks)[-steps:]}

    def parts(self, steps: int) -> Seconds:
        each = {**self._teachers(), "augmentation": self._augment, "student step": self._train_step}
        return {name: timed(partial(_finish, work), steps) for name, work in each.items()}

    def device_memory(self) -> int | None:
        if jax.default_backend() == "cpu":
            return None
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]

    def _train_step(self) -> Scalars:
        trainer = self._trainer
        batch = trainer.mesh.shard(self._batch)
        trainer.state, scalars = trainer.train_step(trainer.state, trainer.frozen, *batch)
        return scalars

    def _teachers(self) -> dict[str, Callable[[], object]]:
        """Returns what computes or reads the teacher outputs of the current batch, by part."""
        batch, _ = self._batch
        pipeline = self._trainer.inputs.train
        teacher = pipeline.teacher
        if isinstance(teacher, CachedTeacher):
            keys, flipped = pipeline.keys_of(batch), np.zeros(len(batch.ids), bool)
            weights = np.asarray(batch.weights)
            return {"cached targets": partial(teacher, batch.images, keys, flipped, weights)}
        parts = {
            "teacher": restrict(teacher, features=False),
            "detector": restrict(teacher, logits=False),
        }
        return {name: partial(part, batch.images) for name, part in parts.items() if part}

    def _augment(self) -> object:
        batch, _ = self._batch
        kind = self._trainer.settings.data.augment
        rows = augment.Rows.of_process(len(batch.images))
        return augment.augment(jax.random.key(0), batch.images, batch.masks, kind, rows)


def _finish(work: Callable[[], object]) -> None:
    jax.block_until_ready(work())


if __name__ == "__main__":
    raise SystemExit(errors.command(lambda: serve(OurStep)))
