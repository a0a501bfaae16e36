"""Students in JAX: the best one of a run, or a model in memory."""

from pathlib import Path

import jax
from flax import nnx

from jaxdistill.checkpoint.best import Best
from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.checkpoint.interpolation import INTERPOLATED, interpolated
from jaxdistill.config import Size
from jaxdistill.data import image_ops
from jaxdistill.evaluation.backend import Images, Logits, ModelOptions
from jaxdistill.models.feature_info import check_image_size
from jaxdistill.models.parameters import flat_variables
from jaxdistill.models.student import Student
from jaxdistill.runtime.errors import ConfigError


class FlaxBackend:
    """A student in JAX.

    Args:
      model: The student.
      size: Height and width of the images at which it predicts best.
      name: What the model is, for the description.

    Raises:
      ConfigError: The size does not fit the student (`image-size`).
    """

    def __init__(self, model: Student, size: Size, name: str = "model") -> None:
        check_image_size(model, size, "size (--size)")
        height, width = size
        self.size = size
        self.description = (
            f"{name}, in {model.dtype} on {jax.devices()[0].device_kind}, at image size "
            f"{height} x {width}"
        )
        self.fingerprint = fingerprint(flat_variables(model))
        self._model = model
        self._forward = nnx.jit(lambda model, images: model(images, train=False).logits)

    def logits(self, images: Images) -> Logits:
        """Returns the mask logits; height and width are multiples of the model's strides."""
        return self._forward(self._model, image_ops.to_float(images))


def open_run(path: Path, options: ModelOptions) -> FlaxBackend:
    """Opens the best student of a run.

    Args:
      path: The run folder.
      options: Only the size and the interpolation can be chosen.

    Raises:
      RunError: See `checkpoint.best.best` and `checkpoint.interpolation.interpolated`.
      ConfigError: More than the size is given (`options-for-files`), or the size does not fit the
        student (`image-size`).
    """
    return of_best(best_of(path), options)


def of_best(best: Best, options: ModelOptions) -> FlaxBackend:
    """Returns the backend of a student that was read from a run; see `open_run`."""
    if options.describes_file:
        raise ConfigError(
            f"{best.settings.run}: a run describes itself; output (--output-kind), normalization, "
            f"tensor and the other options of a network are for ONNX files",
            code="options-for-files",
        )
    best = interpolated(best, options.interpolate)
    size = options.size or best.settings.data.image_size
    name = f"{best.settings.run}: student after step {best.step}"
    if (share := best.metadata.get(INTERPOLATED)) is not None:
        name += f", {share:g} of the way from the run's start"
    return FlaxBackend(best.student, size, name)
