"""The sections `losses` and `features`: loss terms, their weights, and feature pairs."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from jaxdistill.config.base import Channels, Positive, Section, Side, Weight, invalid

OBJECTS = "python"
"""Key of `losses` that stands for loss terms that are objects, which a file cannot describe."""


class Temperature(Section):
    """Temperature of the KL loss over the epochs."""

    initial: Positive = 3.0
    """Temperature in the first epoch."""
    final: Positive = 3.0
    """Temperature in the last epoch."""
    schedule: Literal["linear", "cosine", "exponential"] = "linear"
    """Interpolation between the initial and the final temperature."""


class Losses(Section):
    """Weights of the loss terms. A further key is the weight of a loss registered elsewhere."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Weight] = Field(init=False)

    kl: Weight = 1.0
    """Weight of the KL divergence from the teacher's to the student's mask probabilities, both at
    `losses.temperature`."""
    mse: Weight = 0.5
    """Weight of the mean squared error between teacher and student logits."""
    bce: Weight = 0.5
    """Weight of the binary cross-entropy with the ground-truth mask."""
    dice: Weight = 1.0
    """Weight of the Dice loss with the ground-truth mask."""
    boundary: Weight = 0.0
    """Weight of the cross-entropy with the ground-truth mask in which pixels near its outline count
    more."""
    teacher_boundary: Weight = 0.0
    """Weight of the same cross-entropy with the teacher's probabilities, which needs no masks."""
    boundary_radius: Side = 5
    """Pixels to either side of an outline that `boundary` and `teacher_boundary` count more."""
    boundary_factor: Weight = 5.0
    """By how much more they count: their weight is 1 + boundary_factor, that of others 1."""
    feature: Weight = 0.5
    """Weight of the sum of all feature losses."""
    feature_weights: Literal["fixed", "learned"] = "fixed"
    """`learned`: each feature pair has a trained weight besides its own `weight`; the mean of the
    trained weights is 1."""
    feature_weights_temperature: Positive = 1.0
    """Temperature of the learned weights. 1: all pairs come to contribute equally, whatever the
    scale of their losses; above 1: the weights stay closer to 1; below 1: pairs with a small loss
    get more weight."""
    temperature: Temperature = Temperature()
    """Temperature that divides teacher and student logits in the KL loss."""
    kl_scale: Literal["none", "t", "t2"] = "t"
    """Factor of the KL loss: 1 (`none`), the temperature T (`t`, as in the reference pipeline) or T
    squared (`t2`, as in Hinton et al., 2015)."""

    @property
    def of_masks(self) -> bool:
        """Whether a loss compares the student with masks."""
        return self.bce > 0 or self.dice > 0 or self.boundary > 0

    @property
    def of_teacher(self) -> bool:
        """Whether a loss compares the student with the teacher's masks."""
        return self.kl > 0 or self.mse > 0 or self.teacher_boundary > 0

    @property
    def given_as_objects(self) -> bool:
        """Whether a trainer was given the loss terms as objects, with or without a teacher."""
        return OBJECTS in self.registered

    @property
    def registered(self) -> dict[str, float]:
        """Weights of the losses registered outside the package, by name."""
        return dict(self.__pydantic_extra__)


class Feature(Section):
    """A pair of a detector tensor and a feature map (tap) of the student."""

    tensor: str
    """Name of a tensor of the detector, an output or an inner tensor, of shape (N, C, h, w)."""
    tap: str = "encoder.3"
    """Feature map of the student: `encoder.1` ... `encoder.5` (strides 2 ... 32) or `decoder.0` ...
    `decoder.4` (strides 16 ... 1)."""
    hidden_channels: Channels | None = 768
    """Channels of the projector's hidden layer. null: the projector is a single 1x1 convolution."""
    resize: bool = False
    """Whether the student's feature map is resized bilinearly to the tensor's height and width.
    false: a difference in size is an error."""
    loss: Literal["mse", "cosine", "cwd", "mgd"] = "mse"
    """Loss between projected and target features: mean squared error, cosine distance, channel-wise
    distillation (`cwd`) or masked generative distillation (`mgd`)."""
    temperature: Positive = 4.0
    """Temperature of `cwd`: divides the values before the softmax over the positions."""
    masked_share: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Share of the positions that `mgd` hides, in [0, 1)."""
    attention: Literal["none", "mask", "uncertainty", "energy"] = "none"
    """Weight of each position in the loss: the teacher's mask (`mask`), the teacher's uncertainty
    (`uncertainty`) or the magnitude of the target (`energy`). Not available for `cwd`, which
    already weights the positions."""
    standardize: bool = False
    """Whether each channel of the target is standardised to mean 0 and standard deviation 1, with
    statistics measured before the first step. Constant channels do not contribute."""
    weight: Weight = 1.0
    """Weight of this pair within the feature loss."""

    @property
    def uses_teacher_mask(self) -> bool:
        """Whether the positions are weighted by the teacher's mask."""
        return self.attention in ("mask", "uncertainty")

    @model_validator(mode="after")
    def _check_attention(self) -> "Feature":
        if self.loss == "cwd" and self.attention != "none":
            raise invalid(
                "invalid-attention",
                f"attention: {self.attention} is not defined for loss: cwd, whose softmax already "
                f"weights the positions; choose attention: none, or another loss",
            )
        return self
