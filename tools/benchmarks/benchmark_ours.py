"""Our own step as a contestant of `benchmark_step.py`, with a target store if there is one.

The whole step is what `jaxdistill.train` does: pictures are read, augmented and given their
targets ahead of the step, in a thread of their own, while the step computes; on a CPU in its turn.
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
from jaxdistill.training import setup
from jaxdistill.training import step as step_lib

LEAD = 3  # steps until as many targets lie ready as ever will


class OurStep:
    def __init__(self, given: Given) -> None:
        self._job = setup.prepare(given.settings, Console(stderr=True), given.threads)
        self._state = self._job.start()
        with closing(self._job.training(first_step=0)) as batches:
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
        with closing(self._job.training(first_step=0)) as batches:
            for _ in range(LEAD + steps + 1):
                self._fed = next(batches)
                scalars = self._learn()
                self._job.settle(scalars)
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

    def _learn(self) -> step_lib.Scalars:
        fed = self._job.mesh.shard(self._fed)
        self._state, scalars = self._job.train_step(self._state, self._job.frozen, *fed)
        return scalars

    def _producers(self) -> dict[str, Callable[[], object]]:
        """What makes targets for the pictures at hand."""
        batch, _ = self._fed
        if (stored := self._job.training_source.stored) is not None:
            ids, weights = np.asarray(batch.ids), np.asarray(batch.weights)
            flipped = np.zeros(len(ids), bool)
            return {"stored targets": partial(stored.targets, batch.images, ids, flipped, weights)}
        networks = self._job.networks
        return {role: partial(networks.targets, batch.images, {role}) for role in networks.roles}

    def _augment(self) -> object:
        batch, _ = self._fed
        kind = self._job.settings.data.augment
        rows = augment.Rows.of_process(len(batch.images))
        return augment.augment(jax.random.key(0), batch.images, batch.masks, kind, rows)


def _finish(work: Callable[[], object]) -> None:
    jax.block_until_ready(work())


if __name__ == "__main__":
    raise SystemExit(errors.command(lambda: serve(OurStep)))
