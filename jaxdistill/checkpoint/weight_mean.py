"""The mean of the weights of several runs.

Runs that fine-tune the same weights with other seeds end in different places, and the mean of their
weights can be better than each of them, in the time of one (Wortsman et al. 2022, arXiv:2203.05482,
model soups). From different weights, such as a decoder's random ones, it would be of no use.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxdistill.checkpoint.best import Best, best
from jaxdistill.checkpoint.interpolation import interpolated, start_of
from jaxdistill.models import save_weights, weights
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.runtime.errors import (
    ConfigError,
    OutputError,
    RunError,
    WeightsError,
    unwritable,
)

_SOURCE = "mean of the weights of "


def weight_mean(runs: Sequence[Path]) -> Best:
    """Returns the student whose variables are the means of those of several runs.

    Args:
      runs: Folders of runs, two or more, which started from the same `student.weights`. Each gives
        its best checkpoint or, with `training.interpolate`, the weights between start and that.

    Returns:
      The first run's best checkpoint, with the mean as its student. Running statistics are averaged
      like parameters.

    Raises:
      ConfigError: There are fewer than two runs (`too-few-members`).
      RunError: A folder is not a run, or did not start from a whole student's weights
        (`no-start-weights`), or the runs differ in network, start, normalisation or image size
        (`different-starts`).
    """
    if len(runs) < 2:
        raise ConfigError("a mean of weights needs two runs at least", code="too-few-members")
    first, *others = members = [best(run) for run in runs]
    for other in others:
        if differing := _difference(first, other):
            raise RunError(
                f"{other.settings.run} and {first.settings.run} differ in {differing}; train both "
                f"with the same settings and another seed",
                code="different-starts",
            )
    variables = [flat_variables(interpolated(member, None).student) for member in members]
    mean = {
        name: np.mean([np.float64(each[name]) for each in variables], axis=0).astype(np.float32)
        for name in variables[0]
    }
    return first._replace(student=merge(nnx.graphdef(first.student), jax.device_put(mean)))


def write_weight_mean(runs: Sequence[Path], output: Path) -> None:
    """Writes the mean of the weights of several runs as a weights file.

    Args:
      runs: See `weight_mean`.
      output: The safetensors file, for `jaxdistill export` and `student.weights`.

    Raises:
      ConfigError: See `weight_mean`.
      RunError: See `weight_mean`.
      OutputError: The file cannot be written (`output-unwritable`), or would replace something else
        than an earlier mean (`output-exists`).
    """
    if output.exists() and not _is_mean(output):
        raise OutputError(
            f"{output} exists and is no mean of weights; the first name is that of the file to "
            f"write",
            code="output-exists",
        )
    mean = weight_mean(runs)
    source = _SOURCE + ", ".join(map(str, runs))
    try:
        save_weights(mean.student, output, image_size=mean.settings.data.image_size, source=source)
    except OSError as error:
        raise unwritable(output, error) from None


def _is_mean(path: Path) -> bool:
    try:
        return weights.load(path)[1].get("source", "").startswith(_SOURCE)
    except WeightsError:
        return False


def _difference(one: Best, other: Best) -> str | None:
    """Returns in what two runs differ that should be alike."""
    for key in ("encoder", "decoder"):
        if getattr(one.settings.student, key) != getattr(other.settings.student, key):
            return f"student.{key}"
    if one.student.normalization != other.student.normalization:
        return "student.normalization"
    if one.settings.data.image_size != other.settings.data.image_size:
        return "data.image_size"
    start, others = start_of(one), start_of(other)
    alike = start.keys() == others.keys() and all(
        np.array_equal(value, others[name]) for name, value in start.items()
    )
    return None if alike else "the weights that they started from"
