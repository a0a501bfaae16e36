"""Builds a trainer's parts: from a configuration, and from Python objects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console

from jaxdistill import config, losses, models, teachers
from jaxdistill import data as data_package
from jaxdistill.checkpoint.best import can_rebuild, newest_student
from jaxdistill.config.losses import OBJECTS
from jaxdistill.data import Data, IterableData
from jaxdistill.losses import Loss
from jaxdistill.losses.base import Input
from jaxdistill.models import Student, unfreezing
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers import plausibility
from jaxdistill.teachers.base import Teacher, describe_teacher, output_shapes
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.training import batch_size, descriptions, preflight
from jaxdistill.training.pairing import feature_pairs


class Parts(TypedDict):
    """Arguments of a trainer, by name."""

    model: Student
    data: Data
    teacher: Teacher | None
    losses: Mapping[str, Loss]
    run: Path
    settings: config.Config
    console: Console


def parts_from_config(
    settings: config.Config, console: Console, threads: int | None = None
) -> Parts:
    """Builds the parts of the trainer that a configuration describes.

    Args:
      settings: The configuration.
      console: Where messages about data, networks and student go.
      threads: Bound of onnxruntime's threads on the CPU; None takes every core.

    Returns:
      The arguments of the trainer.

    Raises:
      UserError: A name or a file is wrong; found before the data set is prepared.
    """
    found = data_package.from_config(settings.data)
    settings = config.with_data(settings, found.settings)
    preflight.check(settings)
    model = _student(settings)
    preflight.check_sizes(model, settings.data.image_size, settings.data.sizes)
    mesh = Mesh(settings.mesh.data)
    settings = batch_size.of_run(settings)
    rows = _rows_of_device(settings, mesh)
    teacher = teachers.from_config(settings, threads=threads, batch_size=rows)
    terms = losses.from_config(settings)
    pairs = _check_fit(settings, model, terms, teacher)
    data = data_package.from_config(settings.data)
    with distributed.main_process_first("data"):
        data.prepare()
    if found.layout_note:
        console.print(found.layout_note)
    for line in (*data_package.describe(data), *descriptions.describe_cache(settings)):
        console.print(line)
    if settings.training.batch_size == "auto":
        settings, line = batch_size.choose(
            settings, model, pairs, terms, teacher, mesh, data.steps_per_epoch(1)
        )
        console.print(line)
    if teacher is not None:
        images = plausibility.first_images(data.train, settings.data.image_size)
        for line in (*describe_teacher(teacher), *plausibility.doubts(teacher, images)):
            console.print(line)
    return Parts(
        model=model,
        data=data,
        teacher=teacher,
        losses=terms,
        run=settings.run,
        settings=settings,
        console=console,
    )


def _rows_of_device(settings: config.Config, mesh: Mesh) -> int | None:
    """Returns the number of images of a step on each device; None where it is yet to be chosen."""
    if settings.training.batch_size == "auto":
        batch_size.memory_limit(mesh)  # refuses a CPU before anything else is done
        return None
    count = settings.training.images_per_step
    mesh.check_batch_size(count, settings.training.accumulate)
    return max(1, count // mesh.size)


def _check_fit(
    settings: config.Config,
    model: Student,
    terms: Mapping[str, Loss],
    teacher: Teacher | None,
) -> list[Pair]:
    """Checks what else the trainer will check, before minutes are spent on preparing the data."""
    unfreezing.partition_in_phase(model, settings.student, 0)
    return feature_pairs(model, terms, teacher, settings.data.image_size, settings.data.sizes)


def _student(settings: config.Config) -> Student:
    """Builds the student from its weights file, or from the run where that file is gone."""
    student, dtype = settings.student, settings.precision
    path = student.weights or student.encoder_weights
    if path is not None and not path.is_file() and can_rebuild(settings.run):
        return newest_student(settings.run, student, settings.seed, dtype)
    return models.build(student, seed=settings.seed, dtype=dtype)


def as_data(data: Any, validation: Any = None) -> Data | IterableData:
    """Returns the user's data behind one interface.

    Args:
      data: A `Data`, an `IterableData`, or any iterable of batches.
      validation: Batches to measure on, where `data` is an iterable.
    """
    if isinstance(data, Data | IterableData):
        return data
    return IterableData(data, validation)


def settings_of(
    run: Path,
    model: Student,
    data: Data | IterableData,
    losses: Mapping[str, Loss] | None,
    teacher: Teacher | None,
) -> config.Config:
    """Returns the configuration of a trainer that is made from objects.

    It records what the objects say of themselves; what is not known to a configuration, such as a
    teacher that is a Python function, is left out. A teacher with a cache sees the images before
    photometric augmentation, since only those are the same in every epoch.

    Args:
      run: The run's folder.
      model: The student.
      data: The data.
      losses: The losses by name.
      teacher: The teacher, if there is one.
    """
    training, kind, crop = {}, data.augmentation.kind, data.augmentation.crop
    if isinstance(data, IterableData):
        training["batch_size"] = data.batch_size
    given = losses or {}
    of_masks = ("bce", "dice", "boundary")
    weights = {name: given[name].weight if name in given else 0.0 for name in of_masks}
    # Without a configured teacher, a configuration cannot hold the losses that need one.
    recorded = {"kl": 0.0, "mse": 0.0, "feature": 0.0, **weights, OBJECTS: 1.0}
    return config.Config(
        run=run,
        data=data.settings or config.Data(image_size=data.image_size, augment=kind, crop=crop),
        student=model.settings,
        losses=config.Losses(**recorded),
        targets=config.Targets(clean_images=isinstance(teacher, CachedTeacher)),
        training=config.Training(**training),
        precision=model.dtype,
    )


def with_model(settings: config.Config, model: Student) -> config.Config:
    """Returns a configuration whose student is the one that is trained.

    Args:
      settings: The configuration.
      model: The student.

    Raises:
      ConfigError: Other keys do not fit it.
    """
    if (settings.student, settings.precision) == (model.settings, model.dtype):
        return settings
    own = {"student": model.settings, "precision": model.dtype}
    return config.with_values(settings, own, source="Trainer")


def with_keywords(settings: config.Config, run: Path, keywords: Mapping[str, Any]) -> config.Config:
    """Returns a configuration with a trainer's folder and keyword arguments.

    Args:
      settings: The configuration.
      run: The run's folder.
      keywords: Keys of the section `training`, and `seed`.

    Raises:
      ConfigError: A name or a value is wrong.
    """
    settings = settings.model_copy(update={"run": run})
    if not keywords:
        return settings
    keys = {key if key == "seed" else f"training.{key}": value for key, value in keywords.items()}
    return config.with_values(settings, keys, source="Trainer")


def usable_losses(
    given: Mapping[str, Loss] | None, data: Data | IterableData, teacher: Teacher | None
) -> tuple[dict[str, Loss], dict[str, Loss]]:
    """Returns the losses that training will use, and those that lack an input.

    Args:
      given: The losses by name; None stands for the defaults that data and teacher allow.
      data: The data.
      teacher: The teacher, if there is one.

    Raises:
      ConfigError: No loss is left that could train the student (`no-usable-loss`), nothing that it
        could be compared with (`masks-needed`), or the teacher's logits are no mask of an image
        (`teacher-shape`).
    """
    available: set[Input] = {"features"}
    if (logits := output_shapes(teacher, data.image_size).logits) is not None:
        if tuple(logits) != (*data.image_size, 1):
            raise ConfigError(
                f"the teacher's logits have the shape (B, {', '.join(map(str, logits))}), expected "
                f"(B, {', '.join(map(str, data.image_size))}, 1): as high and wide as the images, "
                f"and the channel last",
                code="teacher-shape",
            )
        available.add("teacher_logits")
    elif not is_labelled(data, "validation"):
        raise ConfigError(
            "the validation images have no masks, so that validation needs a teacher with logits",
            code="masks-needed",
        )
    if is_labelled(data, "train"):
        available.add("mask")
    wanted = dict(given or {})
    if given is None:
        wanted = {
            "kl": losses.KL(),
            "mse": losses.MSE(weight=0.5),
            "bce": losses.BCE(weight=0.5),
            "dice": losses.Dice(),
        }
    usable = losses.select(wanted, available)
    if not usable:
        raise ConfigError(
            "no loss trains the student: give a loss a weight above 0, kl or mse with a teacher, "
            "bce or dice with masks, feature with features, and with the teacher's logits where "
            "its attention is mask or uncertainty",
            code="no-usable-loss",
        )
    return usable, {name: loss for name, loss in (given or {}).items() if name not in usable}


def is_labelled(data: Data | IterableData, split: str) -> bool:
    """Returns whether images of a split have ground-truth masks, as far as that is known.

    Args:
      data: The data.
      split: `train` or `validation`.
    """
    if data.settings is None:
        return True
    if split == "train":
        return data.settings.has_masks
    return data.settings.validation.labelled
