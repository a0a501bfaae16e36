"""Values that travel between the packages: batches, teacher outputs, model outputs, train state.

Shapes are NHWC: `b` images, height `h`, width `w`, channels last. Batches hold NumPy arrays as they
are read and JAX arrays inside a step.
"""

from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Float, Int, Num

Variables = dict[str, Array]
"""Arrays by their dotted path in the model, such as `decoder.blocks.0.conv1.conv.kernel`."""


class Batch(NamedTuple):
    """Images and masks side by side."""

    images: Num[Any, "b h w 3"]
    """RGB; uint8 as read, float32 in [0, 1] after augmentation."""
    masks: Num[Any, "b h w 1"]
    """1 is a person, 0 is not; uint8 as read, float32 after augmentation. All 0 where unknown."""
    weights: Float[Any, " b"]
    """1 for an example, 0 for the padding that fills up the last batch."""
    labelled: Float[Any, " b"]
    """1 where `masks` holds the ground truth; 0 where the image has none, and in the padding."""
    ids: Int[Any, " b"]
    """Ids of the images in their dataset; 0 in the padding."""


class TeacherOutputs(NamedTuple):
    """What the frozen networks compute for one batch, and the student is to imitate."""

    logits: Float[Array, "b h w 1"] | None
    """The teacher's mask logits at the size of the images; None without a teacher."""
    features: tuple[Float[Array, "b _ _ _"], ...] = ()
    """One map (B, h, w, C) for each feature pair, at the detector's own resolution."""
    encoder_features: tuple[Float[Array, "b _ _ _"], ...] | None = None
    """The feature maps of the student's own frozen encoder, where they were cached."""


class FeatureScale(NamedTuple):
    """Standardisation of a target feature map: `(x - mean) * factor`.

    `factor` is 0 where a channel never changes.
    """

    mean: Float[Array, " c"]
    """Mean of each channel."""
    factor: Float[Array, " c"]
    """One over the standard deviation of each channel."""


class ModelOutputs(NamedTuple):
    """What the student computes for one batch."""

    logits: Float[Array, "b h w 1"]
    """Mask logits; a person where they are above 0."""
    projected: tuple[Float[Array, "b _ _ _"], ...] = ()
    """One projected map for each feature pair, comparable with `TeacherOutputs.features`."""
    scales: tuple[FeatureScale | None, ...] = ()
    """Standardisation of each pair's target; None for a pair that has none."""
    balance: Float[Array, " pairs"] | None = None
    """Logits of the learned weights of the pairs; None where the weights are fixed."""


class TrainState(NamedTuple):
    """Everything that a training step changes."""

    step: Int[Array, ""]
    """Number of steps that were taken."""
    params: Variables
    """The trained parameters by path."""
    batch_stats: Variables
    """The BatchNorm statistics that training updates, by path."""
    opt_state: optax.OptState
    """The optimizer's state."""
    ema: Variables | None = None
    """Moving average of `params` and `batch_stats` by path (`training.ema`); None without one."""
