"""Trains a student: `python -m jaxdistill.train --config configs/my.yaml [KEY=VALUE ...]`."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxdistill import config, report, schedules, update
from jaxdistill.checkpoints import Checkpoints
from jaxdistill.data.batches import Batch
from jaxdistill.dry_run import dry_run
from jaxdistill.errors import UserError, command
from jaxdistill.facts import facts
from jaxdistill.job import Fed, Job, prepare
from jaxdistill.reach import explain, reach
from jaxdistill.update import Scalars, TrainState


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m jaxdistill.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a YAML file, as in configs/")
    parser.add_argument("--epochs", help="training.epochs")
    parser.add_argument("--batch_size", help="training.batch_size")
    parser.add_argument("--feature_weight", help="losses.feature")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, take a few steps, write nothing"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any key, such as training.clip.norm=1"
    )
    given = parser.parse_intermixed_args(
        _as_overrides(sys.argv[1:] if arguments is None else arguments)
    )
    short = {
        "training.epochs": given.epochs,
        "training.batch_size": given.batch_size,
        "losses.feature": given.feature_weight,
    }
    overrides = given.overrides + [f"{key}={value}" for key, value in short.items() if value]
    settings = config.load(given.config, overrides)
    if given.dry_run:
        dry_run(settings)
    else:
        train(settings, resume=given.resume)


def _as_overrides(arguments: Sequence[str]) -> list[str]:
    """Dotted options, `--training.epochs 3` or `--training.epochs=3`, as `training.epochs=3`."""
    rest, remaining = [], iter(arguments)
    for argument in remaining:
        key, equals, value = argument.partition("=")
        if key.startswith("--") and "." in key:
            argument = f"{key[2:]}={value if equals else next(remaining, '')}"
        rest.append(argument)
    return rest


def train(settings: config.Config, *, resume: bool = False) -> None:
    """Trains from the configuration's data, networks and seed, into its run folder."""
    console = Console(soft_wrap=True, highlight=False)
    job = prepare(settings, console)
    for line in explain(reach(settings, job.split, job.pairs)):
        console.print(line)
    state = update.start(settings, job.split)
    with (
        Checkpoints(_claim(settings, resume), job.split.frozen) as checkpoints,
        closing(report.Report(settings.run)) as written,
    ):
        if resume:
            state = _resume(checkpoints, state, job, console)
        written.facts(facts(job))
        first = int(state.step) // job.steps
        pictures = job.steps * settings.training.batch_size
        with closing(job.training(first_step=int(state.step))) as batches:
            for epoch in range(first, settings.training.epochs):
                began = time.perf_counter()
                state, learnt = _learn(job, state, batches, epoch, console)
                trained = time.perf_counter()
                measured, sheet = _validate(job, state, epoch)
                ended = time.perf_counter()
                record: dict[str, Any] = {
                    "train": learnt,
                    "validation": measured,
                    "seconds": {"train": trained - began, "validation": ended - trained},
                    "images_per_second": pictures / (trained - began),
                    **job.store_counts(),
                }
                checkpoints.save(state, {**record, "steps_per_epoch": job.steps})
                written.epoch(epoch + 1, record, sheet)
                console.print(_line(epoch, settings.training.epochs, record))
    if first < settings.training.epochs:
        variables = {**state.parameters, **state.statistics, **job.split.frozen}
        speed = record["images_per_second"]
        report.print_summary(console, measured, variables, speed, settings.run)
    else:
        console.print(f"{settings.run} has all of its {settings.training.epochs} epochs already")


def _learn(
    job: Job, state: TrainState, batches: Iterator[Fed], epoch: int, console: Console
) -> tuple[TrainState, dict[str, float]]:
    """One epoch of steps; the mean of what they measured."""
    seen: list[dict[str, float]] = []
    pending: tuple[int, Batch, Scalars] | None = None
    steps = range(epoch * job.steps, (epoch + 1) * job.steps)
    bar = f"epoch {epoch + 1}/{job.settings.training.epochs}"
    for step in track(steps, bar, console=console, transient=True, disable=not console.is_terminal):
        batch, targets = next(batches)
        state, scalars = job.train_step(state, job.split.frozen, batch, targets)
        # Read a step late, so that the device never waits to be asked.
        if pending:
            seen.append(_read(*pending))
        pending = (step, batch, scalars)
    if pending:
        seen.append(_read(*pending))
    return state, {name: float(np.mean([values[name] for values in seen])) for name in seen[0]}


