"""Operations that imitate weather and light: (key, image) -> image.

Images are in [0, 1]. Results are not clipped; the pipeline clips them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

Image = Float[Array, "h w 3"]


def rain(key: Key[Array, ""], image: Image) -> Image:
    """Adds slanting streaks of 16 pixels, and makes the image darker and duller.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    drop_key, slant_key, amount_key = jax.random.split(key, 3)
    height, width, _ = image.shape
    amount = jax.random.uniform(amount_key, minval=0.0005, maxval=0.002)
    streaks = jax.random.bernoulli(drop_key, amount, (height, width)).astype(image.dtype)
    slant = jax.random.uniform(slant_key, minval=-0.5, maxval=0.5)
    for length in (1, 2, 4, 8):  # each iteration doubles the length of the streaks
        shift = jnp.round(slant * length).astype(jnp.int32)
        streaks = jnp.maximum(streaks, jnp.roll(jnp.roll(streaks, length, 0), shift, 1))
    dull = 0.85 * (0.9 * image + 0.1 * image.mean())
    return dull + 0.35 * streaks[..., None] * (0.9 - dull)


def fog(key: Key[Array, ""], image: Image) -> Image:
    """Adds light grey fog of uneven density; the maximum density is 0.15 to 0.6.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    bank_key, amount_key = jax.random.split(key)
    banks = jax.random.uniform(bank_key, (5, 5), minval=0.4, maxval=1.0)
    banks = jax.image.resize(banks, image.shape[:2], "cubic")
    density = (banks * jax.random.uniform(amount_key, minval=0.15, maxval=0.6))[..., None]
    return image * (1 - density) + 0.9 * density


def flare(key: Key[Array, ""], image: Image) -> Image:
    """Adds a sun in the upper half with its glow, and reflections in the lens on the opposite side.

    Args:
      key: Random key of this image.
      image: RGB in [0, 1].
    """
    sun_key, reflection_key = jax.random.split(key)
    height, width, _ = image.shape
    sun = jax.random.uniform(sun_key, (2,)) * np.array([0.5, 1.0])
    rows = ((jnp.arange(height) + 0.5) / height)[:, None]
    columns = (jnp.arange(width) + 0.5) / width

    def distance(centre: Float[Array, "2"]) -> Float[Array, "h w"]:
        return jnp.hypot((rows - centre[0]) * height / width, columns - centre[1])

    glow = jnp.exp(-distance(sun) / 0.12) + jnp.exp(-((distance(sun) / 0.04) ** 2))
    light = glow[..., None] * np.array([1.0, 0.95, 0.8], np.float32)
    reflections = jax.random.uniform(reflection_key, (4, 5))
    for place, radius, *tint in reflections:
        centre = sun + (0.3 + 1.5 * place) * (0.5 - sun)
        disc = jax.nn.sigmoid((0.01 + 0.05 * radius - distance(centre)) / 0.003)
        light += 0.15 * disc[..., None] * jnp.stack(tint)
    return image + light * (1 - image)
