"""Photometric operations, which change colour and tone: (key, image) -> image.

Images are in [0, 1]. Results are not clipped; the pipeline clips them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

Image = Float[Array, "h w 3"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in JPEG
_TILES = 8
_LEVELS = 256


def brightness_contrast(key: Key[Array, ""], image: Image) -> Image:
    """Changes brightness by up to 0.2, and contrast by a factor of 0.8 to 1.2.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    brightness, contrast = jax.random.uniform(key, (2,), minval=-0.2, maxval=0.2)
    return image * (1 + contrast) + brightness


def hue_saturation_value(key: Key[Array, ""], image: Image) -> Image:
    """Shifts hue by up to 20 degrees and value by up to 0.08; scales saturation by 0.7 to 1.3.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    turn, more, lift = jax.random.uniform(key, (3,), minval=-1, maxval=1)
    hue, saturation, value = jnp.moveaxis(rgb_to_hsv(image), -1, 0)
    # Saturation is multiplied, so that grey stays grey whatever hue rounding has given it.
    changed = (hue + turn * 20 / 360, saturation * (1 + 0.3 * more), value + 0.08 * lift)
    return hsv_to_rgb(jnp.stack(changed, -1))


def jitter(key: Key[Array, ""], image: Image) -> Image:
    """Scales brightness, contrast and saturation by 0.8 to 1.2; shifts hue by up to 18 degrees.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    bright, contrast, more, turn = jax.random.uniform(key, (4,), minval=-1, maxval=1)
    image = jnp.clip(image * (1 + 0.2 * bright), 0, 1)
    mean = luma(image).mean()
    image = jnp.clip(mean + (image - mean) * (1 + 0.2 * contrast), 0, 1)
    hue, saturation, value = jnp.moveaxis(rgb_to_hsv(image), -1, 0)
    changed = (hue + turn * 18 / 360, saturation * (1 + 0.2 * more), value)
    return hsv_to_rgb(jnp.stack(changed, -1))


def rgb_shift(key: Key[Array, ""], image: Image) -> Image:
    """Shifts each channel by up to 20 of 255 grey levels.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    return image + jax.random.uniform(key, (3,), minval=-20 / 255, maxval=20 / 255)


def gamma(key: Key[Array, ""], image: Image) -> Image:
    """Raises the image to a power of 0.7 to 1.4.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    return image ** jnp.exp(jax.random.uniform(key, minval=np.log(0.7), maxval=np.log(1.4)))


def clahe(key: Key[Array, ""], image: Image) -> Image:
    """Equalises the luma locally, with a contrast limit of 1 to 4.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    grey = luma(image)
    limit = jax.random.uniform(key, minval=1.0, maxval=4.0)
    return image + (equalise(grey, limit) - grey)[..., None]


def luma(image: Image) -> Float[Array, "h w"]:
    """Returns the luma of gamma-encoded RGB by ITU-R BT.601.

    Args:
      image: RGB in [0, 1].
    """
    return image @ _LUMA


def rgb_to_hsv(image: Image) -> Image:
    """Converts RGB to hue (in turns), saturation and value, all in [0, 1]; grey has hue 0.

    Args:
      image: RGB in [0, 1].
    """
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value = image.max(-1)
    chroma = value - image.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1)
    hue = jnp.select(
        [chroma == 0, value == red, value == green],
        [0.0, (green - blue) / safe, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    saturation = chroma / jnp.where(value > 0, value, 1)
    return jnp.stack([(hue / 6) % 1, saturation, value], -1)


def hsv_to_rgb(image: Image) -> Image:
    """Converts hue, saturation and value to RGB; the inverse of `rgb_to_hsv`.

    Args:
      image: Hue of any value, in turns; saturation and value, which are clipped to [0, 1].
    """
    hue, saturation, value = jnp.moveaxis(image, -1, 0)
    saturation, value = jnp.clip(saturation, 0, 1), jnp.clip(value, 0, 1)

    def channel(offset: int) -> Float[Array, "h w"]:
        sector = (offset + hue * 6) % 6
        return value * (1 - saturation * jnp.clip(jnp.minimum(sector, 4 - sector), 0, 1))

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


def equalise(grey: Float[Array, "h w"], limit: Float[Array, ""]) -> Float[Array, "h w"]:
    """Equalises contrast with contrast-limited adaptive histograms (CLAHE) over 8 x 8 tiles.

    Source: Zuiderveld, Graphics Gems IV (1994), in OpenCV's variant.

    Args:
      grey: Luma in [0, 1]; height and width are multiples of 8.
      limit: Upper bound of a histogram bin, relative to a uniform histogram.
    """
    height, width = grey.shape
    tile = (height // _TILES, width // _TILES)
    area = tile[0] * tile[1]
    levels = jnp.clip(jnp.round(grey * (_LEVELS - 1)), 0, _LEVELS - 1).astype(jnp.int32)
    rows, columns = jnp.arange(height) // tile[0], jnp.arange(width) // tile[1]
    histograms = jnp.zeros((_TILES, _TILES, _LEVELS))
    histograms = histograms.at[rows[:, None], columns, levels].add(1.0)
    ceiling = jnp.maximum(limit * area / _LEVELS, 1)
    clipped = jnp.minimum(histograms, ceiling)
    clipped += (area - clipped.sum(-1, keepdims=True)) / _LEVELS
    tables = jnp.cumsum(clipped, -1) / area
    return _interpolate(tables, levels, tile)


def _interpolate(
    tables: Float[Array, "tiles tiles levels"], levels: Array, tile: tuple[int, int]
) -> Float[Array, "h w"]:
    """Interpolates each pixel between the tables of the four nearest tiles."""

    def neighbours(length: int, side: int) -> tuple[Array, Array, Array]:
        position = (jnp.arange(length) + 0.5) / side - 0.5
        first = jnp.floor(position).astype(jnp.int32)
        return first, first + 1, position - first

    top, bottom, down = neighbours(levels.shape[0], tile[0])
    left, right, across = neighbours(levels.shape[1], tile[1])

    def look_up(rows: Array, columns: Array) -> Float[Array, "h w"]:
        rows, columns = (jnp.clip(indices, 0, _TILES - 1) for indices in (rows, columns))
        return tables[rows[:, None], columns, levels]

    upper = look_up(top, left) * (1 - across) + look_up(top, right) * across
    lower = look_up(bottom, left) * (1 - across) + look_up(bottom, right) * across
    return upper * (1 - down[:, None]) + lower * down[:, None]
