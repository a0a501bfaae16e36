"""Settings of the student, of the frozen networks, and of the features between them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jaxdistill.config.base import Channels, OutputKind, Positive, Rgb, Section, Size, Weight


class MeanStd(Section):
    mean: Rgb
    """Per channel (red, green, blue), for pixels in [0, 1]."""
    std: tuple[Positive, Positive, Positive]
    """Per channel, for pixels in [0, 1]."""


Normalization = Literal["imagenet", "unit", "half"] | MeanStd


class Unfreezing(Section):
    from_epoch: Annotated[int, Field(ge=1)]
    """The epoch, counted from 1, in which the deepest stage of the encoder joins the training."""
    every: Annotated[int, Field(ge=1)] = 1
    """Epochs until the next stage, the one above it, joins."""
    stages: Annotated[int, Field(ge=1)] | None = None
    """Number of stages that join the training, from the deepest. null: all stages of the encoder,
    which are eight for an EfficientNet."""
    learning_rate_scale: Positive = 0.1
    """The encoder's learning rate, as a share of the others'."""
    batch_norm: bool = False
    """Whether BatchNorm in stages that have joined measures the batch, as it does in the decoder;
    else it goes on with the statistics that it came with."""


class Student(Section):
    encoder: str = "timm-efficientnet-b0"
    """`timm-efficientnet-b0` ... `-b3`, `tf_efficientnet_b0` ... `_b3`, `tf_efficientnet_lite0`."""
    encoder_weights: Path | None = None
    """Safetensors file written by `tools/convert_weights.py`; null starts from random weights."""
    weights: Path | None = None
    """Such a file of a whole student to start from, instead of `encoder_weights` alone."""
    normalization: Normalization | None = None
    """What the student's encoder expects; null: what the weights file says, else `imagenet`."""
    decoder: str = "unet"
    """Decoder: `unet`."""
    decoder_channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=32)] | None = (
        None
    )
    """Channels of the decoder's blocks, coarsest first. null: the decoder's default, which is
    `[256, 128, 64, 32, 16]` for `unet`."""
    frozen: tuple[str, ...] = ("encoder",)
    """Parameter paths that are not trained; a path stands for everything below it."""
    unfreeze: Unfreezing | None = None
    """Trains the encoder too, stage by stage, from a given epoch on; null: never."""

    @model_validator(mode="after")
    def _one_file(self) -> "Student":
        if self.weights is not None and self.encoder_weights is not None:
            raise ValueError("weights hold the encoder too: set encoder_weights to null")
        if self.unfreeze is not None and "encoder" not in self.frozen:
            raise ValueError("unfreeze is for an encoder that is frozen: list encoder in frozen")
        if any(path.partition(".")[0] == "projectors" for path in self.frozen):
            raise ValueError(
                "frozen: projectors only help to train, and start from random weights, so they are "
                "always trained; to do without them, set hidden_channels to null"
            )
        return self


class FrozenNetwork(Section):
    onnx: Path
    """Any ONNX file with one picture input (N, 3, H, W)."""
    normalization: Normalization = "imagenet"
    """What the network expects of pixels in [0, 1]."""
    size: Size | None = None
    """Input height and width; null: the file's own if fixed, else `data.image_size`."""


class Teacher(FrozenNetwork):
    tensor: str | None = None
    """The mask tensor, an output or an inner one; null: the first output."""
    output: OutputKind = "logits"
    """What the mask tensor holds."""


class Detector(FrozenNetwork):
    normalization: Normalization = "unit"
    """What the network expects of pixels in [0, 1]."""


class Targets(Section):
    cache: Path | None = None
    """Folder that keeps what teacher, detector and frozen encoder say of each picture, so that it
    is computed once and not in every epoch; null: nothing is kept."""
    clean_images: bool = False
    """Teacher and detector see a picture before its colours are changed, so that their targets can
    be kept under `data.augment` `light` and `heavy` too; the student learns to ignore the change.
    """


class Feature(Section):
    tensor: str
    """A tensor of the detector, an output or an inner one, of shape (N, C, h, w)."""
    tap: str = "encoder.3"
    """The student's feature map to align: `encoder.1` ... `encoder.5` (stride 2 ... 32) or
    `decoder.0` ... `decoder.4` (stride 16 ... 1)."""
    hidden_channels: Channels | None = 768
    """Width of the projector's hidden layer; null: a single 1x1 convolution."""
    resize: bool = False
    """Brings the student's map to the tensor's size, bilinear, where they differ; else that is an
    error."""
    loss: Literal["mse", "cosine", "cwd", "mgd"] = "mse"
    """How projected and target features are compared: squared distance, cosine, channel-wise
    distillation, masked generative distillation."""
    temperature: Positive = 4.0
    """Of `cwd`: softens each channel's distribution over the positions."""
    masked_share: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Of `mgd`: how many of the positions are hidden from the block that restores them."""
    attention: Literal["none", "mask", "uncertainty", "energy"] = "none"
    """Where a difference counts more: on the teacher's mask, where the teacher is unsure, or where
    the tensor itself is large. Not for `cwd`, which weighs the positions itself."""
    standardize: bool = False
    """Brings each channel of the tensor to mean 0 and deviation 1, measured before the first
    step; channels that never change do not count."""
    weight: Weight = 1.0
    """Of this pair within `losses.feature`."""

    @model_validator(mode="after")
    def _attends(self) -> "Feature":
        if self.loss == "cwd" and self.attention != "none":
            raise ValueError(
                f"attention: {self.attention} is not defined for loss: cwd, whose softmax weighs "
                f"the positions itself; choose attention: none, or another loss"
            )
        return self
