"""The best student of a run, rebuilt from the run's folder alone.

The folder holds `config.yaml`, the checkpoints, and once for the whole run the variables that were
frozen at its start, `frozen.safetensors`. So it can be moved or copied, and used from anywhere.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxdistill import config, models
from jaxdistill.checkpoint.integrity import (
    DamagedError,
    Metadata,
    fingerprint,
    newest_first,
    read_parts,
    step_of,
)
from jaxdistill.checkpoint.manager import CHECKPOINTS, by_score
from jaxdistill.models import Student, unfreezing, weights
from jaxdistill.models.parameters import Partition, flat_variables, merge, partition
from jaxdistill.runtime.errors import RunError

log = logging.getLogger(__name__)

FROZEN = "frozen.safetensors"
"""File of the frozen variables in a run's folder."""


class Best(NamedTuple):
    """The student of a run's best checkpoint, without projectors."""

    settings: config.Config
    """The run's configuration; `run` is the folder that it was read from."""
    student: Student
    step: int
    """Step after which the checkpoint was saved."""
    metadata: Metadata
    """Plain values of the checkpoint, such as the `validation` metrics of its epoch."""


def save_frozen(run: Path, partition: Partition, student: Student) -> None:
    """Writes the frozen variables of a run, unless the run has the same ones already.

    Args:
      run: The run's folder.
      partition: The student's variables before the first step.
      student: The student; its normalisation and encoder are recorded.

    Raises:
      OSError: The file cannot be written.
    """
    arrays = {path: np.asarray(value) for path, value in partition.frozen.items()}
    metadata = {
        "encoder": student.settings.encoder,
        "normalization": weights.format_normalization(student.normalization),
        "fingerprint": fingerprint(arrays),
    }
    if not (run / FROZEN).exists() or weights.load(run / FROZEN)[1] != metadata:
        weights.save(run / FROZEN, arrays, metadata)


def can_rebuild(run: Path) -> bool:
    """Returns whether a run can be resumed without the student's weights file.

    Before its first checkpoint it cannot: a weights file may hold more than frozen variables.

    Args:
      run: The run's folder.
    """
    return (run / FROZEN).is_file() and any(newest_first(run / CHECKPOINTS))


def with_frozen_of(
    run: Path, settings: config.Student, seed: int, dtype: config.Precision
) -> Student:
    """Builds a run's student before training, from the run's frozen variables.

    Args:
      run: The run's folder.
      settings: The student's section of the run's configuration.
      seed: The run's seed, which determines the variables that were random.
      dtype: Number format of the student's feature maps.

    Returns:
      The student. Where the run has no such file, as in version 0.1, it comes from the weights
      files that the configuration names.

    Raises:
      WeightsError: The file is damaged, or does not fit the student.
    """
    path = run / FROZEN
    if not path.is_file():
        return models.build(settings, seed=seed, dtype=dtype)
    arrays, normalization = weights.load_for(settings.encoder, path)
    without_files = settings.model_copy(update={"weights": None, "encoder_weights": None})
    student = models.build(without_files, seed=seed, dtype=dtype)
    if normalization is not None:
        student.normalization = normalization
    own = flat_variables(student)
    expected = {name: own[name] for name in arrays.keys() & own.keys()}
    filled = weights.fill(expected, arrays, path)
    return merge(nnx.graphdef(student), {**own, **jax.device_put(filled)})


def best(run: Path) -> Best:
    """Returns the student of the run's best intact checkpoint.

    Args:
      run: The run's folder.

    Raises:
      RunError: The folder is no run (`not-a-run`), has no checkpoint yet (`no-checkpoint`), or none
        is intact (`no-intact-checkpoint`).
    """
    run = Path(run).expanduser()
    if not (run / "config.yaml").is_file():
        raise RunError(f"{run.absolute()} is not a run: it has no config.yaml", code="not-a-run")
    settings = config.load(run / "config.yaml").model_copy(update={"run": run})
    candidates, problems = by_score(run)
    if not candidates and not problems:
        raise RunError(
            f"{run.absolute()} has no checkpoint yet: train for an epoch first",
            code="no-checkpoint",
        )
    student = with_frozen_of(run, settings.student, settings.seed, settings.precision)
    initial = {
        fingerprint(unfreezing.partition_in_phase(student, settings.student, 0).frozen),
        # Version 0.1 trained the encoder's unused layers too.
        fingerprint(partition(student, settings.student.frozen).frozen),
    }
    for folder, metadata in candidates:
        if metadata["frozen"] not in initial:
            problems.append(
                f"{folder}: the frozen variables are not those that it was trained with; restore "
                f"{run / FROZEN}, or the student's weights file"
            )
            continue
        try:
            restored = _restored(folder, metadata, student, settings)
        except DamagedError as damage:
            problems.append(str(damage))
            continue
        for problem in problems:
            log.warning("damaged, and not used: %s", problem)
        return Best(settings, restored, step_of(folder), metadata)
    raise RunError(f"no checkpoint can be used: {'; '.join(problems)}", code="no-intact-checkpoint")


def _restored(
    folder: Path, metadata: Metadata, student: Student, settings: config.Config
) -> Student:
    normalization = metadata.get("normalization")
    trained_on = weights.parse_normalization(normalization, folder)
    student.normalization = trained_on or student.normalization
    phase = metadata["progress"]["phase"]
    split = unfreezing.partition_in_phase(student, settings.student, phase)
    like = {"params": split.params, "batch_stats": split.batch_stats}
    parts = read_parts(folder, like, metadata, partly=True)
    return split.with_values({**parts["params"], **parts["batch_stats"]}).merge()
