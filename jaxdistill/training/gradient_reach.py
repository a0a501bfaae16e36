"""Which parameter groups each loss trains, by a rule over taps and frozen paths."""

from collections.abc import Mapping, Sequence

from jaxdistill.losses import Loss
from jaxdistill.models import Student, unfreezing
from jaxdistill.models.feature_info import find_tap
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.parameters import Partition, is_frozen, param_group

Reach = dict[str, list[str]]
"""Parameter groups by loss; of several feature pairs each is there by itself, as `feature.N`."""


def gradient_reach(
    losses: Mapping[str, Loss], student: Student, partition: Partition, pairs: Sequence[Pair]
) -> Reach:
    """Finds the parameter groups that receive a gradient from each loss.

    A loss of the logits reaches every trained parameter but the projectors. A feature loss reaches
    its projector, and what the tap is computed from: for a tap in the decoder the decoder up to
    there and the encoder, for a tap in the encoder the encoder's layers before it.

    Args:
      losses: The losses by name.
      student: The student; its `feature_info` says what a tap depends on.
      partition: What is trained.
      pairs: The feature pairs.

    Returns:
      The reached groups of each loss, sorted.
    """
    trained = {param_group(path) for path in partition.params}
    reach: Reach = {}
    for name, loss in losses.items():
        if "features" not in loss.requires:
            reach[name] = sorted(trained - {"projectors"})
            continue
        each = [_reached_by_tap(pair.tap, student, partition) for pair in pairs]
        reach[name] = sorted(set().union(*each))
        if len(pairs) > 1:
            reach |= {
                f"{name}.{index}, from {pair.tap}": sorted(groups)
                for index, (pair, groups) in enumerate(zip(pairs, each, strict=True))
            }
    return reach


def describe_reach(reach: Reach, later: Reach) -> list[str]:
    """Returns lines for the start of a run, with a warning where a loss trains nothing that stays.

    Args:
      reach: What is reached in the first epoch.
      later: What is reached once all stages of the encoder that will have joined the training.
    """
    lines = []
    for loss, groups in reach.items():
        more = [group for group in later[loss] if group not in groups]
        joining = f", and {', '.join(more)} once it is unfrozen" if more else ""
        lines.append(f"loss {loss} trains {', '.join(groups) or 'nothing'}{joining}")
    pairs = [loss for loss in later if loss.startswith("feature.")]
    for loss in pairs or [loss for loss in later if loss == "feature"]:
        if set(later[loss]) <= {"projectors"}:
            lines.append(
                f"warning: the loss {loss} trains only the projectors, which are dropped after "
                f"training; choose a tap in the decoder, such as decoder.1, or unfreeze the encoder"
            )
    if later and not any("head" in groups for groups in later.values()):
        lines.append(
            "warning: no loss trains the head, so the masks stay what its initial weights make of "
            "them; give kl, mse, bce or dice a weight, or start from student.weights"
        )
    return lines


def _reached_by_tap(tap: str, student: Student, partition: Partition) -> set[str]:
    depends_on = _computed_from(tap, student)
    inside = {param_group(path) for path in partition.params if is_frozen(path, depends_on)}
    return inside | {"projectors"}


def _computed_from(tap: str, student: Student) -> list[str]:
    """Returns the paths of the modules that a tap is computed from."""
    info = find_tap(tap, student.feature_info)
    if param_group(tap) != "encoder":
        return ["encoder", param_group(tap)]
    stages = unfreezing.encoder_stages(student)  # deepest first
    if not stages or info.stages is None:
        return ["encoder"]
    return [path for stage in stages[len(stages) - info.stages :] for path in stage]
