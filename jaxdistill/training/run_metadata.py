"""Run metadata: data, files, sizes and environment of a run, for people."""

import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import jax

from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.data.dataset import Dataset
from jaxdistill.reporting.console import parameter_sizes
from jaxdistill.teachers.base import file_fingerprints
from jaxdistill.version import __version__

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def metadata_of_run(trainer: "Trainer") -> dict[str, dict[str, Any]]:
    """Collects data, files, sizes and environment of a run, for people.

    Args:
      trainer: A trainer that is set up.

    Returns:
      Sections of plain values; the report page shows them in this order.
    """
    settings, partition = trainer.settings, trainer.partition
    digests = file_fingerprints(trainer.teacher)
    paths = {
        **{role: str(teacher.onnx) for role, teacher in settings.teacher_roles.items()},
        "detector": settings.detector and str(settings.detector.onnx),
    }
    weights = settings.student.weights or settings.student.encoder_weights
    ended = {"Run": {"ended": trainer.finish_reason}} if trainer.finish_reason else {}
    return {
        **ended,
        "Data": {**_describe_data(trainer), "steps per epoch": trainer.steps_per_epoch},
        "Files": {
            **{role: path for role, path in paths.items() if path},
            **{f"{role}, SHA-256": digest for role, digest in digests.items()},
            "student's weights": weights and str(weights),
            "frozen variables, SHA-256": fingerprint(partition.frozen),
        },
        "Sizes": {
            **{name: str(size) for name, size in parameter_sizes(trainer.variables()).items()},
            "trained parameters": sum(value.size for value in partition.params.values()),
            "frozen parameters": sum(value.size for value in partition.frozen.values()),
        },
        "Environment": environment(settings.precision),
    }


def environment(precision: str) -> dict[str, Any]:
    """Returns versions, devices and system, for the run's metadata."""
    return {
        "jaxdistill": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "devices": [device.device_kind for device in jax.devices()],
        "processor cores": os.cpu_count(),
        "system": platform.platform(),
        "precision": precision,
    }


def _describe_data(trainer: "Trainer") -> dict[str, Any]:
    described: dict[str, Any] = {}
    if (settings := trainer.data.settings) is not None and settings.repeat > 1:
        described["repeats of data.train"] = settings.repeat
    for title, split in (
        ("training", trainer.data.train),
        ("validation", trainer.data.validation),
    ):
        if isinstance(split, Dataset):
            described |= {
                f"{title} images": len(split),
                f"{title} images without masks": int((~split.labelled).sum()),
                f"{title} fingerprint": split.fingerprint,
            }
    return described
