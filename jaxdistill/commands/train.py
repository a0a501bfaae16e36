"""Trains a student: `python -m jaxdistill.train --config configs/my.yaml [KEY=VALUE ...]`."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import jax
from rich.console import Console

from jaxdistill import config
from jaxdistill.checkpoint.integrity import Record, fingerprint, newest_first
from jaxdistill.checkpoint.manager import FOLDER, Checkpoints, latest, newest_record
from jaxdistill.models import unfreezing
from jaxdistill.models.weights import format_normalization
from jaxdistill.reporting import console as console_lib
from jaxdistill.reporting import writer
from jaxdistill.reporting.run_files import BEST_BY
from jaxdistill.runtime import distributed
from jaxdistill.runtime.distributed import Agreement
from jaxdistill.runtime.errors import UserError, command
from jaxdistill.runtime.files import write_atomic
from jaxdistill.runtime.lock import locked
from jaxdistill.runtime.signals import EXIT_CODE, Interruption
from jaxdistill.training import provenance
from jaxdistill.training import step as step_lib
from jaxdistill.training.dry_run import dry_run
from jaxdistill.training.epochs import Keeper, learn, validate
from jaxdistill.training.progress import Progress
from jaxdistill.training.run_metadata import facts
from jaxdistill.training.setup import Job, in_phase, prepare, teaching
from jaxdistill.types import TrainState


def main(arguments: Sequence[str] | None = None) -> int | None:
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
        "--accept-changes",
        action="store_true",
        help="with --resume: settings, data or files may differ from those of the run",
    )
    distributed.add_options(parser)
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
    with distributed.joined(given):
        if given.dry_run:
            dry_run(settings)
            return None
        return train(settings, resume=given.resume, accept_changes=given.accept_changes)


def _as_overrides(arguments: Sequence[str]) -> list[str]:
    """Dotted options, `--training.epochs 3` or `--training.epochs=3`, as `training.epochs=3`."""
    rest, remaining = [], iter(arguments)
    for argument in remaining:
        key, equals, value = argument.partition("=")
        if key.startswith("--") and "." in key:
            argument = f"{key[2:]}={value if equals else next(remaining, '')}"
        rest.append(argument)
    return rest


def train(
    settings: config.Config, *, resume: bool = False, accept_changes: bool = False
) -> int | None:
    """Trains from the configuration's data, networks and seed, into its run folder.

    Returns `interruption.EXIT_CODE` if it was asked to stop before its end.
    """
    console = Console(soft_wrap=True, highlight=False, quiet=not distributed.is_main_process())
    job = prepare(settings, console)
    for line in teaching(job) if distributed.is_main_process() else ():
        console.print(line)
    about: Record = {
        "identity": provenance.identity(job),
        "frozen": fingerprint(job.split.frozen),
        "normalization": format_normalization(job.split.merge().normalization),
        "steps_per_epoch": job.steps,
    }
    provenance.check_processes(about["identity"], resume)
    stop, old = Agreement(job.mesh), Agreement(job.mesh)
    with Interruption(stop.reached) as interruption, _claimed(settings.run, resume):
        state, progress = job.start(), Progress()
        if resume:
            job, state, progress = _resume(job, state, about, accept_changes, console)
        _check_start(state, progress)
        if distributed.is_main_process():
            write_atomic(settings.run / "config.yaml", config.dump(settings))
        with (
            Checkpoints(settings.run, settings.checkpoints) as checkpoints,
            closing(_report(settings.run, progress.epoch)) as written,
            closing(job.training(first_step=progress.step)) as batches,
        ):
            written.provenance(facts(job))
            keeper = Keeper(checkpoints, settings.checkpoints, about, old)
            record: Record = {}
            while progress.epoch < settings.training.epochs:
                progress.phase = unfreezing.phase(
                    settings.student, progress.epoch, job.stages
                )
                job, state = in_phase(job, state, progress.phase)
                began, first = time.perf_counter(), progress.step
                state = learn(job, state, progress, batches, keeper, written, interruption, console)
                if interruption.requested:
                    break
                trained = time.perf_counter()
                measured = validate(job, state, progress.epoch, interruption)
                if measured is None:
                    keeper.save(state, progress, {})
                    break
                ended = time.perf_counter()
                scores, sheet = measured
                pictures = (progress.step - first) * settings.training.batch_size
                record = {
                    "train": progress.means(),
                    "validation": scores,
                    "seconds": {"train": trained - began, "validation": ended - trained},
                    "images_per_second": pictures / (trained - began),
                    "skipped_steps": progress.skipped,
                    **job.store_counts(),
                }
                progress.next_epoch()
                written.epoch(progress.epoch, record, sheet)
                keeper.save(state, progress, record, _score(scores))
                line = console_lib.epoch_line(
                    progress.epoch, settings.training.epochs, record, step_lib.LOSSES
                )
                console.print(line)
    if interruption.requested:
        console.print(
            f"{interruption.signal or 'another process'}: stopped after step {progress.step}, "
            f"and kept it; go on with --resume"
        )
        return EXIT_CODE
    if record and distributed.is_main_process():
        variables = {**state.params, **state.batch_stats, **job.split.frozen}
        speed = record["images_per_second"]
        console_lib.print_summary(console, record["validation"], variables, speed, settings.run)
    elif not record:
        console.print(f"{settings.run} has all of its {settings.training.epochs} epochs already")
    return None


@contextmanager
def _claimed(run: Path, resume: bool) -> Iterator[None]:
    """The run's folder, for the processes of this run alone."""
    with ExitStack() as claim:
        if distributed.is_main_process():
            try:
                run.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"run: {run} cannot be made a folder ({error.strerror}); name another one"
                ) from None
            claim.enter_context(locked(run))
            if (run / "config.yaml").exists() and not resume:
                raise UserError(
                    f"{run} holds a run already: --resume goes on with it, run=OTHER starts another"
                )
        distributed.barrier("claimed")
        yield


