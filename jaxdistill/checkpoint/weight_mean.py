"""The mean of the weights of several runs.

Runs that fine-tune the same weights with other seeds end in different places, and the mean of their
weights is often better than each of them, in the time of one (Wortsman et al. 2022,
arXiv:2203.05482, model soups). From different weights, such as a decoder's random ones, the mean
would be of no use.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxdistill.checkpoint.best import Best, best
from jaxdistill.checkpoint.interpolation import START, interpolated
from jaxdistill.models import Student, weights, without_projectors
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.runtime.errors import ConfigError, RunError
from jaxdistill.runtime.files import retry_io


def weight_mean(runs: Sequence[Path]) -> Student:
    """Returns the student whose variables are the means of those of several runs.

    Args:
      runs: Folders of runs, two or more, which started from the same `student.weights`. Each gives
        its best checkpoint or, with `training.interpolate`, the weights between start and that.

    Returns:
      The student, without projectors. Running statistics are averaged like parameters.

    Raises:
      ConfigError: There are fewer than two runs (`too-few-members`).
      RunError: A folder is not a run, or did not start from a whole student's weights
        (`no-start-weights`), or the runs' students or starts differ (`different-starts`).
    """
    if len(runs) < 2:
        raise ConfigError("a mean of weights needs two runs at least", code="too-few-members")
    members = [best(run) for run in runs]
    for member in members[1:]:
        if not _started_alike(members[0], member):
            raise RunError(
                f"{member.settings.run} did not start from the same weights as "
                f"{members[0].settings.run}; train both with the same section student and another "
                f"seed",
                code="different-starts",
            )
    students = [without_projectors(interpolated(member, None).student) for member in members]
    variables = [flat_variables(student) for student in students]
    mean = {
        name: np.mean([np.float64(each[name]) for each in variables], axis=0).astype(np.float32)
        for name in variables[0]
    }
    return merge(nnx.graphdef(students[0]), jax.device_put(mean))


def _started_alike(one: Best, other: Best) -> bool:
    if one.student.normalization != other.student.normalization:
        return False
    start, others = _start(one), _start(other)
    return start.keys() == others.keys() and all(
        np.array_equal(value, others[name]) for name, value in start.items()
    )


def _start(member: Best) -> weights.Arrays:
    path = member.settings.run / START
    if not retry_io(path.is_file):
        raise RunError(
            f"{path}: there is no such file; a run keeps its start if student.weights names a "
            f"whole student",
            code="no-start-weights",
        )
    return weights.load_for(member.student.settings.encoder, path)[0]
