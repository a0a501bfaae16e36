"""Ending a training on a signal."""

from typing import TYPE_CHECKING

from jaxtyping import Array, Float

from jaxdistill.runtime import distributed
from jaxdistill.runtime.signals import Interruption
from jaxdistill.training.callbacks.base import Callback
from jaxdistill.types import Batch, TeacherOutputs

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


class StopOnSignal(Callback):
    """Ends the training after the current step on SIGTERM or SIGINT, with a checkpoint."""

    _interruption: Interruption | None = None

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Installs the signal handlers."""
        self._interruption = Interruption(distributed.AnyProcess(trainer.mesh).any)
        self._interruption.__enter__()

    def on_step_end(self, trainer: "Trainer", step: int) -> None:
        """Requests a stop if any process received a signal."""
        self._poll(trainer)

    def on_validation_batch(
        self,
        trainer: "Trainer",
        batch: Batch,
        teacher: TeacherOutputs,
        logits: Float[Array, "b h w 1"],
    ) -> None:
        """Requests a stop if any process received a signal."""
        self._poll(trainer)

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Restores the signal handlers."""
        if self._interruption is not None:
            self._interruption.__exit__(None, None, None)

    def _poll(self, trainer: "Trainer") -> None:
        if self._interruption is not None and self._interruption.poll():
            trainer.request_stop(self._interruption.signal or "another process")
