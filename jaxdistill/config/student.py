"""The section `student`: the network that is trained."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from jaxdistill.config.base import (
    Channels,
    Normalization,
    Positive,
    Section,
    Upsampling,
    invalid,
)


class Unfreezing(Section):
    """When the stages of a frozen encoder join the training."""

    from_epoch: Annotated[int, Field(ge=1)]
    """Epoch, counted from 1, in which the deepest stage of the encoder joins the training."""
    every: Annotated[int, Field(ge=1)] = 1
    """Epochs until the next stage, the one above it, joins the training."""
    stages: Annotated[int, Field(ge=1)] | None = None
    """Number of stages that join the training, from the deepest upwards. null: all stages of the
    encoder; an EfficientNet has eight, counting its first convolution."""
    learning_rate_scale: Positive = 0.1
    """Factor of the learning rate for the encoder's parameters."""
    batch_norm: bool = False
    """Whether BatchNorm layers of unfrozen stages use and update batch statistics. false: they keep
    the statistics of the pretrained encoder."""


class Student(Section):
    """Architecture, initial weights, and frozen parts of the student."""

    encoder: str = "timm-efficientnet-b0"
    """Name of a registered encoder: `timm-efficientnet-b0` ... `-b3`, `tf_efficientnet_b0` ...
    `_b3`, `tf_efficientnet_lite0`, `mobilenetv3_small_050`, `_075`, `_100`,
    `mobilenetv3_large_075`, `_100`, `tf_mobilenetv3_small_minimal_100`,
    `mobilenetv4_conv_small`, `_035`, `_050`, `mediapipe-selfie`, `mediapipe-selfie-bn`."""
    encoder_depth: Annotated[int, Field(ge=1)] | None = None
    """Number of the encoder's feature maps that are used, finest first; the layers that only the
    others need are left out. Four maps of an EfficientNet or a MobileNet end at stride 16. null:
    all."""
    encoder_weights: Path | None = None
    """Safetensors file of the encoder, written by `jaxdistill convert-weights`. null: random
    initial weights."""
    weights: Path | None = None
    """Safetensors file of a whole student, encoder included, used instead of `encoder_weights`."""
    normalization: Normalization | None = None
    """Normalisation of the student's input. null: the one recorded in the weights file, else
    `imagenet`. Where the grey levels of your images are `a + b x` of those that the weights know,
    take `a + b m` as the mean and `b s` as the std, for the weights' own mean `m` and std `s`: a
    negative `b`, of a camera whose images are negatives, inverts."""
    decoder: str = "unet"
    """Name of a registered decoder: `unet`; `light-unet`, a UNet of depthwise-separable
    convolutions; `lr-aspp`; `mediapipe-selfie`, with gated skip connections;
    `mediapipe-selfie-bn`, the same with BatchNorms."""
    decoder_channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=32)] | None = (
        None
    )
    """Channels of the decoder's blocks, from the lowest resolution to the highest. null: the
    decoder's default, `[256, 128, 64, 32, 16]` for `unet`. Fewer numbers than the encoder has
    feature maps end the decoder earlier, at lower resolution: with one less, `unet` computes its
    logits at half the image's size."""
    upsampling: Upsampling | None = None
    """How logits reach the image's size where the decoder ends at a larger stride than 1:
    `bilinear` interpolates them, `learned` is a transposed convolution. null: the decoder's
    default."""
    frozen: tuple[str, ...] = ("encoder",)
    """Paths of parameters that are not trained; a path includes everything below it."""
    unfreeze: Unfreezing | None = None
    """Trains the frozen encoder stage by stage, from a given epoch on. null: it stays frozen."""

    @model_validator(mode="after")
    def _check(self) -> "Student":
        if self.weights is not None and self.encoder_weights is not None:
            raise invalid(
                "conflicting-keys",
                "weights includes the encoder: set encoder_weights to null",
            )
        if self.unfreeze is not None and "encoder" not in self.frozen:
            raise invalid(
                "conflicting-keys",
                "unfreeze needs a frozen encoder: add encoder to frozen",
            )
        if any(path.partition(".")[0] == "projectors" for path in self.frozen):
            raise invalid(
                "frozen-projectors",
                "frozen: projectors start from random weights and are always trained; to "
                "use a single convolution instead, set features.N.hidden_channels to null",
            )
        return self
