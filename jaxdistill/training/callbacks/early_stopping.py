"""Early stopping: a training ends where its score has not improved for some epochs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxdistill import config
from jaxdistill.data import Data, IterableData
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.training.callbacks.base import Callback

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


class EarlyStopping(Callback):
    """Ends the training as `training.early_stopping` says.

    What it decides by is in the checkpoints (`Progress`), so that a resumed run ends where the
    uninterrupted one does, and one that has ended does not train on.
    """

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Ends a resumed run that has ended before."""
        self._decide(trainer)

    def on_epoch_end(self, trainer: "Trainer", record: Mapping[str, Any]) -> None:
        """Ends the run where the score has not improved for `patience` epochs."""
        self._decide(trainer)

    def _decide(self, trainer: "Trainer") -> None:
        settings, progress = trainer.settings.training.early_stopping, trainer.progress
        if settings is None or progress.best_score is None:
            return
        waited = progress.epoch - max(progress.best_epoch, settings.from_epoch - 1)
        if waited >= settings.patience:
            trainer.finish(
                f"early stopping after epoch {progress.epoch}: no epoch was better than epoch "
                f"{progress.best_epoch}, whose score is {progress.best_score:.4f}; evaluate, "
                f"predict and export use the best checkpoint"
            )


def check(settings: config.Training, data: Data | IterableData) -> None:
    """Checks that there is something to stop by.

    Args:
      settings: The section `training`.
      data: The run's data.

    Raises:
      ConfigError: There is no validation data (`validation-needed`).
    """
    if settings.early_stopping and isinstance(data, IterableData) and data.validation is None:
        raise ConfigError(
            "training.early_stopping needs validation data: give the trainer validation batches, "
            "or leave it out",
            code="validation-needed",
        )
