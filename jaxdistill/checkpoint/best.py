"""The best student of a run, rebuilt from the run's folder alone.

The folder holds `config.yaml`, the checkpoints, and once for the whole run the variables that were
frozen at its start, `frozen-FINGERPRINT.safetensors`. So it can be moved or copied, and used from
anywhere. A run that went on with another encoder has a file for each, and each checkpoint names its
own.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxdistill import config, models
from jaxdistill.checkpoint.folders import step_of
from jaxdistill.checkpoint.integrity import (
    DamagedError,
    Metadata,
    fingerprint,
    read_parts,
)
from jaxdistill.checkpoint.restore import by_score, newest_metadata
from jaxdistill.models import Student, unfreezing, weights
from jaxdistill.models.parameters import Partition, flat_variables, merge
from jaxdistill.runtime.errors import RunError
from jaxdistill.runtime.files import retry_io
from jaxdistill.runtime.run_layout import CONFIG

log = logging.getLogger(__name__)

_FROZEN = "frozen-{}.safetensors"


class Best(NamedTuple):
    """The student of a run's best checkpoint, without projectors."""

    settings: config.Config
    """The run's configuration; `run` is the folder that it was read from."""
    student: Student
    step: int
    """Step after which the checkpoint was saved."""
    metadata: Metadata
    """Plain values of the checkpoint, such as the `validation` metrics of its epoch."""


def frozen_path(run: Path, digest: str) -> Path:
    """Returns the file of a run's frozen variables.

    Args:
      run: The run's folder.
      digest: Their fingerprint, as a checkpoint's metadata hold it under `frozen`.
    """
    return run / _FROZEN.format(digest[:16])


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
    digest = fingerprint(arrays)
    path = frozen_path(run, digest)
    metadata = {
        "encoder": student.settings.encoder,
        "normalization": weights.format_normalization(student.normalization),
        "fingerprint": digest,
    }
    if not path.exists() or weights.load(path)[1] != metadata:
        weights.save(path, arrays, metadata)


def can_rebuild(run: Path) -> bool:
    """Returns whether a run can be resumed without the student's weights file.

    Before its first checkpoint it cannot: a weights file may hold more than frozen variables.

    Args:
      run: The run's folder.
    """
    metadata = newest_metadata(run)
    return metadata is not None and retry_io(frozen_path(run, metadata["frozen"]).is_file)


def newest_student(
    run: Path, settings: config.Student, seed: int, dtype: config.Precision
) -> Student:
    """Builds a run's student before training, from the frozen variables of its newest checkpoint.

    Args:
      run: The run's folder, for which `can_rebuild` is true.
      settings: The student's section of the run's configuration.
      seed: The run's seed, which determines the variables that were random.
      dtype: Number format of the student's feature maps.

    Raises:
      WeightsError: The file is damaged, or does not fit the student.
    """
    metadata = newest_metadata(run)
    assert metadata is not None
    return with_frozen_of(run, metadata["frozen"], settings, seed, dtype)


def with_frozen_of(
    run: Path, digest: str, settings: config.Student, seed: int, dtype: config.Precision
) -> Student:
    """Builds a run's student before training, from frozen variables of the run.

    Args:
      run: The run's folder.
      digest: Fingerprint of the frozen variables.
      settings: The student's section of the run's configuration.
      seed: The run's seed, which determines the variables that were random.
      dtype: Number format of the student's feature maps.

    Returns:
      The student. Where the file is missing, it comes from the weights files that the configuration
      names.

    Raises:
      WeightsError: The file is damaged, or does not fit the student.
    """
    path = frozen_path(run, digest)
    if not retry_io(path.is_file):
        return models.build(settings, seed=seed, dtype=dtype)
    arrays, normalization = weights.load_for(settings.encoder, path)
    without_files = settings.model_copy(update={"weights": None, "encoder_weights": None})
    student = models.build(without_files, seed=seed, dtype=dtype)
    student.settings = settings
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
    if not (run / CONFIG).is_file():
        raise RunError(f"{run.absolute()} is not a run: it has no config.yaml", code="not-a-run")
    settings = config.load(run / CONFIG).model_copy(update={"run": run})
    candidates, problems = by_score(run)
    if not candidates and not problems:
        raise RunError(
            f"{run.absolute()} has no checkpoint yet: train for an epoch first",
            code="no-checkpoint",
        )
    students: dict[str, Student] = {}  # by the fingerprint of their frozen variables
    for folder, metadata in candidates:
        digest = metadata["frozen"]
        if digest not in students:
            students[digest] = with_frozen_of(
                run, digest, settings.student, settings.seed, settings.precision
            )
        student = students[digest]
        initial = unfreezing.partition_in_phase(student, settings.student, phase=0)
        if digest != fingerprint(initial.frozen):
            problems.append(
                f"{folder}: the frozen variables are not those that it was trained with; restore "
                f"{frozen_path(run, digest)}, or the student's weights file"
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
    if "ema" in metadata["digests"]:  # what was evaluated, and is the score's
        like = {"ema": {**split.params, **split.batch_stats}}
    parts = read_parts(folder, like, metadata, partly=True)
    values = {path: value for arrays in parts.values() for path, value in arrays.items()}
    return split.with_values(values).merge()
