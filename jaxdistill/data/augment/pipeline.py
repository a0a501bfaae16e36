"""The augmentations that `data.augment` chooses from, as pure functions of (key, images, masks).

Flips and crops (`geometric`) move image and mask together. All other operations change the colours
of an image alone: `photometric`, `weather` and `corruption`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdistill.data.augment import corruption, keys, photometric, weather
from jaxdistill.data.augment.geometric import Kind, flip, flips

Image = Float[Array, "h w 3"]
Operation = Callable[[Key[Array, ""], Image], Image]


class Stage(NamedTuple):
    """A step of the photometric pipeline."""

    probability: float
    """How often the stage changes an image."""
    operations: tuple[Operation, ...]
    """The operations; one of them is drawn each time."""


STAGES: dict[Kind, tuple[Stage, ...]] = {
    "none": (),
    "flip": (),
    "light": (
        Stage(0.5, (photometric.brightness_contrast, photometric.hue_saturation_value)),
        Stage(0.1, (corruption.gaussian_blur,)),
    ),
    "heavy": (
        Stage(
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
        Stage(0.2, (weather.rain, weather.fog, weather.flare)),
        Stage(0.2, (corruption.motion_blur, corruption.gaussian_blur, corruption.median_blur)),
        Stage(0.2, (corruption.sensor_noise,)),
        Stage(0.3, (corruption.jpeg, corruption.downscale)),
    ),
}
"""The photometric stages of each kind, in order."""


class Augmentation(NamedTuple):
    """The augmentation of a data set."""

    kind: Kind
    """`data.augment`."""
    crop: float | None
    """`data.crop`: the smallest area of a crop, as a fraction of the image's; None: no crops."""

    @property
    def is_photometric(self) -> bool:
        """Whether the colours of images are changed."""
        return bool(STAGES[self.kind])


NO_AUGMENTATION = Augmentation("none", None)
"""Leaves images and masks as they are."""


class Rows(NamedTuple):
    """The rows of the whole batch that this process has.

    Draws are made for the whole batch, so that they do not depend on the number of processes.
    """

    first: int
    """The first row."""
    end: int
    """The row after the last one."""
    whole: int
    """Number of rows in the whole batch."""

    @classmethod
    def of_process(cls, count: int) -> "Rows":
        """Returns the rows of this process.

        Args:
          count: Number of rows that each process has.
        """
        first = jax.process_index() * count
        return cls(first, first + count, jax.process_count() * count)

    def of(self, drawn: Any) -> Any:
        """Returns this process's rows of arrays that were drawn for the whole batch.

        Args:
          drawn: A tree of arrays with a leading batch axis.
        """
        return jax.tree.map(lambda array: array[self.first : self.end], drawn)


class Augmented(NamedTuple):
    """Examples after augmentation."""

    images: Float[Array, "b h w 3"]
    """RGB in [0, 1]."""
    masks: Float[Array, "b h w 1"]
    """1 is a person, 0 is not."""
    clean: Float[Array, "b h w 3"]
    """The images after flips and before photometric changes."""


@functools.partial(jax.jit, static_argnames=("kind", "rows"))
def augment(
    key: Key[Array, ""],
    images: Float[Array, "b h w 3"],
    masks: Float[Array, "b h w 1"],
    kind: Kind,
    rows: Rows,
) -> Augmented:
    """Flips examples and changes their colours, each in its own way.

    Args:
      key: The key of the step.
      images: RGB in [0, 1]; height and width are multiples of 16.
      masks: 1 is a person, 0 is not.
      kind: `none` changes nothing. `flip` flips half of the images left to right. `light` also
        changes brightness and contrast, or hue, saturation and value, and rarely blurs. `heavy`
        adds more changes of colour, weather, motion blur, noise and compression.
      rows: The places of these examples in the whole batch.
    """
    flipped = rows.of(flips(key, rows.whole, kind))
    clean, masks = flip(flipped, images), flip(flipped, masks)
    return Augmented(apply_photometric(key, clean, kind, rows.first), masks, clean)


@functools.partial(jax.jit, static_argnames=("kind", "first"))
def apply_photometric(
    key: Key[Array, ""], images: Float[Array, "b h w 3"], kind: Kind, first: int = 0
) -> Float[Array, "b h w 3"]:
    """Applies the photometric stages of a kind, which change colours and move nothing.

    Args:
      key: The key of the step.
      images: RGB in [0, 1].
      kind: The value of `data.augment`.
      first: Place of the first of these examples in the whole batch.
    """
    if not STAGES[kind]:
        return images
    one = functools.partial(_apply_stages, stages=STAGES[kind])
    key = keys.fold(key, keys.PHOTOMETRIC)
    example_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(
        jnp.arange(first, first + len(images))
    )
    # With vmap every operation is computed for every example, and most results are dropped. That
    # costs a GPU little, but a CPU is faster with one example after the other.
    return jax.lax.platform_dependent(
        example_keys,
        images,
        cpu=lambda *examples: jax.lax.map(lambda example: one(*example), examples),
        default=jax.vmap(one),
    )


def _apply_stages(key: Key[Array, ""], image: Image, stages: tuple[Stage, ...]) -> Image:
    stage_keys = jax.random.split(key, len(stages))
    for stage_key, stage in zip(stage_keys, stages, strict=True):
        image = _maybe_one_of(stage_key, image, *stage)
    return image


def _maybe_one_of(
    key: Key[Array, ""], image: Image, probability: float, operations: tuple[Operation, ...]
) -> Image:
    """Applies one of the operations with a probability, and clips the result to [0, 1]."""
    chance_key, choice_key, own_key = jax.random.split(key, 3)
    acts = jax.random.bernoulli(chance_key, probability)
    choice = jax.random.randint(choice_key, (), 1, 1 + len(operations))
    branches = [lambda _, image: image, *operations]
    return jnp.clip(jax.lax.switch(jnp.where(acts, choice, 0), branches, own_key, image), 0, 1)
