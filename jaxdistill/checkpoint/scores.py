"""Scores of checkpoints, which compare where they were measured on the same validation data."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxdistill.checkpoint.integrity import Metadata


class Score(NamedTuple):
    """The score of a checkpoint."""

    value: float | None
    """The higher, the better; None within an epoch."""
    data: str | None
    """Fingerprint of the validation data."""


def score_of(metadata: Metadata) -> Score:
    """Returns the score that a checkpoint was saved with.

    Args:
      metadata: Its metadata.
    """
    files = metadata.get("provenance", {}).get("files", {})
    return Score(metadata["score"], files.get("data.validation"))


def best_first(scores: Mapping[int, Score]) -> list[int]:
    """Returns the steps whose scores compare with the newest score, the best first.

    Validation data may change where a run is resumed; the scores before are then left out. Of equal
    scores the newest comes first.

    Args:
      scores: The scores by step.
    """
    values = {step: score.value for step, score in scores.items() if score.value is not None}
    newest = scores[max(values)].data if values else None
    comparable = [step for step in values if scores[step].data == newest]
    return sorted(comparable, key=lambda step: (values[step], step), reverse=True)
