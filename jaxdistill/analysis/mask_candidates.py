"""What the values of an output may mean as a mask, and how likely each meaning is."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from jaxdistill.config import Normalization, OutputKind
from jaxdistill.teachers.network_format import MaskOutput, OutputLayout

_EVEN = 0.05  # standard deviation of a mask in which nothing stands out
_ROUNDING = 1e-2  # by which float16 and resizing may leave [0, 1]


class Tensor(NamedTuple):
    """An output, for a batch of one image."""

    name: str
    shape: tuple[int, ...]
    layout: OutputLayout | None
    """Its axes, where it can be a mask."""
    is_integer: bool


class MaskCandidate(NamedTuple):
    """An output's values under one normalisation."""

    tensor: Tensor
    normalization: Normalization
    kind: OutputKind | None
    """What it seems to hold; None where it cannot be a mask."""
    low: float
    high: float
    mean: float
    maps: list[Float[np.ndarray, "h w c"]]
    """Its values for each image, where it can be a mask."""


def kind_of(maps: Sequence[Float[np.ndarray, "h w c"]], is_integer: bool) -> OutputKind:
    """Returns what the values of an output look like.

    Args:
      maps: The values for each image.
      is_integer: Whether the output's data type is one of integers.
    """
    several = maps[0].shape[-1] > 1
    low, high = min(each.min() for each in maps), max(each.max() for each in maps)
    whole = all((each == np.rint(each)).all() for each in maps)
    if not several and (is_integer or (whole and high > 1 and low >= 0)):
        return "class_indices"
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        return "softmax_logits" if several else "logits"
    return "probabilities"


def likelihood(candidate: MaskCandidate) -> float:
    """Returns how certain and how compact masks are, from 0 to 1; empty and full ones have 0.

    With a wrong normalisation a network is uncertain, or finds scattered pixels, which a blur
    removes.

    Args:
      candidate: An output that can be a mask.
    """
    channel = likely_channel(candidate)
    found = []
    for index in range(len(candidate.maps)):
        values = np.asarray(probability(candidate, index, channel)[..., 0], np.float32)
        side = max(3, max(values.shape) // 16)
        spread, blurred = values.std(), cv2.blur(values, (side, side)).std()
        certainty = np.abs(2 * values - 1).mean()
        found.append(certainty * blurred / spread if spread > _EVEN else 0.0)
    return float(np.mean(found))


def likely_channel(candidate: MaskCandidate) -> int:
    """Returns the class other than 0, usually the background, that covers most of the images.

    Args:
      candidate: An output that can be a mask.
    """
    found = shares(candidate)
    return max((c for c in found if c != 0), key=lambda c: found[c], default=0)


def shares(candidate: MaskCandidate) -> dict[int, float]:
    """Returns the mean probability of each class.

    Args:
      candidate: An output that can be a mask.
    """
    return {
        channel: float(
            np.mean([probability(candidate, i, channel).mean() for i in range(len(candidate.maps))])
        )
        for channel in _classes(candidate)
    }


def probability(candidate: MaskCandidate, index: int, channel: int) -> Float[np.ndarray, "h w 1"]:
    """Returns a mask in [0, 1].

    Args:
      candidate: An output that can be a mask.
      index: The image's place.
      channel: The channel or class of people.
    """
    assert candidate.kind is not None
    mask = MaskOutput(candidate.tensor.name, candidate.kind, (channel,))
    values = np.asarray(mask.reduce(candidate.maps[index][None]))[0]
    return values if mask.margin is not None else 0.5 * (1 + np.tanh(0.5 * values))


def _classes(candidate: MaskCandidate) -> list[int]:
    if candidate.kind == "class_indices":
        return sorted({int(c) for each in candidate.maps for c in np.unique(each) if c >= 0})
    return list(range(candidate.maps[0].shape[-1]))
