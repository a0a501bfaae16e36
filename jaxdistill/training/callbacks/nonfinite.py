"""What happens where a loss or gradient is not finite."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxdistill.reporting.run_files import NONFINITE
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import OutputError, TrainingError
from jaxdistill.training.callbacks.base import Callback
from jaxdistill.types import Batch

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer

log = logging.getLogger(__name__)


class SkipNonFinite(Callback):
    """Stops the training at a loss or gradient that is not finite, or skips a few such steps."""

    def on_nonfinite_step(
        self, trainer: "Trainer", step: int, term: str, metrics: Mapping[str, float], batch: Batch
    ) -> None:
        """Records the step and its images.

        Raises:
          TrainingError: More steps were lost than `training.skip_nonfinite` allows (`nonfinite`).
        """
        ids = distributed.all_gather(batch.ids)
        names = {int(each): trainer.data.train.name_of(int(each)) for each in ids}
        try:
            trainer.writer.nonfinite(
                {"step": step, "term": term, "values": dict(metrics), "images": names}
            )
        except OutputError as error:
            log.warning("a skipped step could not be recorded, training goes on: %s", error)
        allowed = trainer.settings.training.skip_nonfinite
        what = (
            f"step {step}: {term} is {metrics[term]} (learning rate "
            f"{metrics['learning_rate']:.2g}, images {', '.join(names.values())})"
        )
        if trainer.progress.skipped >= allowed:
            raise TrainingError(
                f"{what}; the step changed nothing, and the last checkpoint is intact; look at "
                f"these images, which {trainer.run / NONFINITE} lists, lower "
                f"training.learning_rate, or allow some such steps with training.skip_nonfinite",
                code="nonfinite",
            )
        trainer.progress.skipped += 1
        trainer.console.print(f"{what}; skipped, {trainer.progress.skipped} of {allowed} allowed")
