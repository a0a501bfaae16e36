"""The folder of a run: claimed by one run at a time, resumed, and opened for writing."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxdistill import config
from jaxdistill.checkpoint.best import save_frozen
from jaxdistill.checkpoint.folders import newest_first
from jaxdistill.checkpoint.integrity import Metadata, fingerprint
from jaxdistill.checkpoint.interpolation import save_start
from jaxdistill.checkpoint.manager import Checkpoints
from jaxdistill.checkpoint.restore import newest_metadata, restore_latest
from jaxdistill.reporting import writer
from jaxdistill.reporting.run_files import METRICS
from jaxdistill.reporting.trackers import Trackers
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import OutputError, RunError
from jaxdistill.runtime.files import retry_io, write_atomic
from jaxdistill.runtime.lock import locked
from jaxdistill.runtime.run_layout import CHECKPOINTS, CONFIG
from jaxdistill.teachers.base import provenance_of
from jaxdistill.training import phases, provenance
from jaxdistill.training.progress import Progress

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer

log = logging.getLogger(__name__)


@contextmanager
def opened(trainer: "Trainer", *, resume: bool, accept_changes: bool) -> Iterator[Checkpoints]:
    """Claims the run's folder, resumes if asked to, and opens checkpoints and reports.

    Args:
      trainer: The trainer; its state, progress, phase and writer are set.
      resume: Go on from the newest checkpoint.
      accept_changes: Settings, data and files may differ from the run's.

    Yields:
      What writes the checkpoints.

    Raises:
      RunError: The folder cannot be made (`run-folder`), holds a run already (`run-exists`), is
        written by another process (`run-locked`), or cannot be resumed.
    """
    run, about = trainer.run, trainer.about
    provenance.check_processes_agree(about["provenance"], resume, provenance_of(trainer.teacher))
    with ExitStack() as stack:
        stack.enter_context(_claimed(run, resume))
        before = _resume(trainer, accept_changes) if resume else None
        _check_processes_start_alike(trainer)
        if distributed.is_main_process():
            settings = config.dump(config.with_absolute_paths(trainer.settings))
            retry_io(lambda: save_frozen(run, trainer.initial_partition, trainer.model))
            if before is None:  # a resumed run need not know the values that it started from
                retry_io(lambda: save_start(run, trainer.model))
            retry_io(lambda: write_atomic(run / CONFIG, settings))
            trainer.writer = _writer(trainer, before)
        yield stack.enter_context(Checkpoints(run, trainer.settings.checkpoints))


def is_run(folder: Path) -> bool:
    """Returns whether a folder holds a run already."""
    return (folder / CONFIG).exists()


@contextmanager
def _claimed(run: Path, resume: bool) -> Iterator[None]:
    with ExitStack() as claim:
        if distributed.is_main_process():
            try:
                retry_io(lambda: run.mkdir(parents=True, exist_ok=True))
            except OSError as error:
                raise RunError(
                    f"run: {run} cannot be made a folder ({error.strerror}); name another one",
                    code="run-folder",
                ) from None
            claim.enter_context(locked(run))
            if is_run(run) and not resume:
                raise RunError(
                    f"{run} holds a run already: resume it with --resume, or set run=OTHER",
                    code="run-exists",
                )
        distributed.barrier("claimed")
        yield


def _resume(trainer: "Trainer", accept_changes: bool) -> Metadata | None:
    """Restores the newest intact checkpoint, or starts over where the run ended before its first.

    Parameters, statistics, optimizer state and the position in the data come from the checkpoint;
    everything else from the configuration as it is now, which must be the run's.

    Returns:
      The metadata of the checkpoint; None without one.
    """
    run, console = trainer.run, trainer.console
    folders = [folder.name for folder in newest_first(run / CHECKPOINTS)]
    provenance.check_same_values(
        folders, f"see other checkpoints in {run} than process 0; it must be one folder"
    )
    before, changed = newest_metadata(run), False
    if before is not None:
        now = trainer.about["provenance"]
        changed = bool(provenance.differences(before["provenance"], now))
        if not accept_changes:
            provenance.check_same_provenance(before["provenance"], now, str(run))
        for line in _changed_length(before, trainer.settings):
            console.print(line)
    found = restore_latest(run, lambda phase: phases.in_phase(trainer, phase)[1], changed=changed)
    if found is None:
        _check_never_trained(run)
        console.print("nothing to resume from yet: starting at the first step")
        return None
    if not accept_changes:  # an older checkpoint than `before` may have been trained otherwise
        now = trainer.about["provenance"]
        provenance.check_same_provenance(found.metadata["provenance"], now, str(run))
    for problem in found.damaged:
        console.print(f"damaged and set aside, and the checkpoint before is used: {problem}")
    if found.metadata["steps_per_epoch"] != trainer.steps_per_epoch:
        raise RunError(
            f"{run}: an epoch had {found.metadata['steps_per_epoch']} steps and now has "
            f"{trainer.steps_per_epoch}; resume with the same data and batch size, or start "
            f"another run",
            code="changed-epoch-length",
        )
    progress = Progress(**found.metadata["progress"])
    data = found.metadata["provenance"]["files"], trainer.about["provenance"]["files"]
    if len({each["data.validation"] for each in data}) > 1:
        progress.best_score, progress.best_epoch = None, 0  # on other images, which do not compare
    _check_unfreezing_plan(trainer, progress)
    console.print(f"resuming after step {progress.step}, in epoch {progress.epoch + 1}")
    trainer.restore(found.state, progress)
    return found.metadata


def _check_never_trained(run: Path) -> None:
    """Checks that a run without a checkpoint has never had one."""
    metrics = run / METRICS
    reported = retry_io(lambda: metrics.exists() and metrics.stat().st_size > 0)
    damaged = sorted(path.name for path in (run / CHECKPOINTS).glob("*.damaged*"))
    if reported or damaged:
        has = " and ".join(filter(None, [METRICS if reported else "", ", ".join(damaged)]))
        raise RunError(
            f"{run}: there is no checkpoint to resume from, but the run was trained before (it has "
            f"{has}); nothing was changed: bring the folder {CHECKPOINTS} back, or start another "
            f"run with run=OTHER",
            code="checkpoints-gone",
        )


def _check_unfreezing_plan(trainer: "Trainer", progress: Progress) -> None:
    planned = phases.phase_of(trainer, progress.epoch)
    if planned < progress.phase:
        raise RunError(
            f"{trainer.run}: {progress.phase} stages of the encoder have joined the training, but "
            f"student.unfreeze plans {planned} for epoch {progress.epoch + 1}; none can leave it: "
            f"use the plan that the run had, or a faster one",
            code="unfreezing-plan",
        )


def _changed_length(before: dict[str, Any], settings: config.Config) -> Iterator[str]:
    """Yields a line where the number of epochs changed, and with it the schedules."""
    old = before["provenance"]["settings"]["training"]["epochs"]
    new = settings.training.epochs
    if old != new:
        yield (
            f"training.epochs was {old} and is {new}: learning rate and temperature go on as in a "
            f"run of {new} epochs"
        )


def _check_processes_start_alike(trainer: "Trainer") -> None:
    """Checks that all processes have the same weights and the same position."""
    if jax.process_count() > 1:
        digests = [fingerprint(part) for part in (trainer.state.params, trainer.state.batch_stats)]
        provenance.check_same_values(
            [trainer.progress.step, trainer.progress.phase, *digests],
            "start from other weights than process 0; give all of them the same files",
        )


def _writer(trainer: "Trainer", before: Metadata | None) -> writer.MetricWriter:
    """Returns the writer of the report, which goes on where the run does."""
    run, settings, progress = trainer.run, trainer.settings, trainer.progress
    trackers = Trackers(settings.trackers, run, settings.model_dump(mode="json"))
    metric_writer = writer.MetricWriter(run, progress.epoch, trackers)
    try:
        metric_writer.continue_after(progress.epoch, progress.step, before or {})
    except OutputError as error:
        log.warning("the report could not be continued, training goes on: %s", error)
    return metric_writer
