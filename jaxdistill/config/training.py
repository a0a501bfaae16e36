"""Settings of the losses and the steps."""

from typing import Annotated, Literal

from pydantic import Field

from jaxdistill.config.base import Positive, Section, Weight


class Temperature(Section):
    initial: Positive = 3.0
    """In the first epoch."""
    final: Positive = 3.0
    """In the last epoch."""
    schedule: Literal["linear", "cosine", "exponential"] = "linear"
    """The way from initial to final."""


class Losses(Section):
    kl: Weight = 1.0
    """Weight of the divergence between teacher and student at the temperature."""
    mse: Weight = 0.5
    """Weight of the squared distance between teacher and student logits."""
    bce: Weight = 0.5
    """Weight of the binary cross-entropy with the mask."""
    dice: Weight = 1.0
    """Weight of the Dice loss with the mask."""
    feature: Weight = 0.5
    """Weight of the feature losses together."""
    feature_weights: Literal["fixed", "learned"] = "fixed"
    """`learned`: besides its own `weight`, each pair has one that is trained; their mean is 1."""
    feature_weights_temperature: Positive = 1.0
    """Of the learned weights: 1 lets every pair come to count the same, whatever its size; more
    keeps the weights closer to 1, and less prefers the pairs that are easy."""
    temperature: Temperature = Temperature()
    """Softens teacher and student in the KL loss."""
    kl_scale: Literal["none", "t", "t2"] = "t"
    """Factor of the KL loss: 1, T (the PyTorch original), or T squared (Hinton's)."""


class Clip(Section):
    norm: Positive | None = 0.5
    """Largest gradient norm; null: no clipping."""
    per: Literal["all", "group"] = "group"
    """One norm over all parameters, or one each for encoder, decoder, head and projectors."""


class Training(Section):
    epochs: Annotated[int, Field(ge=1)] = 50
    """Passes over the training split."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Pictures per step."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """In how many parts a step takes its batch, one after the other, where memory does not hold it
    at once. Losses and gradients are the whole batch's; BatchNorm measures each part by itself."""
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = None
    """Ends an epoch early, for rehearsals; null: the whole split."""
    learning_rate: Positive = 1e-4
    """AdamW's, in the first epoch."""
    final_learning_rate: Weight = 1e-6
    """Where the cosine over the epochs ends."""
    weight_decay: Weight = 1e-4
    """AdamW's."""
    clip: Clip = Clip()
    """Bounds the gradient."""
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0
    """So many steps of a run may be lost to a loss or gradient that is not finite, before it stops.
    """


class Checkpoints(Section):
    every_steps: Annotated[int, Field(ge=1)] | None = None
    """A checkpoint after so many steps, besides the one after every epoch; null: no such one."""
    every_minutes: Positive | None = 10.0
    """A checkpoint when the last one is so old; null: no such one."""
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the latest are kept, next to the best."""


class Mesh(Section):
    data: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Among how many devices a batch is divided; `auto`: all that there are, of all processes."""
