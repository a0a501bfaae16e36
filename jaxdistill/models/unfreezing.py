"""Progressive unfreezing: the encoder's stages join the training one by one, from the deepest up.

A phase is the number of stages that have joined. What a state holds, and the program of a step,
follow from it; they change between two epochs.
"""

from collections.abc import Sequence

from jaxdistill import config
from jaxdistill.models import student
from jaxdistill.models.student import Split, Student
from jaxdistill.types import Variables

_STAGES = (
    *([f"encoder.blocks.{i}"] for i in reversed(range(7))),
    ["encoder.conv_stem", "encoder.bn1"],
)
PHASES = 1 + len(_STAGES)
_IDLE = ["encoder.conv_head", "encoder.bn2"]  # of the ImageNet classifier: nothing reaches them


def phase(settings: config.Student, epoch: int) -> int:
    """The phase of an epoch, counted from 0."""
    plan = settings.unfreeze
    if plan is None or epoch + 1 < plan.from_epoch:
        return 0
    return min(plan.stages, 1 + (epoch + 1 - plan.from_epoch) // plan.every)


def freeze(network: Student, settings: config.Student, phase: int) -> Split:
    """The student taken apart as it is trained in a phase.

    Raises:
      UserError: see `models.student.freeze`.
    """
    if not phase:
        return student.freeze(network, settings.frozen)
    others = [path for path in settings.frozen if path != "encoder"]
    still = [path for stage in _STAGES[phase:] for path in stage]
    plan = settings.unfreeze
    fixed = [] if plan is None or plan.batch_norm else ["encoder"]
    return student.freeze(network, [*others, *_IDLE, *still], fixed)


def joined(paths: Sequence[str] | Variables) -> dict[str, str]:
    """By parameter the stage that it joined with; empty text for what was there from the start."""
    return {path: next((s[0] for s in _STAGES if student.is_frozen(path, s)), "") for path in paths}
