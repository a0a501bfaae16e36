"""Descriptions of feature maps, from which everything else about a network's sizes follows."""

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from jaxdistill.config import Size
from jaxdistill.runtime.errors import ConfigError


class FeatureInfo(NamedTuple):
    """Describes one feature map of an encoder or a decoder."""

    name: str
    """Name of the tap, such as `encoder.3` or `decoder.0`."""
    channels: int
    """Number of channels."""
    stride: int
    """Pixels of the input image per position of the feature map, in both directions."""

    stages: int | None = None
    """Number of the encoder's stages, counted from the input, that an encoder's map is computed
    from; None: all."""

    def size(self, image_size: Size) -> Size:
        """Returns height and width of the feature map.

        Args:
          image_size: Height and width of the image, in pixels.

        Returns:
          Height and width in positions.
        """
        return image_size[0] // self.stride, image_size[1] // self.stride


class HasFeatureInfo(Protocol):
    """A network that describes its feature maps: an encoder, a decoder or a student."""

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """One description for each feature map."""
        ...


def find_tap(name: str, features: Iterable[FeatureInfo]) -> FeatureInfo:
    """Returns the description of a tap.

    Args:
      name: Name of the tap.
      features: Descriptions of the student's feature maps.

    Returns:
      The description with that name.

    Raises:
      ConfigError: The student has no such tap (`unknown-tap`).
    """
    described = {feature.name: feature for feature in features}
    if name not in described:
        raise ConfigError(
            f"features: unknown tap {name!r}; the student has {', '.join(described)}",
            code="unknown-tap",
        )
    return described[name]


def size_multiple(model: HasFeatureInfo | Iterable[FeatureInfo]) -> int:
    """Returns the number that height and width of an image must be multiples of.

    Args:
      model: An encoder, a decoder, a student, or the descriptions of its feature maps.

    Returns:
      The least common multiple of the strides.
    """
    return math.lcm(*(feature.stride for feature in _described(model)))


def check_image_size(
    model: HasFeatureInfo | Iterable[FeatureInfo], size: Size, key: str = "data.image_size"
) -> None:
    """Checks that a network can process images of a size.

    Args:
      model: An encoder, a decoder, a student, or the descriptions of its feature maps.
      size: Height and width of the images, in pixels.
      key: The configuration key or the option that set the size, for the message.

    Raises:
      ConfigError: A side is not a positive multiple of the largest stride (`image-size`).
    """
    multiple = size_multiple(model)
    height, width = size
    if any(side <= 0 or side % multiple for side in size):
        near = [max(1, round(side / multiple)) * multiple for side in size]
        raise ConfigError(
            f"{key}: {height} x {width} does not fit the student; height and width must be "
            f"positive multiples of {multiple}, its largest stride, such as {near[0]} x {near[1]}",
            code="image-size",
        )


def _described(model: HasFeatureInfo | Iterable[FeatureInfo]) -> Iterable[FeatureInfo]:
    return model if isinstance(model, Iterable) else model.feature_info
