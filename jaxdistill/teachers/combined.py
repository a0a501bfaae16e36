"""Two teachers as one, and the teacher that a configuration describes."""

import functools
from pathlib import Path
from typing import Any

from jaxtyping import Array, Float

from jaxdistill.config import Config, Size
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.teachers import base
from jaxdistill.teachers.base import OutputShapes, Teacher
from jaxdistill.teachers.ensemble import Ensemble
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_teacher import Onnx
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.types import TeacherOutputs


class Combined:
    """Takes the mask from one teacher and the feature maps from another.

    Two `Onnx` teachers that run the same file on the same input are opened and run as one.

    Args:
      teacher: Its logits are used.
      detector: Its features are used.

    Raises:
      ConfigError: The teacher has no logits, or the detector no features
        (`teacher-without-outputs`).
    """

    def __init__(self, teacher: Teacher, detector: Teacher) -> None:
        mask = base.restrict(teacher, features=False)
        features = base.restrict(detector, logits=False)
        if mask is None or features is None:
            raise ConfigError(
                "Combined expects a teacher with a mask and a detector with features",
                code="teacher-without-outputs",
            )
        self._merged: Onnx | None = None
        if (
            isinstance(mask, Onnx)
            and isinstance(features, Onnx)
            and mask.has_same_input_as(features)
        ):
            self._merged = mask.with_features(features.features)
        self._teacher, self._detector = mask, features

    def __call__(self, images: Float[Array, "b h w 3"]) -> TeacherOutputs:
        """Runs both networks on images in [0, 1]; see `Teacher`."""
        if self._merged:
            return self._merged(images)
        return TeacherOutputs(self._teacher(images).logits, self._detector(images).features)

    def set_batch_size(self, batch_size: int) -> None:
        """Says how many images each device computes at once; see `base.set_batch_size`."""
        for part in (self._merged,) if self._merged else (self._teacher, self._detector):
            base.set_batch_size(part, batch_size)

    def output_shapes(self, image_size: Size) -> OutputShapes:
        """Returns the shapes of the outputs for images of a size."""
        if self._merged:
            return self._merged.output_shapes(image_size)
        logits = base.output_shapes(self._teacher, image_size).logits
        return OutputShapes(logits, base.output_shapes(self._detector, image_size).features)

    @property
    def provenance(self) -> dict[str, Any] | None:
        """All that `logits` and `features` depend on; None where a part does not declare it."""
        if self._merged:
            return self._merged.provenance
        if not (base.has_provenance(self._teacher) and base.has_provenance(self._detector)):
            return None
        return {
            "logits": base.output_provenance(self._teacher, "logits"),
            "features": base.output_provenance(self._detector, "features"),
        }

    def restrict(self, *, logits: bool = True, features: bool = True) -> Teacher | None:
        """Returns this teacher with fewer outputs; None where no output is left.

        Args:
          logits: Whether the mask is needed.
          features: Whether the feature maps are needed.
        """
        if self._merged:
            return self._merged.restrict(logits=logits, features=features)
        if logits and features:
            return self
        return self._teacher if logits else self._detector if features else None

    def cached(self, directory: Path | str) -> CachedTeacher:
        """Returns this teacher with its outputs kept in a cache directory; see `CachedTeacher`."""
        return CachedTeacher(self, directory)

    def describe(self) -> list[str]:
        """Returns the lines about both networks."""
        if self._merged:
            return self._merged.describe()
        return base.describe_teacher(self._teacher) + base.describe_teacher(self._detector)


def of_masks(config: Config) -> Teacher | None:
    """Builds the teacher of a configuration without the detector; see `from_config`.

    Args:
      config: The configuration.
    """
    return from_config(config.model_copy(update={"detector": None, "features": ()}))


def from_config(
    config: Config, threads: int | None = None, batch_size: int | None = None
) -> Teacher | None:
    """Builds the teacher that `teacher`, `detector` and `features` of a configuration describe.

    The networks are opened and tried on a black image, so that errors appear here. Features with
    no weight are left out. What training does not need is left out with `restrict`.

    Args:
      config: The configuration.
      threads: Upper bound of onnxruntime's threads on the CPU; None uses every core.
      batch_size: Number of images that a GPU computes at once; None: that of the first batch.

    Returns:
      The teacher; None where neither a mask nor features are asked for.

    Raises:
      NetworkError: A file cannot be used, or not as it is described.
    """
    graph = functools.cache(OnnxGraph)
    options = config.onnxruntime
    if options.precision == "auto" and config.precision != "bfloat16":
        options = options.model_copy(update={"precision": "float32"})
    teacher: Teacher | None = None
    masks = [
        Onnx(graph(section.onnx), **section.description, threads=threads, options=options)
        for section in config.teachers
    ]
    if masks:
        weights = [section.weight for section in config.teachers]
        teacher = Ensemble(masks, weights) if len(masks) > 1 else masks[0]
    if config.detector and config.weighted_features:
        detector = Onnx(
            graph(config.detector.onnx),
            output=None,
            **config.detector.description,
            features=[feature.tensor for feature in config.weighted_features],
            threads=threads,
            options=options,
        )
        teacher = Combined(teacher, detector) if teacher else detector
    if batch_size is not None:
        base.set_batch_size(teacher, batch_size)
    base.output_shapes(teacher, config.data.image_size)
    return teacher
