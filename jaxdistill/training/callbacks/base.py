"""The base class of callbacks: the events of a training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxtyping import Array, Float

from jaxdistill.types import Batch, TeacherOutputs

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


class Callback:
    """Reacts to events of the training; every method does nothing by default."""

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Runs after set-up and resuming, before the first step."""

    def on_epoch_start(self, trainer: "Trainer") -> None:
        """Runs before the first step of an epoch, or of the rest of a resumed one."""

    def on_step_end(self, trainer: "Trainer", step: int) -> None:
        """Runs after a step was dispatched; its metrics are not known yet.

        All processes of a run call it equally often. It may call `trainer.request_stop()` and
        `trainer.request_checkpoint()`.
        """

    def on_step_metrics(self, trainer: "Trainer", step: int, metrics: Mapping[str, float]) -> None:
        """Runs when the metrics of a step have arrived, one step late."""

    def on_nonfinite_step(
        self, trainer: "Trainer", step: int, term: str, metrics: Mapping[str, float], batch: Batch
    ) -> None:
        """Runs when a loss or gradient was not finite; the step changed nothing."""

    def on_validation_batch(
        self,
        trainer: "Trainer",
        batch: Batch,
        teacher: TeacherOutputs,
        logits: Float[Array, "b h w 1"],
    ) -> None:
        """Runs after each batch of the validation."""

    def on_epoch_end(self, trainer: "Trainer", record: Mapping[str, Any]) -> None:
        """Runs after the validation, once the epoch's checkpoint is saved.

        Args:
          trainer: The trainer; `trainer.progress.epoch` counts this epoch as finished.
          record: Means of the training and validation metrics, seconds, images per second.
        """

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Runs at the end, however the training ended."""
