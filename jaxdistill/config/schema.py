"""The whole configuration, and the checks that concern several sections."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from jaxdistill.config.base import Precision, Section, invalid
from jaxdistill.config.data import Data
from jaxdistill.config.losses import Feature, Losses
from jaxdistill.config.student import Student
from jaxdistill.config.teacher import Detector, Onnxruntime, Targets, Teacher, Teachers
from jaxdistill.config.training import Checkpoints, Mesh, Training


class Config(Section):
    """All settings of a run."""

    run: Path
    """Folder of the run: configuration, metrics, checkpoints, sample images."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of all random numbers, which depend on the seed and the step alone."""
    data: Data = Data()
    """Images and masks."""
    student: Student = Student()
    """The network that is trained."""
    teacher: Teachers | None = None
    """Frozen segmentation network whose masks the student imitates, or a list of such networks, the
    mean of whose probabilities it imitates. null: none."""
    detector: Detector | None = None
    """Frozen network whose inner tensors the student's feature maps imitate. null: none."""
    features: tuple[Feature, ...] = ()
    """Pairs of a detector tensor and a feature map (tap) of the student."""
    onnxruntime: Onnxruntime = Onnxruntime()
    """How onnxruntime computes the frozen networks on a GPU."""
    targets: Targets = Targets()
    """Caching of the frozen networks' outputs."""
    losses: Losses = Losses()
    """Weights of the loss terms, and the temperature. A further key is the weight of a loss that a
    plug-in registers."""
    training: Training = Training()
    """Steps and optimizer."""
    checkpoints: Checkpoints = Checkpoints()
    """When checkpoints are written, and how many are kept."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers that metrics and sample images are also sent to: `wandb`, `mlflow`."""
    mesh: Mesh = Mesh()
    """The devices that share a step."""
    precision: Precision = "float32"
    """Data type of the student's layers; `bfloat16` is meant for GPUs. Parameters, BatchNorm
    statistics and losses are float32 in both cases."""

    @property
    def weighted_features(self) -> tuple[Feature, ...]:
        """Feature pairs that contribute to the loss; empty if all their weights are 0."""
        weighted = self.losses.feature > 0 and any(feature.weight > 0 for feature in self.features)
        return self.features if weighted else ()

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The teachers; empty where there is none."""
        return tuple(self.teacher_roles.values())

    @property
    def teacher_roles(self) -> dict[str, Teacher]:
        """The teachers by their keys: `teacher`, or `teacher.0` and so on of a list."""
        if isinstance(self.teacher, tuple):
            return {f"teacher.{index}": each for index, each in enumerate(self.teacher)}
        return {} if self.teacher is None else {"teacher": self.teacher}

    @property
    def imitates(self) -> bool:
        """Whether the student is trained on the teacher's logits."""
        return bool(self.teachers) and self.losses.of_teacher

    @model_validator(mode="after")
    def _check_masks(self) -> "Config":
        registered = any(weight > 0 for weight in self.losses.registered.values())
        if not self.data.train.labelled and not self.imitates and not registered:
            raise invalid(
                "masks-needed",
                "data.train has no masks (annotations: null), so that training needs a teacher: "
                "set teacher.onnx, and losses.kl or losses.mse above 0",
            )
        # A trainer that is given objects has a teacher that is not known here, and checks itself.
        if not (self.data.validation.labelled or self.teachers or self.losses.given_as_objects):
            raise invalid(
                "masks-needed",
                "data.validation has no masks (annotations: null), so that validation needs a "
                "teacher: set teacher.onnx, or data.validation.annotations",
            )
        unsupervised = self.imitates or self.weighted_features or registered
        if self.data.unlabelled is not None and not unsupervised:
            raise invalid(
                "masks-needed",
                "data.unlabelled has no masks, so that it needs a teacher or a detector: set "
                "teacher.onnx, and losses.kl or losses.mse above 0, or features and "
                "losses.feature above 0; or set data.unlabelled to null",
            )
        return self

    @model_validator(mode="after")
    def _check_networks(self) -> "Config":
        if not self.teachers and self.losses.of_teacher:
            raise invalid(
                "teacher-needed",
                "losses.kl, losses.mse and losses.teacher_boundary need a teacher: set "
                "teacher.onnx, or set them to 0",
            )
        if self.features and self.detector is None:
            raise invalid(
                "detector-needed",
                "features need a network that computes them: set detector.onnx, or features to []",
            )
        for index, feature in enumerate(self.features):
            if feature.uses_teacher_mask and not self.teachers:
                raise invalid(
                    "teacher-needed",
                    f"features.{index}.attention: {feature.attention} needs a teacher: set "
                    f"teacher.onnx, or choose energy or none",
                )
        if self.losses.feature_weights == "learned" and len(self.features) < 2:
            raise invalid(
                "features-needed",
                f"losses.feature_weights: learned needs at least two features, but there are "
                f"{len(self.features)}; add features, or choose fixed",
            )
        return self

    @model_validator(mode="after")
    def _check_losses(self) -> "Config":
        supervised = self.data.has_masks and self.losses.of_masks
        registered = any(weight > 0 for weight in self.losses.registered.values())
        if not (self.imitates or supervised or self.weighted_features or registered):
            raise invalid(
                "nothing-to-learn",
                "every loss that could train the student is 0: set a weight above 0, of kl or mse "
                "(with a teacher), of bce or dice (with masks), or of feature (with features)",
            )
        return self

    @model_validator(mode="after")
    def _check_learning_rates(self) -> "Config":
        if self.student.unfreeze is not None and self.training.learning_rates.encoder != 1:
            raise invalid(
                "conflicting-keys",
                "training.learning_rates.encoder: an encoder that joins the training by "
                "student.unfreeze has student.unfreeze.learning_rate_scale instead; set that one",
            )
        return self

    @model_validator(mode="after")
    def _check_anchor(self) -> "Config":
        loaded = self.student.weights or self.student.encoder_weights
        if self.training.anchor > 0 and loaded is None:
            raise invalid(
                "anchor-needs-weights",
                "training.anchor draws weights back to those of a file, and the student starts "
                "from random ones: set student.weights or student.encoder_weights, or "
                "training.anchor to 0",
            )
        return self

    @model_validator(mode="after")
    def _check_interpolation(self) -> "Config":
        if self.training.interpolate not in (None, 1) and self.student.weights is None:
            raise invalid(
                "interpolate-needs-weights",
                "training.interpolate takes weights between the trained ones and those of "
                "student.weights, which names no file: set it, or training.interpolate to null",
            )
        return self

    @model_validator(mode="after")
    def _check_cache(self) -> "Config":
        for key in ("copy_paste", "sizes"):
            if self.targets.cache is not None and getattr(self.data, key):
                raise invalid(
                    "cannot-cache",
                    f"targets.cache cannot hold outputs for images that data.{key} makes anew in "
                    f"every epoch: set targets.cache to null, or leave data.{key} out",
                )
        photometric = self.data.augment in ("light", "heavy")
        if self.targets.cache is not None and photometric and not self.targets.clean_images:
            raise invalid(
                "cannot-cache",
                f"targets.cache cannot hold outputs for images that data.augment: "
                f"{self.data.augment} changes in every epoch: set data.augment to none or flip, or "
                f"targets.clean_images to true",
            )
        return self
