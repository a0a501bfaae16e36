"""Checkpoints within an epoch."""

import time
from typing import TYPE_CHECKING

from jaxdistill.runtime import distributed
from jaxdistill.training.callbacks.base import Callback

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


class PeriodicCheckpoint(Callback):
    """Requests checkpoints within an epoch, by steps and by minutes."""

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Starts the clock."""
        self._any_process = distributed.AnyProcess(trainer.mesh)
        self._saved_step, self._saved_at = trainer.progress.step, time.monotonic()

    def on_step_end(self, trainer: "Trainer", step: int) -> None:
        """Requests a checkpoint where one is due; an epoch's last step has its own."""
        if trainer.last_saved_step != self._saved_step:
            self._saved_step, self._saved_at = trainer.last_saved_step, time.monotonic()
            self._any_process.reset()
        if trainer.stop_requested or (step + 1) % trainer.steps_per_epoch == 0:
            return
        settings = trainer.settings.checkpoints
        if settings.every_steps is not None and (step + 1) % settings.every_steps == 0:
            trainer.request_checkpoint()
        elif settings.every_minutes is not None:
            old = time.monotonic() - self._saved_at > 60 * settings.every_minutes
            if self._any_process.any(old):
                trainer.request_checkpoint()
