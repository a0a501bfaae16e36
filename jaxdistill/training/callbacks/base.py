"""The base class of callbacks: the events of a training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxtyping import Array, Float

from jaxdistill.types import Batch, TeacherOutputs

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


class Callback:
    """Reacts to events of the training; every method does nothing by default.

    With several processes each has its own callbacks, and the events are the same in all of them.
    Metrics are means over the images of all processes; a batch and its teacher outputs hold the `b`
    rows of this process, of the `B` rows of all.
    """

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Runs after set-up and resuming, before the first step.

        Args:
          trainer: The trainer; `trainer.progress` says where the run stands.
        """

    def on_epoch_start(self, trainer: "Trainer") -> None:
        """Runs before the first step of an epoch, or of the rest of a resumed one.

        Args:
          trainer: The trainer; `trainer.progress.epoch` counts the finished epochs.
        """

    def on_step_end(self, trainer: "Trainer", step: int) -> None:
        """Runs after a step was dispatched; its metrics are not known yet.

        All processes of a run call it equally often. It may call `trainer.request_stop()` and
        `trainer.request_checkpoint()`.

        Args:
          trainer: The trainer; `trainer.progress` does not count this step yet, and `trainer.state`
            may not be computed yet.
          step: Number of the step in the run, counted from 0.
        """

    def on_step_metrics(self, trainer: "Trainer", step: int, metrics: Mapping[str, float]) -> None:
        """Runs when the metrics of a step have arrived, one step late.

        Args:
          trainer: The trainer; `trainer.progress` counts this step.
          step: Number of the step in the run, counted from 0.
          metrics: Numbers by name: the mean of every loss term and of its parts, their weighted
            `total`, `gradient_norm` before clipping and `gradient_norm_GROUP` by parameter group,
            `learning_rate`, and what the losses log, such as `temperature`.
        """

    def on_nonfinite_step(
        self, trainer: "Trainer", step: int, term: str, metrics: Mapping[str, float], batch: Batch
    ) -> None:
        """Runs instead of `on_step_metrics` when a loss or gradient was not finite.

        The step changed nothing. Raise an error to end the training.

        Args:
          trainer: The trainer; `trainer.progress` counts this step.
          step: Number of the step in the run, counted from 0.
          term: Name of the first of the metrics that is not finite, causes before their sums.
          metrics: Numbers by name, as in `on_step_metrics`, and the number of `labelled` images.
          batch: This process's rows as the student saw them: images (b, H, W, 3) in [0, 1], masks
            (b, H, W, 1), and the `ids` (b,) of the images in the data set.
        """

    def on_validation_batch(
        self,
        trainer: "Trainer",
        batch: Batch,
        teacher: TeacherOutputs,
        logits: Float[Array, "b h w 1"],
    ) -> None:
        """Runs after each batch of the validation.

        Args:
          trainer: The trainer.
          batch: This process's rows: images (b, H, W, 3) in [0, 1], masks (b, H, W, 1); `weights`
            (b,) is 0 where a row is padding.
          teacher: The teacher outputs for these rows: logits (b, H, W, 1), or None without a
            teacher, and the feature maps (b, h, w, C). Out of a target cache they are float16.
          logits: The student's mask logits for the rows of all processes (B, H, W, 1), divided
            among the devices; `runtime.sharding.local_rows` returns the `b` rows of this process.
        """

    def on_epoch_end(self, trainer: "Trainer", record: Mapping[str, Any]) -> None:
        """Runs after the validation, once the epoch's checkpoint is saved.

        Args:
          trainer: The trainer; `trainer.progress.epoch` counts this epoch as finished.
          record: Means of the metrics by name in `train` and `validation`; `seconds` of both;
            `images_per_second`; `waits`, the seconds that the loop waited for data, teacher and
            step; `skipped_steps`; and with a target cache the counts of its entries in `cache`.
        """

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Runs at the end, however the training ended.

        Args:
          trainer: The trainer; `trainer.finished` says whether no epoch is left.
        """
