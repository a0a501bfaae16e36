"""Pairs of a detector's tensor and a student's tap: what fits, and what is built for it."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxdistill import config
from jaxdistill.runtime.errors import UserError

_STRIDES = {f"encoder.{i}": 2**i for i in range(1, 6)}
_STRIDES |= {f"decoder.{i}": 2 ** (4 - i) for i in range(5)}


class Pair(NamedTuple):
    """One projector: from a tap of the student to so many channels."""

    tap: str
    channels: int
    hidden: int | None
    size: tuple[int, int] | None = None
    """Height and width that the tap is brought to; None leaves it as it is."""
    masked_share: float | None = None
    """Of the positions, what is masked and then restored; None does neither."""
    standardized: bool = False
    """Whether the target's channels are brought to mean 0 and deviation 1."""
    balanced: bool = False
    """Whether the pair's weight is learned."""


def tap_stride(tap: str) -> int:
    """Of `encoder.N` and `decoder.N`, in pixels of the input.

    Raises:
      UserError: for any other name, listing those there are.
    """
    if tap not in _STRIDES:
        raise UserError(f"features: no tap {tap!r} in the student; there are {', '.join(_STRIDES)}")
    return _STRIDES[tap]


def fitting_taps(size: tuple[int, int], image_size: tuple[int, int]) -> list[str]:
    """The taps whose maps have that height and width, the encoder's first."""
    return [
        tap
        for tap, stride in _STRIDES.items()
        if (image_size[0] // stride, image_size[1] // stride) == size
    ]


def pair_up(
    features: Sequence[config.Feature],
    shapes: Sequence[tuple[int, int, int]],
    image_size: tuple[int, int],
    *,
    balanced: bool = False,
) -> list[Pair]:
    """Checks every detector tensor (height, width, channels) against the student's tap.

    Args:
      balanced: whether the pairs' weights are learned.

    Raises:
      UserError: where the two maps differ in size and `resize` is not set; it shows both and the
        tap that would fit.
    """
    pairs = []
    for index, (feature, shape) in enumerate(zip(features, shapes, strict=True)):
        *size, channels = shape
        stride = tap_stride(feature.tap)
        own = [side // stride for side in image_size]
        if own != size and not feature.resize:
            raise UserError(
                f"features: {feature.tensor!r} is {size[0]}x{size[1]} ({channels} channels), but "
                f"the student's {feature.tap!r} is {own[0]}x{own[1]} (stride {stride}); "
                f"{_advice((size[0], size[1]), image_size)}; or set "
                f"features.{index}.resize: true"
            )
        pairs.append(
            Pair(
                feature.tap,
                channels,
                feature.hidden_channels,
                size=None if own == size else (size[0], size[1]),
                masked_share=feature.masked_share if feature.loss == "mgd" else None,
                standardized=feature.standardize,
                balanced=balanced,
            )
        )
    return pairs


def describe_sizes(pairs: Sequence[Pair], image_size: tuple[int, int]) -> list[str]:
    """A line for each pair whose tap is brought to another size."""
    lines = []
    for index, pair in enumerate(pairs):
        if pair.size:
            height, width = (side // tap_stride(pair.tap) for side in image_size)
            lines.append(
                f"features.{index}: {pair.tap} is brought from {height} x {width} to "
                f"{pair.size[0]} x {pair.size[1]}"
            )
    return lines


def _advice(size: tuple[int, int], image_size: tuple[int, int]) -> str:
    if fitting := fitting_taps(size, image_size):
        return f"taps of that size: {', '.join(fitting)}"
    return f"no tap has that size for pictures of {image_size[0]}x{image_size[1]}"
