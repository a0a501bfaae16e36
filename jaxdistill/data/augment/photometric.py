"""Augmentations of colour and tone: (key, image) -> image, from pixels in [0, 1], not clipped."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

Image = Float[Array, "h w 3"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in JPEG
_TILES = 8
_LEVELS = 256


def brightness_contrast(key: Key[Array, ""], image: Image) -> Image:
    """Adds up to a fifth of white or black, and stretches or shrinks the range by up to a fifth."""
    brightness, contrast = jax.random.uniform(key, (2,), minval=-0.2, maxval=0.2)
    return image * (1 + contrast) + brightness


def hue_saturation_value(key: Key[Array, ""], image: Image) -> Image:
    """Turns the hue by up to 20 degrees; saturation times 0.7 to 1.3; value up to 0.08 off."""
    turn, more, lift = jax.random.uniform(key, (3,), minval=-1, maxval=1)
    hue, saturation, value = jnp.moveaxis(rgb_to_hsv(image), -1, 0)
    # Times, not plus: what is grey stays grey, whatever hue rounding has given it.
    changed = (hue + turn * 20 / 360, saturation * (1 + 0.3 * more), value + 0.08 * lift)
    return hsv_to_rgb(jnp.stack(changed, -1))


def jitter(key: Key[Array, ""], image: Image) -> Image:
    """Brightness, contrast and saturation times 0.8 to 1.2 each; hue turned by up to 18 degrees."""
    bright, contrast, more, turn = jax.random.uniform(key, (4,), minval=-1, maxval=1)
    image = jnp.clip(image * (1 + 0.2 * bright), 0, 1)
    mean = luma(image).mean()
    image = jnp.clip(mean + (image - mean) * (1 + 0.2 * contrast), 0, 1)
    hue, saturation, value = jnp.moveaxis(rgb_to_hsv(image), -1, 0)
    changed = (hue + turn * 18 / 360, saturation * (1 + 0.2 * more), value)
    return hsv_to_rgb(jnp.stack(changed, -1))


def rgb_shift(key: Key[Array, ""], image: Image) -> Image:
    """Shifts each channel by up to 20 grey levels of 255."""
    return image + jax.random.uniform(key, (3,), minval=-20 / 255, maxval=20 / 255)


def gamma(key: Key[Array, ""], image: Image) -> Image:
    """Raises to a power of 0.7 to 1.4."""
    return image ** jnp.exp(jax.random.uniform(key, minval=np.log(0.7), maxval=np.log(1.4)))


def clahe(key: Key[Array, ""], image: Image) -> Image:
    """Equalises the luma locally; the contrast's limit is 1 to 4."""
    grey = luma(image)
    limit = jax.random.uniform(key, minval=1.0, maxval=4.0)
    return image + (equalise(grey, limit) - grey)[..., None]


def luma(image: Image) -> Float[Array, "h w"]:
    """How bright each pixel looks, of gamma-encoded colours."""
    return image @ _LUMA


def rgb_to_hsv(image: Image) -> Image:
    """Hue in turns, saturation and value, all in [0, 1]; grey has hue 0."""
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
    """Inverse of `rgb_to_hsv`; any hue, and saturation and value are clipped to [0, 1]."""
    hue, saturation, value = jnp.moveaxis(image, -1, 0)
    saturation, value = jnp.clip(saturation, 0, 1), jnp.clip(value, 0, 1)

    def channel(offset: int) -> Float[Array, "h w"]:
        sector = (offset + hue * 6) % 6
        return value * (1 - saturation * jnp.clip(jnp.minimum(sector, 4 - sector), 0, 1))

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


def equalise(grey: Float[Array, "h w"], limit: Float[Array, ""]) -> Float[Array, "h w"]:
    """Contrast-limited adaptive histogram equalisation over 8 x 8 tiles.

    Zuiderveld, Graphics Gems IV (1994), as OpenCV has it.

    Args:
      grey: in [0, 1]; height and width are multiples of 8.
      limit: the highest bin of a tile's histogram, relative to an even one.
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
    """Looks every pixel up in the tables of the four nearest tiles, weighted by closeness."""

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
