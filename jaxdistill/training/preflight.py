"""Checks before data is touched: are all names known, and do all files exist?"""

from collections.abc import Iterator
from pathlib import Path

from jaxdistill import config, losses
from jaxdistill.checkpoint.best import can_rebuild
from jaxdistill.models import DECODERS, ENCODERS
from jaxdistill.reporting import trackers
from jaxdistill.runtime.errors import ConfigError


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
            raise ConfigError(f"{key}: there is no file {path.absolute()}", code="no-such-file")


def _files(settings: config.Config) -> Iterator[tuple[str, Path]]:
    for key, path in (
        *((f"{role}.onnx", teacher.onnx) for role, teacher in settings.teacher_roles.items()),
        ("detector.onnx", settings.detector and settings.detector.onnx),
        ("student.weights", settings.student.weights),
        ("student.encoder_weights", settings.student.encoder_weights),
    ):
        if path and not (key.startswith("student.") and can_rebuild(settings.run)):
            yield key, path
