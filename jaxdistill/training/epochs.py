"""The two halves of an epoch: to learn from one split, and to measure on the other."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from jaxdistill import config
from jaxdistill.checkpoint.manager import Checkpoints, Record
from jaxdistill.reporting import image_grid, writer
from jaxdistill.reporting.writer import MetricWriter
from jaxdistill.runtime import distributed
from jaxdistill.runtime.distributed import Agreement
from jaxdistill.runtime.errors import UserError
from jaxdistill.runtime.sharding import own_rows
from jaxdistill.runtime.signals import Interruption
from jaxdistill.training import schedules
from jaxdistill.training import step as step_lib
from jaxdistill.training.progress import Progress
from jaxdistill.training.setup import Job
from jaxdistill.training.step import Scalars, TrainBatch
from jaxdistill.types import Batch, TrainState


class Keeper:
    """Decides when a checkpoint is due, and writes it.

    Args:
      about: what every checkpoint's record says, next to the progress.
      old: whether the processes find the last one old.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        settings: config.Checkpoints,
        about: Mapping[str, Any],
        old: Agreement,
    ) -> None:
        self._checkpoints, self._settings, self._about = checkpoints, settings, dict(about)
        self._old, self._written = old, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether one should be written after so many steps; all processes ask, and all agree."""
        steps, minutes = self._settings.every_steps, self._settings.every_minutes
        if steps is not None and step % steps == 0:
            return True
        return minutes is not None and self._old.reached(
            time.monotonic() - self._written > 60 * minutes
        )

    def save(
        self, state: TrainState, progress: Progress, record: Record, score: float | None = None
    ) -> None:
        about = {**self._about, "progress": vars(progress).copy()}
        self._checkpoints.save(state, {**about, **record}, score)
        self._written = time.monotonic()
        self._old.forget()


def learn(
    job: Job,
    state: TrainState,
    progress: Progress,
    batches: Iterator[TrainBatch],
    keeper: Keeper,
    written: MetricWriter,
    interruption: Interruption,
    console: Console,
) -> TrainState:
    """The rest of the present epoch's steps, or of those up to an interruption.

    `progress` moves along. An interruption leaves a checkpoint.

    Raises:
      UserError: a loss or a gradient was not finite once too often.
    """
    steps = range(progress.step, (progress.epoch + 1) * job.steps)
    bar = f"epoch {progress.epoch + 1}/{job.settings.training.epochs}"
    pending: tuple[Batch, Scalars] | None = None
    for step in track(steps, bar, console=console, transient=True, disable=not console.is_terminal):
        batch, targets = next(batches)
        state, scalars = job.train_step(state, job.frozen, *job.mesh.shard((batch, targets)))
        job.settle(scalars)
        # Read a step late, so that the device never waits to be asked.
        if pending:
            _count(job, progress, *pending, written, console)
        pending = (batch, scalars)
        done = step + 1
        if interruption.poll() or (done < steps.stop and keeper.due(done)):
            _count(job, progress, *pending, written, console)
            pending = None
            keeper.save(state, progress, {})
        if interruption.requested:
            break
    if pending:
        _count(job, progress, *pending, written, console)
    return state


def _count(
    job: Job,
    progress: Progress,
    batch: Batch,
    scalars: Scalars,
    written: MetricWriter,
    console: Console,
) -> None:
    """Reads what a step measured."""
    values = {name: float(value) for name, value in jax.device_get(scalars).items()}
    step, progress.step = progress.step, progress.step + 1
    term = step_lib.fault(values)
    labelled = values.pop("labelled")
    if term is None:
        progress.count(values, dict.fromkeys(step_lib.OF_MASKS & values.keys(), labelled))
        return
    names = {int(id): job.dataset.name_of(int(id)) for id in distributed.all_gather(batch.ids)}
    written.nonfinite({"step": step, "term": term, "values": values, "pictures": names})
    allowed = job.settings.training.skip_nonfinite
    what = (
        f"step {step}: {term} is {values[term]} (learning rate {values['learning_rate']:.2g}, "
        f"pictures {', '.join(names.values())})"
    )
    if progress.skipped >= allowed:
        raise UserError(
            f"{what}; nothing was learnt from it, and the last checkpoint stands; look at these "
            f"pictures, which {job.settings.run / writer.NONFINITE} lists, lower "
            f"training.learning_rate, or allow some such steps with training.skip_nonfinite"
        )
    progress.skipped += 1
    console.print(f"{what}; skipped, {progress.skipped} of {allowed} allowed")


def validate(
    job: Job, state: TrainState, epoch: int, interruption: Interruption
) -> tuple[dict[str, float], Image.Image | None] | None:
    """Means over the validation split, and the sheet of sample pictures; None if interrupted.

    The pictures are process 0's: with several, not quite the first ones of the split.
    """
    temperature = schedules.temperature(
        job.settings.losses.temperature, epoch, job.settings.training.epochs
    )
    measured: list[dict[str, step_lib.Sum]] = []
    shown: list[tuple[np.ndarray, ...]] = []
    with closing(job.validation()) as batches:
        for batch, targets in batches:
            if interruption.poll():
                return None
            sums, logits = job.eval_step(
                state.params,
                state.batch_stats,
                job.frozen,
                *job.mesh.shard((batch, targets)),
                temperature,
            )
            if distributed.is_main_process() and len(shown) < image_grid.SAMPLES:
                masks = batch.masks if job.settings.data.validation.labelled else None
                maps = [batch.images, masks, targets.logits, logits]
                rows = len(batch.images)
                arrays = [own_rows(m) if m is not None else [None] * rows for m in maps]
                real = int(batch.weights.sum())
                shown += list(zip(*(a[:real] for a in arrays), strict=True))
            measured.append(jax.device_get(sums))
    means = step_lib.means(measured)
    terms = {name: jnp.asarray(means[name]) for name in step_lib.LOSSES if name in means}
    means["total"] = float(step_lib.total(job.settings.losses, terms))
    return means, _sheet(shown[: image_grid.SAMPLES]) if distributed.is_main_process() else None


def _sheet(shown: Sequence[tuple[np.ndarray, ...]]) -> Image.Image:
    images, truth, teacher, own = zip(*shown, strict=True)
    known, theirs = (None if maps[0] is None else np.stack(maps) for maps in (truth, teacher))
    return image_grid.sample_grid(np.stack(images), known, theirs, np.stack(own))
