"""Normalisation and resizing of images and maps.

Images are float32 in [0, 1], NHWC, RGB, between the input pipeline and the networks. Each network
applies its own normalisation to them.
"""

from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from jaxdistill import config
from jaxdistill.config import MaskResize, Rgb
from jaxdistill.runtime.errors import ConfigError

RgbImage = UInt8[np.ndarray, "h w 3"]


class Normalization(NamedTuple):
    """Per-channel normalisation `(image - mean) / std` of images in [0, 1]."""

    mean: Rgb
    """Mean of the red, green and blue channel."""
    std: Rgb
    """Standard deviation of the red, green and blue channel."""


_ROUNDING = 1e-4  # of OpenCV's areas: one half is not more than half
_NAMED = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "half": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "bytes": Normalization((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}


def resolve(normalization: config.Normalization) -> Normalization:
    """Returns the mean and standard deviation of a configured normalisation.

    Args:
      normalization: A name (`imagenet`, `unit`, `half`, `bytes`), or a mean and a standard
        deviation of pixels in [0, scale], which are divided by the scale.

    Raises:
      ConfigError: There is no such name (`invalid-argument`).
    """
    if isinstance(normalization, config.MeanStd):
        mean, std, scale = normalization.mean, normalization.std, normalization.scale
        if scale == 1:
            return Normalization(mean, std)
        red, green, blue = ((m / scale, s / scale) for m, s in zip(mean, std, strict=True))
        return Normalization(*zip(red, green, blue, strict=True))
    if not isinstance(normalization, str) or normalization not in _NAMED:
        raise ConfigError(
            f"normalization: expected {', '.join(_NAMED)} or a config.MeanStd, got {normalization}",
            code="invalid-argument",
        )
    return _NAMED[normalization]


def to_float(images: Num[Any, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Converts images to float32 in [0, 1].

    Args:
      images: uint8 values, which are divided by 255, or floats, which are in [0, 1] already.
    """
    values = jnp.asarray(images)
    scaled = values.astype(jnp.float32)
    return scaled if jnp.issubdtype(values.dtype, jnp.floating) else scaled / 255


def normalize(
    images: Float[Array, "*batch 3"], normalization: Normalization
) -> Float[Array, "*batch 3"]:
    """Normalises images for a network.

    Args:
      images: RGB in [0, 1].
      normalization: The mean and standard deviation that the network was trained with.
    """
    if normalization == _NAMED["unit"]:
        return images
    mean, std = (np.asarray(values, np.float32) for values in normalization)
    return (images - mean) / std


def resize(
    maps: Float[Array, "b h w c"], size: tuple[int, int], *, antialias: bool = False
) -> Float[Array, "b {*size} c"]:
    """Resizes maps with bilinear interpolation, as torch's `interpolate(align_corners=False)`.

    Args:
      maps: Images or feature maps.
      size: New height and width.
      antialias: Whether to average over all source pixels when the size is reduced. Without it, a
        strong reduction skips pixels, as `interpolate` does by default.
    """
    batch, *old, channels = maps.shape
    if tuple(old) == tuple(size):
        return maps
    return jax.image.resize(maps, (batch, *size, channels), "bilinear", antialias=antialias)


def resize_image(image: RgbImage, size: tuple[int, int]) -> UInt8[np.ndarray, "{*size} 3"]:
    """Resizes an image on the host with bilinear interpolation; the aspect ratio may change.

    Args:
      image: RGB.
      size: New height and width.
    """
    height, width = size
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_mask(
    mask: UInt8[np.ndarray, "h w"], size: tuple[int, int], method: MaskResize = "area"
) -> UInt8[np.ndarray, "{*size}"]:
    """Resizes a mask on the host, and makes it binary.

    Args:
      mask: Grey levels; values above 127 are a person.
      size: New height and width.
      method: `area` takes an output pixel for a person if more than half of its area is one; along
        a side that grows it takes the pixel whose centre is nearest. `nearest` takes the pixel at
        its upper left corner, as torch and OpenCV do, so that the mask moves by up to half an
        output pixel against the image of `resize_image`.

    Returns:
      A mask of 0 and 1.
    """
    # Indices are computed in integers: torch and OpenCV round differently.
    if method == "nearest":
        rows, columns = (
            np.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True)
        )
        return (mask[rows][:, columns] > 127).astype(np.uint8)
    for axis, (new, old) in enumerate(zip(size, mask.shape, strict=True)):
        if new > old:
            mask = np.take(mask, (2 * np.arange(new) + 1) * old // (2 * new), axis)
    binary = mask > 127
    if binary.shape == tuple(size):
        return binary.astype(np.uint8)
    shares = cv2.resize(binary.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return (shares > 0.5 + _ROUNDING).astype(np.uint8)