def _report(run: Path, epochs: int) -> writer.MetricWriter:
    return (
        writer.MetricWriter(run, epochs) if distributed.is_main_process() else writer.NullWriter()
    )


def _resume(
    job: Job, fresh: TrainState, about: Record, accept_changes: bool, console: Console
) -> tuple[Job, TrainState, Progress]:
    """The newest sound checkpoint, or the fresh state where the run ended before its first.

    Parameters, statistics, moments and the position in the data come from the checkpoint;
    everything else from the configuration as given now, which must be that of the run.
    """
    run = job.settings.run
    folders = [folder.name for folder in newest_first(run / FOLDER)]
    provenance.check_same(
        folders, f"see other checkpoints in {run} than process 0; it must be one folder"
    )
    then, changed = newest_record(run), False
    if then is not None:
        changed = bool(provenance.differences(then["identity"], about["identity"]))
        if changed and not accept_changes:
            provenance.check(then["identity"], about["identity"], str(run))
        for line in _another_length(then, job.settings):
            console.print(line)
    found = latest(run, lambda phase: in_phase(job, fresh, phase)[1], changed=changed)
    if found is None:
        _forget_after(run, epoch=0, step=0)
        console.print("nothing to resume from yet: starting at the first step")
        return job, fresh, Progress()
    for problem in found.damaged:
        console.print(f"damaged, removed, and the one before is used: {problem}")
    if found.record["steps_per_epoch"] != job.steps:
        raise UserError(
            f"{run}: an epoch had {found.record['steps_per_epoch']} steps and now has "
            f"{job.steps}; resume with the same data and batch size, or start another run"
        )
    progress = Progress(**found.record["progress"])
    planned = unfreezing.phase(job.settings.student, progress.epoch, job.stages)
    if planned < progress.phase:
        raise UserError(
            f"{run}: {progress.phase} stages of the encoder have joined the training, and "
            f"student.unfreeze wants {planned} in epoch {progress.epoch + 1}; none can leave it: "
            f"give the plan that it had, or a faster one"
        )
    _forget_after(run, progress.epoch, progress.step)
    console.print(f"resuming after step {progress.step}, in epoch {progress.epoch + 1}")
    job, _ = in_phase(job, fresh, progress.phase)
    return job, found.state, progress


def _another_length(then: Record, settings: config.Config) -> Iterator[str]:
    """A line where the run's length has changed, and with it what depends on its share."""
    before, now = then["identity"]["settings"]["training"]["epochs"], settings.training.epochs
    if before != now:
        yield (
            f"training.epochs was {before} and is {now}: learning rate and temperature go on as in "
            f"a run of {now}"
        )


def _check_start(state: TrainState, progress: Progress) -> None:
    """Sees that all processes of a run start alike.

    Raises:
      UserError: they have other weights, or went on from another checkpoint.
    """
    if jax.process_count() > 1:
        digests = [fingerprint(part) for part in (state.params, state.batch_stats)]
        provenance.check_same(
            [progress.step, progress.phase, *digests],
            "start from other weights than process 0; give all of them the same files",
        )


def _forget_after(run: Path, epoch: int, step: int) -> None:
    if distributed.is_main_process():
        writer.truncate_after(run, epoch, step)


def _score(scores: Mapping[str, float]) -> float:
    return next(scores[name] for name in BEST_BY if name in scores)


if __name__ == "__main__":
    sys.exit(command(main))