def _read(step: int, batch: Batch, scalars: Scalars) -> dict[str, float]:
    return update.check(step, batch, jax.device_get(scalars))


def _validate(job: Job, state: TrainState, epoch: int) -> tuple[dict[str, float], Any]:
    """Means over the validation split, and the sheet of sample pictures."""
    temperature = schedules.temperature(
        job.settings.losses.temperature, epoch, job.settings.training.epochs
    )
    sums: dict[str, float] = {}
    shown: list[tuple[np.ndarray, ...]] = []
    with closing(job.validation()) as batches:
        for batch, targets in batches:
            scalars, logits = job.eval_step(
                state.parameters,
                state.statistics,
                job.split.frozen,
                batch,
                targets,
                temperature,
            )
            if len(shown) < report.SAMPLES:
                maps = [batch.images, batch.masks, targets.logits, logits]
                arrays = [np.asarray(m) if m is not None else [None] * len(logits) for m in maps]
                real = int(batch.weights.sum())
                shown += list(zip(*(a[:real] for a in arrays), strict=True))
            for name, value in jax.device_get(scalars).items():
                sums[name] = sums.get(name, 0.0) + float(value)
    count = sums.pop("count")
    means = {name: value / count for name, value in sums.items()}
    terms = {name: jnp.asarray(means[name]) for name in update.LOSSES if name in means}
    means["total"] = float(update.total(job.settings.losses, terms))
    images, masks, teacher, own = zip(*shown[: report.SAMPLES], strict=True)
    theirs = None if teacher[0] is None else np.stack(teacher)
    return means, report.sample_sheet(np.stack(images), np.stack(masks), theirs, np.stack(own))


def _claim(settings: config.Config, resume: bool) -> Path:
    """The run's folder, with the resolved configuration in it."""
    run = settings.run
    if (run / "config.yaml").exists() and not resume:
        raise UserError(
            f"{run} holds a run already: --resume goes on with it, run=OTHER starts another"
        )
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(config.dump(settings), encoding="utf-8")
    return run


def _resume(checkpoints: Checkpoints, fresh: TrainState, job: Job, console: Console) -> TrainState:
    """The latest checkpoint's state, or the fresh one where the run ended before its first.

    Parameters, statistics, moments and the position in the data come from the checkpoint;
    everything else from the configuration as given now.
    """
    found = checkpoints.latest(fresh)
    if found is None:
        console.print("nothing to resume from yet: starting at the first step")
        return fresh
    state, record = found
    if record["steps_per_epoch"] != job.steps:
        raise UserError(
            f"{job.settings.run}: an epoch had {record['steps_per_epoch']} steps and now has "
            f"{job.steps}; resume with the same data and batch size, or start another run"
        )
    epoch = int(state.step) // job.steps
    report.forget_after(job.settings.run, epoch)
    console.print(f"resuming after epoch {epoch}, step {int(state.step)}")
    return state


def _line(epoch: int, epochs: int, record: dict[str, Any]) -> str:
    train, validation = record["train"], record["validation"]
    terms = " ".join(f"{name} {train[name]:.3f}" for name in update.LOSSES if name in train)
    scores = " ".join(
        f"{label} {validation[name]:.4f}"
        for name, label in (
            ("student_miou", "mIoU"),
            ("teacher_miou", "teacher"),
            ("agreement", "agreement"),
        )
        if name in validation
    )
    seconds = sum(record["seconds"].values())
    return f"epoch {epoch + 1}/{epochs}: {terms} | validation: {scores} | {seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(command(main))
