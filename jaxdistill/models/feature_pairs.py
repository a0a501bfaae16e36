"""Feature pairs: a tensor of the detector and the student's tap that is compared with it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxdistill import config
from jaxdistill.config import Size
from jaxdistill.models.feature_info import FeatureInfo, find_tap
from jaxdistill.runtime.errors import ConfigError


class Pair(NamedTuple):
    """Describes the projector of one feature pair."""

    tap: str
    """Name of the student's feature map."""
    channels: int
    """Channels of the target."""
    hidden: int | None
    """Channels of the projector's hidden layer; None: a single convolution."""
    size: Size | None = None
    """Height and width that the tap is resized to; None: it is not resized."""
    masked_share: float | None = None
    """Share of positions that are masked and restored; None: no masking."""
    standardized: bool = False
    """Whether the target's channels are standardised to mean 0 and deviation 1."""
    balanced: bool = False
    """Whether the pair's weight is learned."""


def fitting_taps(
    size: Size, image_size: Size, features: Iterable[FeatureInfo]
) -> list[FeatureInfo]:
    """Returns the taps that have a given size.

    Args:
      size: Height and width of a target.
      image_size: Height and width of the images, in pixels.
      features: Descriptions of the student's feature maps.

    Returns:
      The descriptions of the taps of that size, in their order.
    """
    return [feature for feature in features if feature.size(image_size) == tuple(size)]


def pair_up(
    pairs: Sequence[config.Feature],
    shapes: Sequence[tuple[int, int, int]],
    image_size: Size,
    features: Sequence[FeatureInfo],
    *,
    balanced: bool = False,
) -> list[Pair]:
    """Checks that the detector's tensors fit the student's taps, and describes the projectors.

    Args:
      pairs: The configured feature pairs.
      shapes: Height, width and channels of each pair's tensor.
      image_size: Height and width of the images, in pixels.
      features: Descriptions of the student's feature maps.
      balanced: Whether the pairs' weights are learned.

    Returns:
      One description for each pair.

    Raises:
      ConfigError: The student has no such tap (`unknown-tap`); or tensor and tap differ in size and
        `resize` is not set (`feature-size`).
    """
    described = []
    for index, (pair, (height, width, channels)) in enumerate(zip(pairs, shapes, strict=True)):
        tap = find_tap(pair.tap, features)
        own = tap.size(image_size)
        if own != (height, width) and not pair.resize:
            raise ConfigError(
                f"features.{index}: {pair.tensor!r} is {height} x {width} ({channels} channels), "
                f"but the student's {tap.name!r} is {own[0]} x {own[1]} (stride {tap.stride}); "
                f"{_advice((height, width), image_size, features)}; or set "
                f"features.{index}.resize: true",
                code="feature-size",
            )
        described.append(
            Pair(
                tap.name,
                channels,
                pair.hidden_channels,
                size=None if own == (height, width) else (height, width),
                masked_share=pair.masked_share if pair.loss == "mgd" else None,
                standardized=pair.standardize,
                balanced=balanced,
            )
        )
    return described


def describe_sizes(
    pairs: Sequence[Pair], image_size: Size, features: Sequence[FeatureInfo]
) -> list[str]:
    """Describes which taps are resized.

    Args:
      pairs: The feature pairs.
      image_size: Height and width of the images, in pixels.
      features: Descriptions of the student's feature maps.

    Returns:
      A line for each pair whose tap is resized.
    """
    lines = []
    for index, pair in enumerate(pairs):
        if pair.size:
            height, width = find_tap(pair.tap, features).size(image_size)
            lines.append(
                f"features.{index}: {pair.tap} is resized from {height} x {width} to "
                f"{pair.size[0]} x {pair.size[1]}"
            )
    return lines


def _advice(size: Size, image_size: Size, features: Sequence[FeatureInfo]) -> str:
    if fitting := fitting_taps(size, image_size, features):
        return f"taps of that size: {', '.join(feature.name for feature in fitting)}"
    return f"no tap has that size for images of {image_size[0]} x {image_size[1]}"
