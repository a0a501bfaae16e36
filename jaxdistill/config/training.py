"""The sections `training`, `checkpoints` and `mesh`: steps, optimizer and devices."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from jaxdistill.config.base import Positive, Section, Weight, invalid
from jaxdistill.runtime.errors import ConfigError


class Clip(Section):
    """Gradient clipping by norm."""

    norm: Positive | None = 0.5
    """Largest gradient norm; larger gradients are scaled down to it. null: no clipping."""
    per: Literal["all", "group"] = "group"
    """`all`: one norm over all parameters. `group`: one norm each for encoder, decoder, head and
    projectors."""


class LearningRates(Section):
    """Factors of the learning rate, by parameter group."""

    encoder: Positive = 1.0
    """Factor for the encoder, where it is trained from the start. An encoder that joins later has
    `student.unfreeze.learning_rate_scale` instead."""
    decoder: Positive = 1.0
    """Factor for the decoder."""
    head: Positive = 1.0
    """Factor for the head."""
    projectors: Positive = 1.0
    """Factor for the projectors of `features`."""


class EarlyStopping(Section):
    """When a run ends before its last epoch."""

    patience: Annotated[int, Field(ge=1)]
    """Number of epochs in a row without a better score after which the run ends. The score is the
    validation's mIoU, or the agreement with the teacher where there are no masks."""
    min_improvement: Weight = 0.0
    """By how much a score must exceed the best one so far to be better."""
    from_epoch: Annotated[int, Field(ge=1)] = 1
    """First epoch, counted from 1, that patience counts; such as one after the last stage of the
    encoder has joined the training."""


class Ema(Section):
    """Exponential moving average of the weights; a number alone is the decay."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Share of the average that a step keeps; the average reaches back about 1 / (1 - decay) steps.
    """
    warmup: bool = True
    """Whether the decay of the first steps is smaller: at most (1 + n) / (10 + n) after n steps, so
    that the average soon forgets the weights that training began with."""

    @model_validator(mode="before")
    @classmethod
    def _take_decay(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"decay": value} if is_number else value


class Training(Section):
    """Number and size of the steps, and AdamW's settings."""

    epochs: Annotated[int, Field(ge=1)] = 50
    """Number of passes over the training images."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 4
    """Number of images per step, over all devices. `auto`: as many as fit into the memory of a GPU,
    found when the run begins."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Number of parts into which a step divides its batch, to save memory. Losses and gradients are
    those of the whole batch; BatchNorm statistics and learned weights of feature pairs follow each
    part."""
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = None
    """Largest number of steps in an epoch. null: as many as the training images fill."""
    learning_rate: Positive = 1e-4
    """AdamW's learning rate in the first epoch."""
    final_learning_rate: Weight = 1e-6
    """Learning rate at the end of the cosine schedule over the epochs."""
    warmup_epochs: Weight = 0.0
    """Epochs, or a fraction of one, in which the learning rate rises linearly from step to step, up
    to that of the cosine schedule. 0: no warm-up."""
    learning_rates: LearningRates = LearningRates()
    """Factors of the learning rate, and with it of the weight decay, by parameter group."""
    weight_decay: Weight = 1e-4
    """AdamW's weight decay."""
    decay: Literal["all", "kernels"] = "all"
    """What the weight decay applies to. `all`: every trained parameter, as in PyTorch. `kernels`:
    kernels of convolutions alone; biases and BatchNorm's scales are left out."""
    anchor: Weight = 0.0
    """Decay of the weights that `student.weights` or `student.encoder_weights` holds toward their
    values there, in the place of `weight_decay`. A weight stays within about 1 / anchor of its
    start; such as `30`. 0: none."""
    interpolate: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the trained weights in the student that `evaluate`, `predict`, `export` and
    `average` take from the run; the rest is that of `student.weights`, from which the training
    began. Such as `0.5`, which is often better than both ends. `--interpolate` takes another share.
    null: 1."""
    clip: Clip = Clip()
    """Gradient clipping."""
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0
    """Number of steps with a loss or gradient that is not finite which a run skips before it stops.
    """
    ema: Ema | None = None
    """Exponential moving average (EMA) of the trained weights and BatchNorm statistics, such as
    `0.999`. Validation, the best checkpoint and exports use the average. null: none."""
    early_stopping: EarlyStopping | None = None
    """Ends the run where its score no longer improves. null: the run has all its epochs."""

    @property
    def images_per_step(self) -> int:
        """`batch_size` where it is a number; a run has replaced `auto` by one."""
        if self.batch_size == "auto":
            raise ConfigError(
                "training.batch_size: auto is for a training that is built from a configuration; "
                "name a number of images",
                code="batch-size-auto",
            )
        return self.batch_size

    @model_validator(mode="after")
    def _check_warmup(self) -> "Training":
        if self.warmup_epochs > self.epochs:
            raise invalid(
                "warmup-too-long",
                f"training.warmup_epochs: a warm-up of {self.warmup_epochs:g} epochs does not end "
                f"within the {self.epochs} of training.epochs; choose a shorter one",
            )
        return self


class Checkpoints(Section):
    """When checkpoints are written, and how many are kept."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between checkpoints, besides the one after every epoch. null: no such checkpoints."""
    every_minutes: Positive | None = 10.0
    """Minutes between checkpoints, besides the one after every epoch. null: no such checkpoints."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Number of latest checkpoints that are kept, besides the best one."""


class Mesh(Section):
    """The devices that share a step."""

    data: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Number of devices among which a batch is divided. `auto`: all devices of all processes."""
