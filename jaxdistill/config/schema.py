"""The whole configuration, how its parts fit, and how a file and overrides become one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from jaxdistill.config import yaml_files
from jaxdistill.config.base import Precision, Section
from jaxdistill.config.data import Data
from jaxdistill.config.messages import explain
from jaxdistill.config.networks import Detector, Feature, Student, Targets, Teacher
from jaxdistill.config.training import Checkpoints, Losses, Mesh, Training
from jaxdistill.runtime.errors import UserError

_TEACHERS_ATTENTION = ("mask", "uncertainty")


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

    @property
    def taught_features(self) -> tuple[Feature, ...]:
        """Those that the student learns from: none where `losses.feature` is 0, or each weight."""
        weighs = self.losses.feature > 0 and any(feature.weight > 0 for feature in self.features)
        return self.features if weighs else ()

    @property
    def imitates(self) -> bool:
        """Whether the student learns from the teacher's logits."""
        return self.teacher is not None and (self.losses.kl > 0 or self.losses.mse > 0)

    @property
    def asks_teacher(self) -> bool:
        """Whether training needs the teacher; else it is there to be measured against."""
        return self.imitates or any(
            feature.attention in _TEACHERS_ATTENTION for feature in self.taught_features
        )

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if not self.data.train.labelled and not self.imitates:
            raise ValueError(
                "data.train has no masks (annotations: null), so a teacher has to teach: give "
                "teacher.onnx, and losses.kl or losses.mse above 0"
            )
        if not self.data.validation.labelled and self.teacher is None:
            raise ValueError(
                "data.validation has no masks (annotations: null), so there is only a teacher to "
                "measure against: give teacher.onnx, or data.validation.annotations"
            )
        if self.data.unlabelled is not None and not self.imitates and not self.taught_features:
            raise ValueError(
                "data.unlabelled has no masks, so only a teacher or a detector can teach with it: "
                "give teacher.onnx, and losses.kl or losses.mse above 0, or features and "
                "losses.feature above 0, or set it to null"
            )
        if self.teacher is None and (self.losses.kl > 0 or self.losses.mse > 0):
            raise ValueError(
                "losses.kl and losses.mse need a teacher: give teacher.onnx, or set both to 0"
            )
        if self.features and self.detector is None:
            raise ValueError("features need a network to take them from: give detector.onnx")
        for index, feature in enumerate(self.features):
            if feature.attention in _TEACHERS_ATTENTION and self.teacher is None:
                raise ValueError(
                    f"features.{index}.attention: {feature.attention} is the teacher's: give "
                    f"teacher.onnx, or choose energy or none"
                )
        if self.losses.feature_weights == "learned" and len(self.features) < 2:
            raise ValueError(
                f"losses.feature_weights: learned weighs features against each other, but there "
                f"are {len(self.features)}; list at least two, or choose fixed"
            )
        supervised = self.data.train.labelled and (self.losses.bce > 0 or self.losses.dice > 0)
        if not self.imitates and not supervised and not self.taught_features:
            raise ValueError(
                "nothing teaches the student: give a loss a weight above 0, kl or mse with a "
                "teacher, bce or dice with masks, feature with features"
            )
        repaints = self.data.augment in ("light", "heavy")
        if self.targets.cache is not None and repaints and not self.targets.clean_images:
            raise ValueError(
                f"targets.cache cannot keep targets of pictures that data.augment: "
                f"{self.data.augment} paints anew each time; choose none or flip, or let the "
                f"teacher see the clean picture with targets.clean_images: true"
            )
        return self


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and whatever it extends, applies `key.path=value` overrides, and checks it.

    Raises:
      UserError: names the file, the key's full path, and what was expected.
    """
    return check(yaml_files.read(path, overrides), source=str(path))


def check(values: dict[str, Any], source: str) -> Config:
    """Turns nested dictionaries into a `Config`, or raises a `UserError` of one line."""
    try:
        # Through JSON, strictly: a list is a tuple there, and nothing else is converted.
        return Config.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(error, Config)}") from None
    except (TypeError, ValueError, RecursionError) as error:  # a date, say: JSON has none
        raise UserError(f"{source}: {error}") from None


def dump(config: Config) -> str:
    """The resolved configuration as YAML, readable by `load`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
