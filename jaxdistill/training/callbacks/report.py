"""The report of a run: files, and lines on the terminal."""

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float
from rich.progress import Progress as ProgressDisplay

from jaxdistill.reporting import console as console_report
from jaxdistill.reporting.image_grid import SAMPLES, sample_grid
from jaxdistill.reporting.writer import MetricWriter
from jaxdistill.runtime import distributed
from jaxdistill.runtime.sharding import local_rows
from jaxdistill.runtime.warn_once import WarnOnce, kind_of
from jaxdistill.training.assembly import is_labelled
from jaxdistill.training.callbacks.base import Callback
from jaxdistill.training.run_metadata import metadata_of_run
from jaxdistill.types import Batch, TeacherOutputs

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer

log = logging.getLogger(__name__)


class Report(Callback):
    """Writes metrics, curves, sample images and the report page.

    A failure never ends a run; it is logged once for each kind.
    """

    def __init__(self) -> None:
        self._warn = WarnOnce(log)
        self._samples: list[tuple[np.ndarray | None, ...]] = []

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Writes what holds for the whole run."""
        self._samples = []
        self._attempt(trainer.writer.run_metadata, metadata_of_run(trainer))

    def on_validation_batch(
        self,
        trainer: "Trainer",
        batch: Batch,
        teacher: TeacherOutputs,
        logits: Float[Array, "b h w 1"],
    ) -> None:
        """Keeps the first images of the validation and their masks.

        With several processes these are the first rows of process 0, not exactly the first ones of
        the data set.
        """
        if not distributed.is_main_process() or len(self._samples) >= SAMPLES:
            return
        masks = batch.masks if is_labelled(trainer.data, "validation") else None
        rows = len(batch.images)
        maps = [
            [None] * rows if each is None else list(local_rows(each))
            for each in (batch.images, masks, teacher.logits, logits)
        ]
        real = int(batch.weights.sum())
        self._samples += list(zip(*(each[:real] for each in maps), strict=True))

    def on_epoch_end(self, trainer: "Trainer", record: Mapping[str, Any]) -> None:
        """Appends the epoch to metrics, curves and sample images, and rewrites the page."""
        samples, self._samples = self._samples[:SAMPLES], []
        if distributed.is_main_process():
            if trainer.finish_reason:  # no epoch follows, and the page is to say so
                self._attempt(trainer.writer.run_metadata, metadata_of_run(trainer))
            self._attempt(self._write, trainer.writer, trainer.progress.epoch, record, samples)

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Closes the files."""
        self._attempt(trainer.writer.close)

    def _write(
        self,
        writer: MetricWriter,
        epoch: int,
        record: Mapping[str, Any],
        samples: list[tuple[np.ndarray | None, ...]],
    ) -> None:
        columns: list[Any] = [
            None if column[0] is None else column for column in zip(*samples, strict=True)
        ]
        writer.epoch(epoch, record, sample_grid(*columns) if columns else None)

    def _attempt(self, write: Any, *args: Any) -> None:
        try:
            write(*args)
        except Exception as error:
            for each in error.exceptions if isinstance(error, ExceptionGroup) else (error,):
                message = f"the report could not be written, training goes on: {each}"
                self._warn(kind_of(each), message)


class ProgressBar(Callback):
    """Shows the steps of an epoch on a terminal."""

    _display: ProgressDisplay | None = None

    def on_epoch_start(self, trainer: "Trainer") -> None:
        """Starts a bar."""
        if not trainer.console.is_terminal:
            return
        self._display = ProgressDisplay(console=trainer.console, transient=True)
        epoch, epochs = trainer.progress.epoch, trainer.epochs
        self._task = self._display.add_task(
            f"epoch {epoch + 1}/{epochs}",
            total=trainer.steps_per_epoch,
            completed=trainer.progress.step - epoch * trainer.steps_per_epoch,
        )
        self._display.start()

    def on_step_end(self, trainer: "Trainer", step: int) -> None:
        """Advances the bar, and removes it after the last step."""
        if self._display is not None:
            self._display.advance(self._task)
            if trainer.stop_requested or (step + 1) % trainer.steps_per_epoch == 0:
                self.on_fit_end(trainer)

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Removes the bar."""
        if self._display is not None:
            self._display.stop()
            self._display = None


class StepLine(Callback):
    """Prints a line for a step now and then, where there is no terminal for a bar."""

    _SECONDS = 60.0  # at least, between two lines

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Lets the first step have a line."""
        self._printed = -math.inf

    def on_step_metrics(self, trainer: "Trainer", step: int, metrics: Mapping[str, float]) -> None:
        """Prints a step and its loss: the first since the start, and then at most one a minute."""
        now = time.monotonic()
        if trainer.console.is_terminal or now - self._printed < self._SECONDS:
            return
        self._printed = now
        epoch, number = divmod(step, trainer.steps_per_epoch)
        trainer.console.print(
            f"epoch {epoch + 1}/{trainer.epochs}: step {number + 1} of {trainer.steps_per_epoch}, "
            f"loss {metrics['total']:.3f}"
        )


class EpochLine(Callback):
    """Prints a line for each epoch and a table at the end."""

    _record: Mapping[str, Any] | None = None

    def on_epoch_end(self, trainer: "Trainer", record: Mapping[str, Any]) -> None:
        """Prints losses and scores of the epoch."""
        self._record = record
        trainer.console.print(
            console_report.epoch_line(
                trainer.progress.epoch, trainer.epochs, record, list(trainer.losses)
            )
        )

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Prints the result, if the training came to its end."""
        if not trainer.finished:
            return
        if trainer.finish_reason:
            trainer.console.print(trainer.finish_reason)
        if self._record is None:
            has = f"all of its {trainer.epochs} epochs" if not trainer.finish_reason else "ended"
            trainer.console.print(f"{trainer.run} has {has} already")
            return
        if distributed.is_main_process():
            variables = trainer.variables()
            try:
                console_report.print_summary(
                    trainer.console,
                    self._record["validation"],
                    variables,
                    self._record["images_per_second"],
                    trainer.run,
                )
            except OSError as error:  # it looks for the report's files
                log.warning("the summary could not be printed: %s", error)
