"""Corruptions by lens, sensor and file format: (key, image) -> image.

Images are in [0, 1]. Results are not clipped; the pipeline clips them.
"""

import functools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

Image = Float[Array, "h w 3"]

_REACH = 4  # radius of the largest blur, in pixels
_BLOCK = 8  # side of JPEG's blocks, in pixels

# Quantisation tables of ITU-T T.81, K.1 and K.2.
_LUMA_STEPS = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
], np.float32)  # fmt: skip
_CHROMA_STEPS = np.full((_BLOCK, _BLOCK), 99, np.float32)
_CHROMA_STEPS[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# JFIF 1.02: RGB to luma and two colour differences.
_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
_FREQUENCY, _PLACE = np.mgrid[:_BLOCK, :_BLOCK]
_COSINES = np.cos((2 * _PLACE + 1) * _FREQUENCY * np.pi / (2 * _BLOCK)) / 2
_COSINES[0] /= np.sqrt(2)
_COSINES = _COSINES.astype(np.float32)


def gaussian_blur(key: Key[Array, ""], image: Image) -> Image:
    """Blurs with a Gaussian whose standard deviation is 0.4 to 1.6 pixels.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    deviation = jax.random.uniform(key, minval=0.4, maxval=1.6)
    places = np.arange(-_REACH, _REACH + 1)
    weights = jnp.exp(-0.5 * (places / deviation) ** 2)
    weights /= weights.sum()
    down = _weigh_neighbours(weights, _pad(image), axis=0)
    return _weigh_neighbours(weights, down, axis=1)


def motion_blur(key: Key[Array, ""], image: Image) -> Image:
    """Averages along a line of random direction, 3 to 9 pixels long.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    angle, length = jax.random.uniform(
        key, (2,), minval=np.array([0, 3]), maxval=np.array([np.pi, 2 * _REACH + 1])
    )
    along = np.linspace(-0.5, 0.5, 2 * _REACH + 1) * (length - 1)
    rows = jnp.round(along * jnp.sin(angle)).astype(jnp.int32)
    columns = jnp.round(along * jnp.cos(angle)).astype(jnp.int32)
    padded = _pad(image)
    shifted = (
        jax.lax.dynamic_slice(padded, (_REACH + row, _REACH + column, 0), image.shape)
        for row, column in zip(rows, columns, strict=True)
    )
    return _sum(shifted) / len(along)


def median_blur(key: Key[Array, ""], image: Image) -> Image:
    """Replaces each pixel by the median of 3 x 3 pixels.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    del key
    height, width, _ = image.shape
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
    rows = [_sort3(*(padded[i : i + height, j : j + width] for j in range(3))) for i in range(3)]
    # The median of nine values is the median of: the largest minimum of the columns, the median of
    # their medians, and their smallest maximum.
    low, middle, high = (_sort3(*column) for column in zip(*rows, strict=True))
    return _sort3(low[2], middle[1], high[0])[1]


def sensor_noise(key: Key[Array, ""], image: Image) -> Image:
    """Adds read noise and photon noise, as a sensor has them in low light.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    level_key, noise_key = jax.random.split(key)
    reading, counting = jax.random.uniform(level_key, (2,)) * np.array([0.03, 0.08])
    deviation = jnp.sqrt(reading**2 + counting**2 * image)
    return image + deviation * jax.random.normal(noise_key, image.shape)


def jpeg(key: Key[Array, ""], image: Image) -> Image:
    """Applies JPEG compression of quality 20 to 80.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    return compress(image, jax.random.uniform(key, minval=20.0, maxval=80.0))


def downscale(key: Key[Array, ""], image: Image) -> Image:
    """Reduces the image to 0.35 to 0.85 of its size, and enlarges it again by repeating pixels.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    scale = jax.random.uniform(key, minval=0.35, maxval=0.85)
    rows, columns = (
        jnp.floor((jnp.floor((jnp.arange(side) + 0.5) * scale) + 0.5) / scale).astype(jnp.int32)
        for side in image.shape[:2]
    )
    return jnp.take(jnp.take(image, rows, 0, mode="clip"), columns, 1, mode="clip")


def compress(image: Image, quality: Float[Array, ""]) -> Image:
    """Compresses and decompresses as JPEG does, with colour at half the resolution (4:2:0).

    Args:
      image: RGB in [0, 1]. Its blocks of 16 x 16 pixels are completed by repeated borders.
      quality: libjpeg's quality, 1 to 100.
    """
    own_height, own_width, _ = image.shape
    image = jnp.pad(image, ((0, -own_height % 16), (0, -own_width % 16), (0, 0)), "edge")
    y, *differences = jnp.moveaxis((image * 255) @ _YCC.T, -1, 0)
    height, width = y.shape
    factor = jnp.where(quality < 50, 50 / quality, 2 - quality / 50)
    y = _quantise(y - 128, _steps(_LUMA_STEPS, factor)) + 128
    halves = (
        _quantise(
            difference.reshape(height // 2, 2, width // 2, 2).mean((1, 3)),
            _steps(_CHROMA_STEPS, factor),
        )
        for difference in differences
    )
    fine = (jax.image.resize(half, y.shape, "bilinear") for half in halves)
    compressed = jnp.stack([y, *fine], -1) @ np.linalg.inv(_YCC).T / 255
    return compressed[:own_height, :own_width]


def _steps(table: np.ndarray, factor: Float[Array, ""]) -> Float[Array, "8 8"]:
    return jnp.clip(jnp.floor(table * factor + 0.5), 1, 255)


def _quantise(plane: Float[Array, "h w"], steps: Float[Array, "8 8"]) -> Float[Array, "h w"]:
    """Rounds the cosine transform of each 8 x 8 block to multiples of `steps`."""
    height, width = plane.shape
    blocks = plane.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    waves = jnp.einsum("ui,ribj,vj->rubv", _COSINES, blocks, _COSINES)
    steps = steps[:, None, :]
    rounded = jnp.round(waves / steps) * steps
    return jnp.einsum("ui,rubv,vj->ribj", _COSINES, rounded, _COSINES).reshape(height, width)


def _weigh_neighbours(weights: Float[Array, " n"], image: Array, axis: int) -> Array:
    """Computes a weighted sum of each pixel's neighbours along an axis of a padded image."""
    size = image.shape[axis] - len(weights) + 1

    def add(place: Array, total: Array) -> Array:
        return total + weights[place] * jax.lax.dynamic_slice_in_dim(image, place, size, axis)

    # A loop, so that XLA compiles one step only. It would fuse the unrolled sums into a single GPU
    # kernel, and take more than a minute for it. A convolution whose weights differ from image to
    # image is slow on a CPU.
    start = jnp.zeros_like(jax.lax.slice_in_dim(image, 0, size, axis=axis))
    return jax.lax.fori_loop(0, len(weights), add, start)


def _pad(image: Image) -> Array:
    return jnp.pad(image, ((_REACH, _REACH), (_REACH, _REACH), (0, 0)), "edge")


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _sort3(a: Array, b: Array, c: Array) -> tuple[Array, Array, Array]:
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    return (
        jnp.minimum(low, c),
        jnp.maximum(low, jnp.minimum(high, c)),
        jnp.maximum(high, c),
    )
