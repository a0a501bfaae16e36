"""Geometric augmentation: flips and crops, which move image and mask together."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jaxdistill.data.augment import keys
from jaxdistill.runtime import xla

Kind = Literal["none", "flip", "light", "heavy"]
"""The values of `data.augment`."""

_MAX_ASPECT = 1.5  # of a crop: longer side over shorter side, relative to the image's


class CropBoxes(NamedTuple):
    """A part of each image, as fractions of its height and width."""

    start: Float[Array, "b 2"]
    """Top and left."""
    side: Float[Array, "b 2"]
    """Height and width."""


def flips(key: Key[Array, ""], count: int, kind: Kind) -> Bool[Array, " b"]:
    """Draws which examples of a batch `augment` flips left to right.

    Args:
      key: The key of the step.
      count: Number of examples in the whole batch.
      kind: The value of `data.augment`; `none` flips nothing.
    """
    if kind == "none":
        return jnp.zeros(count, bool)
    return jax.random.bernoulli(keys.fold(key, keys.FLIP), shape=(count,))


def flips_on_host(seed: int, step: int, count: int, kind: Kind) -> Bool[np.ndarray, " b"]:
    """Draws the flips of a step on the host's CPU, without waiting for an accelerator.

    The result is bit for bit that of `flips(step_key(seed, step), count, kind)`.

    Args:
      seed: The seed of the run.
      step: The step.
      count: Number of examples in the whole batch.
      kind: The value of `data.augment`.
    """
    if kind == "none":
        return np.zeros(count, bool)
    with jax.default_device(xla.cpu_device()):
        return np.asarray(flips(keys.step_key(seed, step), count, kind))


def flip(flipped: Bool[Array, " b"], maps: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Flips examples left to right.

    Args:
      flipped: Which examples are flipped.
      maps: Images, masks or feature maps.
    """
    return jnp.where(flipped[:, None, None, None], maps[:, :, ::-1], maps)


def crop_boxes(key: Key[Array, ""], count: int, smallest: float) -> CropBoxes:
    """Draws a part of each image.

    The area of a box is uniform in [smallest, 1] of the image's, its aspect ratio at most 1.5 times
    or two thirds of the image's, and its place uniform within the image.

    Args:
      key: The key of the step.
      count: Number of examples in the whole batch.
      smallest: The smallest area, as a fraction of the image's: `data.crop`.
    """
    area_key, aspect_key, place_key = jax.random.split(keys.fold(key, keys.CROP), 3)
    area = jax.random.uniform(area_key, (count, 1), minval=smallest, maxval=1)
    # Neither side may be longer than the image's.
    longest = jnp.minimum(jnp.log(_MAX_ASPECT), -jnp.log(area)) / 2
    stretch = longest * jax.random.uniform(aspect_key, (count, 1), minval=-1, maxval=1)
    side = jnp.sqrt(area) * jnp.exp(jnp.concatenate([stretch, -stretch], axis=1))
    return CropBoxes(jax.random.uniform(place_key, (count, 2)) * (1 - side), side)


def crop(boxes: CropBoxes, maps: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Crops maps, and resizes each part to the size of the maps with bilinear interpolation.

    Args:
      boxes: The part of each example.
      maps: Images, masks, or feature maps at any resolution.
    """

    def one(map_: Float[Array, "h w c"], box: CropBoxes) -> Float[Array, "h w c"]:
        scale = 1 / box.side
        shift = -box.start * scale * jnp.asarray(map_.shape[:2])
        return jax.image.scale_and_translate(
            map_, map_.shape, (0, 1), scale, shift, "linear", antialias=False
        )

    return jax.vmap(one)(maps, boxes)
