"""What holds for a whole run: data, files, sizes, environment."""

import os
import platform
from importlib.metadata import version
from typing import Any

import jax

import jaxdistill
from jaxdistill.checkpoint.manager import fingerprint
from jaxdistill.reporting.console import parameter_sizes
from jaxdistill.teachers.base import file_fingerprints
from jaxdistill.training.setup import Job

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def facts(job: Job) -> dict[str, dict[str, Any]]:
    """For people, in sections; its form is the run page's `provenance.json`."""
    settings, split = job.settings, job.split
    variables = {**split.params, **split.batch_stats, **split.frozen}
    fingerprints = file_fingerprints(job.networks)
    files = {role: getattr(settings, role).onnx for role in fingerprints}
    digests = {f"{role}, SHA-256": digest for role, digest in fingerprints.items()}
    weights = settings.student.weights or settings.student.encoder_weights
    return {
        "Data": {
            "pictures to learn from": len(job.dataset),
            "pictures to measure on": len(job.validation_dataset),
            "without masks, training": int((~job.dataset.labelled).sum()),
            "without masks, validation": int((~job.validation_dataset.labelled).sum()),
            "steps per epoch": job.steps,
            "fingerprint, training": job.dataset.fingerprint,
            "fingerprint, validation": job.validation_dataset.fingerprint,
        },
        "Files": {
            **{role: str(path) for role, path in files.items()},
            **digests,
            "student's weights": weights and str(weights),
            "frozen variables, SHA-256": fingerprint(split.frozen),
        },
        "Sizes": {
            **{name: str(size) for name, size in parameter_sizes(variables).items()},
            "trained parameters": sum(value.size for value in split.params.values()),
            "frozen parameters": sum(value.size for value in split.frozen.values()),
        },
        "Environment": {
            "jaxdistill": jaxdistill.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
            "devices": [device.device_kind for device in jax.devices()],
            "processor cores": os.cpu_count(),
            "system": platform.platform(),
            "precision": settings.precision,
        },
    }
