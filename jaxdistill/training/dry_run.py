"""A dry run: checks everything, takes a few steps, and estimates what the training will cost."""

import resource
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp

from jaxdistill.runtime.errors import TrainingError
from jaxdistill.runtime.text import format_duration as duration
from jaxdistill.training import phases, run_folder
from jaxdistill.training.aggregation import first_nonfinite, to_host
from jaxdistill.training.ema import averaged
from jaxdistill.training.gradient_audit import audit
from jaxdistill.training.input_pipeline import TrainBatch
from jaxdistill.training.trainer import Trainer
from jaxdistill.training.waits import finish_step_on_cpu

_STEPS = 3  # besides those that compile


def dry_run(trainer: Trainer) -> None:
    """Takes a few steps and prints shapes, times and memory; writes nothing into the run's folder.

    Where the encoder joins the training, the last phase is measured, which costs most.

    Args:
      trainer: A trainer that was not used yet.

    Raises:
      TrainingError: A loss is not finite (`nonfinite`).
    """
    trainer.setup()
    console = trainer.console
    for line in audit(trainer):
        console.print(line)
    last_phase = phases.phase_of(trainer, trainer.epochs - 1)
    trainer.enter_phase(last_phase)
    with closing(trainer.inputs.train_batches(first_step=0)) as batches:
        batch = next(batches)
        console.print(f"a batch: {_shapes(batch)}")
        first_of_size: dict[tuple[int, ...], float] = {}  # seconds of steps that compile
        seconds: list[float] = []  # of other steps
        while len(seconds) < _STEPS:
            step, shape = len(first_of_size) + len(seconds), batch[0].images.shape
            start = time.perf_counter()
            trainer.state, scalars = trainer.train_step(
                trainer.state, trainer.frozen, *trainer.mesh.shard(batch)
            )
            _check_finite(trainer, step, scalars)
            finish_step_on_cpu(scalars)
            batch = next(batches)
            passed = time.perf_counter() - start
            if shape in first_of_size:
                seconds.append(passed)
            else:
                first_of_size[shape] = passed
    compiling, step_seconds = next(iter(first_of_size.values())), statistics.median(seconds)
    with closing(trainer.inputs.validation_batches()) as batches:
        start = time.perf_counter()
        params, batch_stats = averaged(trainer.state)
        sharded = trainer.mesh.shard(next(batches))
        jax.block_until_ready(
            trainer.eval_step(params, batch_stats, trainer.frozen, *sharded, jnp.asarray(0))
        )
        validation_seconds = time.perf_counter() - start
    epoch_seconds = trainer.steps_per_epoch * step_seconds
    images = trainer.settings.training.images_per_step
    console.print(
        f"compiling and the first step: {compiling:.1f} s; the first validation batch: "
        f"{validation_seconds:.1f} s"
    )
    console.print(
        f"a step: {step_seconds:.2f} s, {images / step_seconds:.2f} images/s; an epoch of "
        f"{trainer.steps_per_epoch} steps: about {duration(epoch_seconds)} and its validation; "
        f"{trainer.epochs} epochs, {trainer.epochs * trainer.steps_per_epoch} steps in all: about "
        f"{duration(epoch_seconds * trainer.epochs)} without validation"
    )
    programs = (last_phase + 1) * len(trainer.data.train_sizes)
    console.print(
        f"compiling: {programs} times, about {duration(programs * compiling)} in all, or less "
        f"where JAX's compilation cache has the programs"
    )
    if trainer.settings.targets.cache is not None:
        filled = "after the first epoch"
        if trainer.settings.data.augment != "none":
            filled = "after a few epochs, since flipped images have entries of their own"
        console.print(f"a step may take less once the target cache is filled: {filled}")
    if last_phase:
        console.print(f"measured with {last_phase} of the encoder's stages trained, as at the end")
    console.print(f"memory: {_memory()}")
    if run_folder.is_run(trainer.run):
        console.print(
            f"{trainer.run} holds a run already: resume it with --resume, or set run=OTHER"
        )


def _check_finite(trainer: Trainer, step: int, scalars: Mapping[str, Any]) -> None:
    values = to_host(scalars)
    if term := first_nonfinite(trainer.losses, values):
        raise TrainingError(
            f"step {step}: {term} is {values[term]} (learning rate {values['learning_rate']:.2g}); "
            f"look at teacher and detector, or lower training.learning_rate",
            code="nonfinite",
        )


def _shapes(batch_with_outputs: TrainBatch) -> str:
    batch, teacher = batch_with_outputs
    masks = batch.masks if batch.labelled.any() else None
    named = {"images": batch.images, "masks": masks, "teacher logits": teacher.logits}
    named |= {f"features {index}": array for index, array in enumerate(teacher.features)}
    encoded = teacher.encoder_features or ()
    named |= {f"encoder.{index}": array for index, array in enumerate(encoded, start=1)}
    return ", ".join(
        f"{name} {' x '.join(map(str, array.shape))} {array.dtype}"
        for name, array in named.items()
        if array is not None
    )


def _memory() -> str:
    used = [
        f"{device.device_kind} {stats['peak_bytes_in_use'] / 1e9:.1f} GB"
        for device in jax.local_devices()
        if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
    ]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return ", ".join([*used, f"this process {host:.1f} GB"]) + " at most"
