"""What the loop records of an epoch: its metrics, and the score of its validation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxdistill.reporting.run_files import BEST_BY

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


def epoch_record(
    trainer: "Trainer", validation: Mapping[str, float], seconds: Mapping[str, float], steps: int
) -> dict[str, Any]:
    """Returns the values of an epoch, for the report and the metadata of its checkpoint.

    Args:
      trainer: The trainer, after the epoch's validation.
      validation: Means of the validation.
      seconds: Duration of `train` and `validation`.
      steps: Number of steps that took the time.
    """
    images = steps * trainer.settings.training.images_per_step
    return {
        "train": trainer.progress.means(),
        "validation": dict(validation),
        "seconds": dict(seconds),
        "images_per_second": images / seconds["train"],
        "waits": trainer.waits.take(trainer.inputs.train.seconds),
        "skipped_steps": trainer.progress.skipped,
        **trainer.inputs.cache_counts(),
    }


def validation_score(validation: Mapping[str, float], epoch: int) -> float:
    """Returns the score that the best checkpoint is chosen by: mIoU, or agreement without masks.

    Args:
      validation: The validation's means; empty where there is no validation data.
      epoch: Number of finished epochs; the score where nothing was measured, so that the newest
        checkpoint is the best one.
    """
    return next((validation[name] for name in BEST_BY if name in validation), float(epoch))
