"""What the loop records: the metrics of steps and of epochs, and the score of an epoch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxdistill.reporting.run_files import BEST_BY
from jaxdistill.training.aggregation import averaged_over_masks, first_nonfinite, to_host
from jaxdistill.types import Batch

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer

Pending = tuple[int, Batch, Mapping[str, Any]]
"""Number, batch and scalars of a step whose scalars may not have arrived yet."""


def read_metrics(trainer: "Trainer", pending: Pending | None) -> None:
    """Fetches a step's metrics and counts them into the epoch's means.

    Args:
      trainer: The trainer, whose callbacks hear of them.
      pending: The step; None does nothing.
    """
    if pending is None:
        return
    step, batch, scalars = pending
    metrics = to_host(scalars)
    trainer.progress.step = step + 1
    labelled = metrics["labelled"]
    term = first_nonfinite(trainer.losses, metrics)
    if term is not None:
        trainer.emit("on_nonfinite_step", step, term, metrics, batch)
        return
    del metrics["labelled"]
    trainer.progress.count(
        metrics, dict.fromkeys(averaged_over_masks(trainer.losses, metrics), labelled)
    )
    trainer.emit("on_step_metrics", step, metrics)


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


def score_of(validation: Mapping[str, float], epoch: int) -> float:
    """Returns the score that the best checkpoint is chosen by: mIoU, or agreement without masks.

    Args:
      validation: The validation's means; empty where there is no validation data.
      epoch: Number of finished epochs; the score where nothing was measured, so that the newest
        checkpoint is the best one.
    """
    return next((validation[name] for name in BEST_BY if name in validation), float(epoch))
