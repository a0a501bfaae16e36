"""Lines about a run for people, for its start."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxdistill import config
from jaxdistill.losses import Loss, required
from jaxdistill.losses.base import Input
from jaxdistill.models import unfreezing
from jaxdistill.models.feature_pairs import describe_sizes
from jaxdistill.training.gradient_reach import describe_reach, gradient_reach
from jaxdistill.training.phases import phase_of

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


_FEW_STEPS, _ENOUGH_STEPS = 100, 300  # after a few dozen, masks can still be noise


def describe_cache(settings: config.Config) -> list[str]:
    """Returns a line about where the target cache is, for the start of a run."""
    if settings.targets.cache is None:
        return []
    folder = settings.targets.cache.absolute()
    return [f"target cache: {folder}; `jaxdistill storage {folder}` lists and removes its folders"]


def describe(trainer: "Trainer") -> list[str]:
    """Returns lines about the student and the losses, for the start of a run.

    Args:
      trainer: The trainer.
    """
    return [
        *_describe_student(trainer),
        *_describe_length(trainer),
        *_describe_unused(trainer.unused_losses),
        *_describe_losses(trainer),
    ]


def _describe_length(trainer: "Trainer") -> list[str]:
    """Returns a warning where a run is too short for a decoder that starts from random values."""
    steps = trainer.epochs * trainer.steps_per_epoch
    if steps >= _FEW_STEPS or trainer.model.settings.weights is not None:
        return []
    enough = -(-_ENOUGH_STEPS // trainer.steps_per_epoch)
    return [
        f"warning: {steps} steps in all are few for a decoder that starts from random values; "
        f"training.epochs={enough} makes {enough * trainer.steps_per_epoch}"
    ]


def _describe_student(trainer: "Trainer") -> list[str]:
    size = trainer.data.image_size
    lines = describe_sizes(trainer.pairs, size, trainer.model.feature_info)
    student = trainer.model.settings
    lines += [f"student: {student.encoder} on {trainer.mesh.describe()}"]
    if student.weights is None and student.encoder_weights is None and "encoder" in student.frozen:
        lines += [
            "warning: the encoder is frozen and was given no weights file: name one in "
            "student.encoder_weights, or train the encoder too, with student.frozen=[]"
        ]
    plan = trainer.settings.student.unfreeze
    if plan is not None and plan.from_epoch > trainer.epochs:
        lines += [
            f"warning: the encoder is never unfrozen: student.unfreeze.from_epoch is "
            f"{plan.from_epoch}, and the run has {trainer.epochs} epochs"
        ]
    if (ema := trainer.settings.training.ema) is not None:
        lines += [
            f"moving average of the weights, decay {ema.decay:g}: validation, the best checkpoint "
            f"and exports use the average"
        ]
    if trainer.teacher is not None and "teacher_logits" not in required(trainer.losses):
        lines += ["no loss uses the teacher's mask: it serves for comparison only"]
    return lines


def _describe_unused(unused: Mapping[str, Loss]) -> list[str]:
    reasons: dict[Input, str] = {
        "mask": "the training images have no masks",
        "teacher_logits": "there is no teacher's mask",
    }
    lines = []
    for name, loss in unused.items():
        missing = [reasons[need] for need in sorted(loss.requires & reasons.keys())]
        lines.append(f"loss {name} is not used: {' and '.join(missing)}")
    return sorted(lines)


def _describe_losses(trainer: "Trainer") -> list[str]:
    student, settings = trainer.model, trainer.settings
    last = unfreezing.partition_in_phase(
        student, settings.student, phase_of(trainer, trainer.epochs - 1)
    )
    later = gradient_reach(trainer.losses, student, last, trainer.pairs)
    # Last, since it also sets the BatchNorms' modes.
    first = unfreezing.partition_in_phase(student, settings.student, 0)
    now = gradient_reach(trainer.losses, student, first, trainer.pairs)
    return describe_reach(now, later)
