"""Pixels: normalisation and resizing, the one place that knows means and deviations.

Pixels travel as float32 in [0, 1], NHWC, RGB. Every network gets its own normalisation from there.
"""

from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxdistill import config
from jaxdistill.config import Rgb


class Normalization(NamedTuple):
    """`(pixels - mean) / std`, per channel (red, green, blue), for pixels in [0, 1]."""

    mean: Rgb
    std: Rgb


_NAMED = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "half": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def resolve(normalization: config.Normalization) -> Normalization:
    """The mean and deviation that a configured normalisation stands for."""
    if isinstance(normalization, config.MeanStd):
        return Normalization(normalization.mean, normalization.std)
    return _NAMED[normalization]


def in_unit(images: UInt8[Any, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Bytes, as pictures are decoded, as pixels in [0, 1]."""
    return jnp.asarray(images).astype(jnp.float32) / 255


def normalize(
    images: Float[Array, "*batch 3"], normalization: Normalization
) -> Float[Array, "*batch 3"]:
    """Pixels in [0, 1] as a network expects them."""
    if normalization == _NAMED["unit"]:
        return images
    mean, std = (np.asarray(values, np.float32) for values in normalization)
    return (images - mean) / std


def resize(
    maps: Float[Array, "b h w c"], size: tuple[int, int], *, antialias: bool = False
) -> Float[Array, "b {*size} c"]:
    """Bilinear, to `size` (height, width): torch's `interpolate(align_corners=False)`.

    Without antialiasing a strong reduction skips pixels, as the original does.
    """
    batch, *old, channels = maps.shape
    if tuple(old) == tuple(size):
        return maps
    return jax.image.resize(maps, (batch, *size, channels), "bilinear", antialias=antialias)


def resize_photograph(
    picture: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "{*size} 3"]:
    """Bilinear, on the host, to `size` (height, width); the aspect ratio is not kept."""
    height, width = size
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_mask(
    mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]
) -> UInt8[np.ndarray, "{*size}"]:
    """Nearest neighbour, on the host, from grey levels to {0, 1}, cut half way up at 127.5.

    As torch and OpenCV choose the neighbour, but in whole numbers: those two round differently.
    """
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True))
    return (mask[rows][:, columns] > 127).astype(np.uint8)
