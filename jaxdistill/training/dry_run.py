"""A rehearsal: loads and checks everything, takes a few steps, and says what a run would cost."""

import resource
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from jaxdistill import config
from jaxdistill.models import unfreezing
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import UserError
from jaxdistill.runtime.text import format_duration
from jaxdistill.training import step as step_lib
from jaxdistill.training.setup import in_phase, prepare, teaching
from jaxdistill.training.step import TrainBatch

_STEPS = 3  # after the first, which compiles


def dry_run(settings: config.Config) -> None:
    """Everything that a run does up to its first steps; nothing is written into its folder."""
    console = Console(soft_wrap=True, highlight=False, quiet=not distributed.is_main_process())
    job = prepare(settings, console)
    for line in teaching(job):
        console.print(line)
    # The dearest part of a run: of an encoder that joins the training, all that will have joined.
    last = unfreezing.phase(settings.student, settings.training.epochs - 1, job.stages)
    job, state = in_phase(job, job.start(), last)
    with closing(job.training(first_step=0)) as batches:
        fed = next(batches)
        console.print(f"a batch: {_shapes(fed)}")
        seconds = []
        for step in range(1 + _STEPS):
            began = time.perf_counter()
            state, scalars = job.train_step(state, job.frozen, *job.mesh.shard(fed))
            _check(step, jax.device_get(scalars))
            job.settle(scalars)
            fed = next(batches)
            seconds.append(time.perf_counter() - began)
    compiling, *steps = seconds
    each = statistics.median(steps)
    with closing(job.validation()) as batches:
        began = time.perf_counter()
        variables = (state.params, state.batch_stats, job.frozen)
        shared = job.mesh.shard(next(batches))
        jax.block_until_ready(job.eval_step(*variables, *shared, jnp.ones(())))
        evaluating = time.perf_counter() - began
    size = settings.training.batch_size
    epoch = job.steps * each
    console.print(
        f"compiling and the first step: {compiling:.1f} s; the first validation batch: "
        f"{evaluating:.1f} s"
    )
    console.print(
        f"a step: {each:.2f} s, {size / each:.2f} images/s; an epoch of {job.steps} steps: about "
        f"{format_duration(epoch)} and its validation; {settings.training.epochs} epochs: about "
        f"{format_duration(epoch * settings.training.epochs)}"
    )
    if last:
        console.print(f"all with {last} of the encoder's stages in training, as in the last epoch")
    console.print(f"memory: {_memory()}")


def _check(step: int, scalars: Mapping[str, Any]) -> None:
    values = {name: float(value) for name, value in scalars.items()}
    if term := step_lib.fault(values):
        raise UserError(
            f"step {step}: {term} is {values[term]} (learning rate {values['learning_rate']:.2g}); "
            f"look at teacher and detector, or lower training.learning_rate"
        )


def _shapes(fed: TrainBatch) -> str:
    batch, targets = fed
    masks = batch.masks if batch.labelled.any() else None
    named = {"images": batch.images, "masks": masks, "teacher logits": targets.logits}
    named |= {f"features {index}": array for index, array in enumerate(targets.features)}
    named |= {
        f"encoder tap {i + 1}": array for i, array in enumerate(targets.encoder_features or ())
    }
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
