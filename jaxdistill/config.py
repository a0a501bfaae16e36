"""The whole configuration: what may be set, what it means, and how a file and overrides become one.

A YAML file holds only what differs from the file that it `extends`; overrides such as
`training.epochs=3` come last. Unknown keys, wrong types and impossible values are refused with the
key's full path.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jaxdistill import config_tree
from jaxdistill.config_complaints import explain
from jaxdistill.errors import UserError

# Bounds far beyond any use: a configuration may be somebody else's, and memory grows with these.
LARGEST_SIDE = 2**14
Side = Annotated[int, Field(gt=0, le=LARGEST_SIDE)]
Channels = Annotated[int, Field(gt=0, le=2**13)]
Size = tuple[Side, Side]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Rgb = tuple[float, float, float]
Gives = Literal["logits", "probabilities"]
Precision = Literal["float32", "bfloat16"]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        """A path is one that a system can have, with a home folder that there is."""
        if isinstance(value, Path):
            if "\0" in str(value):
                raise ValueError("a path cannot hold the character NUL")
            try:
                value.expanduser()
            except RuntimeError:
                raise ValueError(f"there is no home folder {value.parts[0]}") from None
        return value


class MeanStd(Section):
    mean: Rgb
    """Per channel (red, green, blue), for pixels in [0, 1]."""
    std: tuple[Positive, Positive, Positive]
    """Per channel, for pixels in [0, 1]."""


Normalization = Literal["imagenet", "unit", "half"] | MeanStd


class Split(Section):
    images: Path
    """Folder of the pictures, relative to `data.root`."""
    annotations: Path | None
    """COCO instances file, relative to `data.root`; null: pictures without masks, all that lie in
    the folder and below."""

    @property
    def labelled(self) -> bool:
        """Whether the pictures have masks."""
        return self.annotations is not None


class Data(Section):
    root: Path
    """Folder that holds the pictures, in COCO layout unless they have no masks."""
    train: Split = Split(
        images=Path("images/train2017"),
        annotations=Path("annotations/instances_train2017_person_only_no_crowd.json"),
    )
    """The pictures to learn from."""
    validation: Split = Split(
        images=Path("images/val2017"),
        annotations=Path("annotations/instances_val2017_person_only_no_crowd.json"),
    )
    """The pictures to measure on, after every epoch; those without masks against the teacher."""
    unlabelled: Path | None = None
    """Folder of more pictures to learn from, without masks, relative to `data.root`; null: none."""
    prepared: Path = Path("~/.cache/jaxdistill")
    """Where the data sets built from folders are kept; each is built once."""
    image_size: Size = (640, 640)
    """Height and width that pictures and masks are resized to; multiples of 32."""
    augment: Literal["none", "flip", "light", "heavy"] = "light"
    """`light`: flip, light, colour, rare blur. `heavy`: also weather, noise, compression, ..."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    """Threads that decode pictures."""

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _completed(cls, given: Any, info: ValidationInfo) -> Any:
        """Of a split that is given in part, the rest is as usual."""
        if not isinstance(given, dict) or info.field_name is None:
            return given
        return {**cls.model_fields[info.field_name].default.model_dump(mode="json"), **given}

    @model_validator(mode="after")
    def _divisible(self) -> "Data":
        if any(side % 32 for side in self.image_size):
            height, width = self.image_size
            raise ValueError(
                f"height and width must be multiples of 32, the encoder's largest stride; "
                f"got {height} x {width}"
            )
        return self


class Unfreezing(Section):
    from_epoch: Annotated[int, Field(ge=1)]
    """The epoch, counted from 1, in which the deepest stage of the encoder joins the training."""
    every: Annotated[int, Field(ge=1)] = 1
    """Epochs until the next stage, the one above it, joins."""
    stages: Annotated[int, Field(ge=1, le=8)] = 8
    """How many join in all; an encoder has seven, and its first convolution."""
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
    decoder_channels: tuple[Channels, Channels, Channels, Channels, Channels] = (
        256,
        128,
        64,
        32,
        16,
    )
    """Channels of the five decoder blocks, from stride 16 down to stride 1."""
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
    gives: Gives = "logits"
    """What the mask tensor holds."""


class Detector(FrozenNetwork):
    normalization: Normalization = "unit"
    """What the network expects of pixels in [0, 1]."""


class Targets(Section):
    store: Path | None = None
    """Folder that keeps what teacher, detector and frozen encoder say of each picture, so that it
    is computed once and not in every epoch; null: nothing is kept."""
    clean_pictures: bool = False
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


class Config(Section):
    run: Path
    """The run's folder: configuration, metrics, checkpoints, pictures."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """All randomness comes from it and the step."""
    data: Data
    """Pictures and masks."""
    student: Student = Student()
    """The network that is trained."""
    teacher: Teacher | None = None
    """The frozen segmentation network that is imitated; null: learn from masks alone."""
    detector: Detector | None = None
    """The frozen network whose inner tensors the features are."""
    features: tuple[Feature, ...] = ()
    """Pairs of a detector tensor and a student tap."""
    targets: Targets = Targets()
    """What becomes of the frozen networks' outputs."""
    losses: Losses = Losses()
    """Weights and temperature."""
    training: Training = Training()
    """Steps and optimizer."""
    checkpoints: Checkpoints = Checkpoints()
    """When they are written and how many stay."""
    mesh: Mesh = Mesh()
    """The devices that share every step."""
    precision: Precision = "float32"
    """What the student computes in; `bfloat16` is for GPUs. Parameters, BatchNorm statistics and
    losses are float32 in any case."""

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        imitates = self.teacher is not None and (self.losses.kl > 0 or self.losses.mse > 0)
        if not self.data.train.labelled and not imitates:
            raise ValueError(
                "data.train has no masks (annotations: null), so a teacher has to teach: give "
                "teacher.onnx, and losses.kl or losses.mse above 0"
            )
        if not self.data.validation.labelled and self.teacher is None:
            raise ValueError(
                "data.validation has no masks (annotations: null), so there is only a teacher to "
                "measure against: give teacher.onnx, or data.validation.annotations"
            )
        if self.data.unlabelled is not None and not imitates and not self.features:
            raise ValueError(
                "data.unlabelled has no masks, so only a teacher or a detector can teach with it: "
                "give teacher.onnx, and losses.kl or losses.mse above 0, or set it to null"
            )
        if self.teacher is None and (self.losses.kl > 0 or self.losses.mse > 0):
            raise ValueError(
                "losses.kl and losses.mse need a teacher: give teacher.onnx, or set both to 0"
            )
        if self.features and self.detector is None:
            raise ValueError("features need a network to take them from: give detector.onnx")
        for index, feature in enumerate(self.features):
            if feature.attention in ("mask", "uncertainty") and self.teacher is None:
                raise ValueError(
                    f"features.{index}.attention: {feature.attention} is the teacher's: give "
                    f"teacher.onnx, or choose energy or none"
                )
        if self.losses.feature_weights == "learned" and len(self.features) < 2:
            raise ValueError(
                f"losses.feature_weights: learned weighs features against each other, but there "
                f"are {len(self.features)}; list at least two, or choose fixed"
            )
        repaints = self.data.augment in ("light", "heavy")
        if self.targets.store is not None and repaints and not self.targets.clean_pictures:
            raise ValueError(
                f"targets.store cannot keep targets of pictures that data.augment: "
                f"{self.data.augment} paints anew each time; choose none or flip, or let the "
                f"teacher see the clean picture with targets.clean_pictures: true"
            )
        return self


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and whatever it extends, applies `key.path=value` overrides, and checks it.

    Raises:
      UserError: names the file, the key's full path, and what was expected.
    """
    return check(config_tree.read(path, overrides), source=str(path))


def check(tree: dict[str, Any], source: str) -> Config:
    """Turns nested dictionaries into a `Config`, or raises a `UserError` of one line."""
    try:
        # Through JSON, strictly: a list is a tuple there, and nothing else is converted.
        return Config.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(error, Config)}") from None
    except (TypeError, ValueError, RecursionError) as error:  # a date, say: JSON has none
        raise UserError(f"{source}: {error}") from None


def dump(config: Config) -> str:
    """The resolved configuration as YAML, readable by `load`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
