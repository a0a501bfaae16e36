"""Interpolation between a fine-tuned student and the weights that it started from.

A network that is fine-tuned on few images forgets some of what it knew. Weights between the start
and the end, (1 - share) * start + share * end, often are better than either (Wortsman et al. 2022,
arXiv:2109.01903, WiSE-FT). So a run that starts from a whole student's weights keeps them, in
`start.safetensors`; running statistics are interpolated like parameters.
"""

from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxdistill.checkpoint.best import Best
from jaxdistill.models import Student, save_weights, weights
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.runtime.errors import ConfigError, RunError
from jaxdistill.runtime.files import retry_io

START = "start.safetensors"
"""Name of the file in the run's folder."""
INTERPOLATED = "interpolated"
"""Key of a checkpoint's metadata: the share, of a student that `interpolated` made."""


def save_start(run: Path, student: Student) -> None:
    """Writes the variables with which a run starts, if they come from a whole student's weights.

    Args:
      run: The run's folder.
      student: The student before the first step.

    Raises:
      OSError: The file cannot be written.
    """
    if student.settings.weights is None:
        return
    save_weights(student, run / START)


def start_of(best: Best) -> weights.Arrays:
    """Returns the variables with which a run started.

    Args:
      best: The best checkpoint of the run.

    Raises:
      RunError: The run did not start from a whole student's weights (`no-start-weights`).
      WeightsError: The file of the start is damaged, or belongs to another student.
    """
    path = best.settings.run / START
    if not retry_io(path.is_file):
        raise RunError(
            f"{path}: there is no such file; a run keeps its start if student.weights names a "
            f"whole student",
            code="no-start-weights",
        )
    arrays, _ = weights.load_for(best.student.settings.encoder, path)
    return weights.fill(flat_variables(best.student), arrays, path)


def interpolated(best: Best, share: float | None) -> Best:
    """Returns a student between the start of its run and its best checkpoint.

    Args:
      best: The best checkpoint of a run.
      share: 0 is the start, 1 the checkpoint; None takes the run's `training.interpolate`, where
        `best` is not such a student already, and without that returns `best` itself.

    Raises:
      ConfigError: The share is not in [0, 1] (`invalid-argument`).
      RunError: The run did not start from a whole student's weights (`no-start-weights`).
      WeightsError: The file of the start is damaged, or belongs to another student.
    """
    if share is None and INTERPOLATED not in best.metadata:
        share = best.settings.training.interpolate
    if share is None:
        return best
    if not 0 <= share <= 1:
        raise ConfigError(
            f"interpolate: expected a number from 0 (the start) to 1 (the trained student), got "
            f"{share:g}",
            code="invalid-argument",
        )
    metadata = {**best.metadata, INTERPOLATED: share}
    if share == 1:  # which needs no start
        return best._replace(metadata=metadata)
    own, start = flat_variables(best.student), start_of(best)
    # In float64, so that 0 and 1 are the two ends to the bit.
    between = {
        name: ((1 - share) * np.float64(start[name]) + share * np.float64(value)).astype(np.float32)
        for name, value in own.items()
    }
    student = merge(nnx.graphdef(best.student), jax.device_put(between))
    return best._replace(student=student, metadata=metadata)
