"""Augmentation: none, flip, light, heavy, and crops; pure functions of (key, images, masks).

Only flip and crop move anything, and they move picture and mask together; a crop moves the targets
too, for the frozen networks see the whole picture. All else changes the picture's pixels alone; it
stands in `colour`, `weather` and `camera`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxdistill.data.augment import corruption, photometric, weather

Image = Float[Array, "h w 3"]
Kind = Literal["none", "flip", "light", "heavy"]
Operation = Callable[[Key[Array, ""], Image], Image]

_FLIP, _PAINT, _CROP = 0, 1, 2  # what a key is folded with, for each use
_STRETCH = 1.5  # how many times as high as wide, or as wide as high, a crop is at most

# Each stage: how often it does something, and what; one of its operations is drawn then.
_STAGES: dict[str, tuple[tuple[float, tuple[Operation, ...]], ...]] = {
    "none": (),
    "flip": (),
    "light": (
        (0.5, (photometric.brightness_contrast, photometric.hue_saturation_value)),
        (0.1, (corruption.gaussian_blur,)),
    ),
    "heavy": (
        (
            0.8,
            (
                photometric.brightness_contrast,
                photometric.hue_saturation_value,
                photometric.jitter,
                photometric.rgb_shift,
                photometric.clahe,
                photometric.gamma,
            ),
        ),
        (0.2, (weather.rain, weather.fog, weather.flare)),
        (0.2, (corruption.motion_blur, corruption.gaussian_blur, corruption.median_blur)),
        (0.2, (corruption.sensor_noise,)),
        (0.3, (corruption.jpeg, corruption.downscale)),
    ),
}


class Augmentation(NamedTuple):
    """What is done to a data set's pictures: `data.augment` and `data.crop`."""

    kind: Kind
    crop: float | None


STILL = Augmentation("none", None)


class Boxes(NamedTuple):
    """Parts of pictures, in shares of their height and width."""

    start: Float[Array, "b 2"]
    side: Float[Array, "b 2"]


class Rows(NamedTuple):
    """Those of the whole batch that a process has.

    All randomness comes from the key and a row's place in the whole batch.
    """

    first: int
    end: int
    whole: int

    @classmethod
    def of_process(cls, count: int) -> "Rows":
        """The `count` rows of this process."""
        first = jax.process_index() * count
        return cls(first, first + count, jax.process_count() * count)

    def of(self, drawn: Any) -> Any:
        """The process's own, of what was drawn for the whole batch."""
        return jax.tree.map(lambda array: array[self.first : self.end], drawn)


class Augmented(NamedTuple):
    """Examples after augmentation."""

    images: Float[Array, "b h w 3"]
    """In [0, 1]."""
    masks: Float[Array, "b h w 1"]
    """Of {0, 1}."""
    clean: Float[Array, "b h w 3"]
    """The images as they were before they were repainted, but flipped."""
    flipped: Bool[Array, " b"]


@functools.partial(jax.jit, static_argnames=("kind", "rows"))
def augment(
    key: Key[Array, ""],
    images: Float[Array, "b h w 3"],
    masks: Float[Array, "b h w 1"],
    kind: Kind,
    rows: Rows,
) -> Augmented:
    """Changes each example in its own way; a flipped picture has a flipped mask.

    Args:
      images: pixels in [0, 1]; height and width are multiples of 16.
      masks: 1 is a person, 0 is not.
      kind: `none` gives back what came; `flip` turns half of the pictures left to right; `light`:
        also brightness and contrast or hue, saturation and value, rarely blur; `heavy`: also more
        colour, weather, motion, noise, compression.
      rows: the examples' places.
    """
    flipped = rows.of(flips(key, rows.whole, kind))
    clean, masks = flip(flipped, images), flip(flipped, masks)
    return Augmented(repaint(key, clean, kind, rows.first), masks, clean, flipped)


def flips(key: Key[Array, ""], count: int, kind: Kind) -> Bool[Array, " b"]:
    """Which of so many examples `augment` turns left to right."""
    if kind == "none":
        return jnp.zeros(count, bool)
    return jax.random.bernoulli(jax.random.fold_in(key, _FLIP), shape=(count,))


def flip(flipped: Bool[Array, " b"], maps: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Turns those examples left to right."""
    return jnp.where(flipped[:, None, None, None], maps[:, :, ::-1], maps)


def boxes(key: Key[Array, ""], count: int, smallest: float) -> Boxes:
    """Where so many examples are cropped.

    A box's area is uniform in [smallest, 1] of its picture's, its place uniform within the picture.
    """
    area_key, stretch_key, place_key = jax.random.split(jax.random.fold_in(key, _CROP), 3)
    area = jax.random.uniform(area_key, (count, 1), minval=smallest, maxval=1)
    # Neither side is longer than the picture's.
    longest = jnp.minimum(jnp.log(_STRETCH), -jnp.log(area)) / 2
    stretch = longest * jax.random.uniform(stretch_key, (count, 1), minval=-1, maxval=1)
    side = jnp.sqrt(area) * jnp.exp(jnp.concatenate([stretch, -stretch], axis=1))
    return Boxes(jax.random.uniform(place_key, (count, 2)) * (1 - side), side)


def crop(parts: Boxes, maps: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each example's part, brought to the maps' own size (bilinear)."""

    def one(map_: Float[Array, "h w c"], part: Boxes) -> Float[Array, "h w c"]:
        scale = 1 / part.side
        shift = -part.start * scale * jnp.asarray(map_.shape[:2])
        return jax.image.scale_and_translate(
            map_, map_.shape, (0, 1), scale, shift, "linear", antialias=False
        )

    return jax.vmap(one)(maps, parts)


@functools.partial(jax.jit, static_argnames=("kind", "first"))
def repaint(
    key: Key[Array, ""], images: Float[Array, "b h w 3"], kind: Kind, first: int = 0
) -> Float[Array, "b h w 3"]:
    """What `augment` does to pixels where they stand.

    Args:
      first: the place in the batch of the first of these examples.
    """
    if not _STAGES[kind]:
        return images
    one = functools.partial(_repaint_one, stages=_STAGES[kind])
    key = jax.random.fold_in(key, _PAINT)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(
        jnp.arange(first, first + len(images))
    )
    # Side by side, every operation is computed for every example, and most results are dropped:
    # nothing to a GPU, but a CPU is better off with one example after the other.
    return jax.lax.platform_dependent(
        keys,
        images,
        cpu=lambda *dataset: jax.lax.map(lambda example: one(*example), dataset),
        default=jax.vmap(one),
    )


def _repaint_one(
    key: Key[Array, ""],
    image: Image,
    stages: tuple[tuple[float, tuple[Operation, ...]], ...],
) -> Image:
    stage_keys = jax.random.split(key, len(stages))
    for stage_key, (probability, operations) in zip(stage_keys, stages, strict=True):
        image = _maybe_one_of(stage_key, image, probability, operations)
    return image


def _maybe_one_of(
    key: Key[Array, ""], image: Image, probability: float, operations: tuple[Operation, ...]
) -> Image:
    chance_key, choice_key, own_key = jax.random.split(key, 3)
    acts = jax.random.bernoulli(chance_key, probability)
    choice = jax.random.randint(choice_key, (), 1, 1 + len(operations))
    branches = [lambda _, image: image, *operations]
    return jnp.clip(jax.lax.switch(jnp.where(acts, choice, 0), branches, own_key, image), 0, 1)
