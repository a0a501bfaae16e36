"""Checks before data is touched: are names known, do files exist, and do sizes fit?"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxdistill import config, losses, models
from jaxdistill.checkpoint.best import can_rebuild
from jaxdistill.config import Size
from jaxdistill.models import DECODERS, ENCODERS, Student
from jaxdistill.reporting import trackers
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.training.run_folder import is_run


def check(settings: config.Config) -> None:
    """Checks the names in a configuration against the registries, and its files.

    Args:
      settings: The configuration of a training run.

    Raises:
      ConfigError: A name is unknown (`unknown-encoder`, `unknown-decoder`, `unknown-loss`,
        `unknown-tracker`), a tracker is not installed (`tracker-not-installed`), or a file does not
        exist (`no-such-file`).
    """
    _ = ENCODERS[settings.student.encoder], DECODERS[settings.student.decoder]
    losses.from_config(settings)
    trackers.check(settings.trackers)
    for key, path in _files(settings):
        if not path.is_file():
            what = f"there is no file {path.absolute()}"
            if key == "student.weights" and is_run(path):
                what = f"{path} is a run; `jaxdistill export {path} NAME.safetensors` writes a file"
            raise ConfigError(f"{key}: {what}", code="no-such-file")


def check_sizes(model: Student, image_size: Size, sizes: Sequence[Size]) -> None:
    """Checks that a student can compute images of all sizes of a run.

    Args:
      model: The student.
      image_size: `data.image_size`.
      sizes: Sizes of training images.

    Raises:
      ConfigError: It cannot (`image-size`).
    """
    models.check_image_size(model, image_size)
    for size in sizes:
        if size != image_size:
            models.check_image_size(model, size, "data.sizes")


def _files(settings: config.Config) -> Iterator[tuple[str, Path]]:
    for key, path in (
        *((f"{role}.onnx", teacher.onnx) for role, teacher in settings.teacher_roles.items()),
        ("detector.onnx", settings.detector and settings.detector.onnx),
        ("student.weights", settings.student.weights),
        ("student.encoder_weights", settings.student.encoder_weights),
    ):
        if path and not (key.startswith("student.") and can_rebuild(settings.run)):
            yield key, path
