"""From batches as they are read to batches with teacher outputs: augmentation, teacher, crops."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Float, Key, Num

from jaxdistill.data import augment, image_ops
from jaxdistill.data.augment import Augmentation
from jaxdistill.teachers.base import Teacher
from jaxdistill.teachers.memo import MemoizedTeacher
from jaxdistill.teachers.target_cache import CachedTeacher, content_key
from jaxdistill.types import Batch, TeacherOutputs

TrainBatch = tuple[Batch, TeacherOutputs]
"""A batch with what the frozen networks compute for it."""
KeysOf = Callable[[Batch], Sequence[str]]
"""Returns the content key of each image of a batch as it is read; padding has any key."""


class InputPipeline:
    """Augments batches and attaches teacher outputs to them.

    Teacher and student see the same pixels, except that with `clean_images` the teacher sees them
    before photometric changes, and that with crops the teacher sees the whole image and its outputs
    are cropped like the image. All randomness comes from (seed, step).

    Args:
      teacher: Computes the teacher outputs; None attaches none.
      augmentation: What is done to the images.
      seed: The run's seed.
      clean_images: Whether the teacher sees images before photometric augmentation.
      keys_of: Content keys, where `teacher` is a `CachedTeacher`.
      memoize: Whether the same batches come again in every epoch, so that the teacher's outputs can
        be kept in memory.
      rows: How the rows are divided among this process's devices, each of which then augments and
        asks the teacher for its own; None uses the first device.
    """

    def __init__(
        self,
        teacher: Teacher | None,
        augmentation: Augmentation,
        *,
        seed: int,
        clean_images: bool = False,
        keys_of: KeysOf | None = None,
        memoize: bool = False,
        rows: Sharding | None = None,
    ) -> None:
        self.teacher, self.augmentation, self.keys_of = teacher, augmentation, keys_of
        self._seed, self._clean_images, self._rows = seed, clean_images, rows
        self.seconds = {"data": 0.0} if teacher is None else {"data": 0.0, "teacher": 0.0}
        """Time that reading batches and asking the teacher have taken so far."""
        self._memo = MemoizedTeacher(teacher) if memoize and teacher is not None else None

    def __call__(self, batches: Iterable[Batch], first_step: int = 0) -> Iterator[TrainBatch]:
        """Yields the batches augmented and with teacher outputs.

        Args:
          batches: Batches as they are read: this process's rows.
          first_step: The step of the first batch.
        """
        kind, smallest_crop = self.augmentation
        for step, batch in enumerate(self._timed(batches), start=first_step):
            key = augment.step_key(self._seed, step)
            rows = augment.Rows.of_process(len(batch.images))
            read = self._divided((batch.images, batch.masks))
            augmented = self._divided(_augment(key, *read, kind, rows))
            seen_by_teacher = augmented.clean if self._clean_images else augmented.images
            start = time.perf_counter()
            outputs = self._divided(self._teacher_outputs(seen_by_teacher, batch, step, rows))
            if self.teacher is not None:
                self.seconds["teacher"] += time.perf_counter() - start
            images, masks = augmented.images, augmented.masks
            if smallest_crop is not None:
                images, masks, outputs = _crop(key, images, masks, outputs, smallest_crop, rows)
            yield batch._replace(images=images, masks=masks), outputs

    def _timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        start = time.perf_counter()
        for batch in batches:
            self.seconds["data"] += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def _divided(self, tree: Any) -> Any:
        """Returns arrays whose rows are where they are to be computed."""
        return tree if self._rows is None else jax.device_put(tree, self._rows)

    def _teacher_outputs(
        self, images: Float[Array, "b h w 3"], batch: Batch, step: int, rows: augment.Rows
    ) -> TeacherOutputs:
        if self.teacher is None:
            return TeacherOutputs(None)
        extra: tuple[object, ...] = ()
        if isinstance(self.teacher, CachedTeacher):
            assert self.keys_of is not None
            # Drawn again on the host: asking the device for them would wait for the train step.
            flipped = augment.flips_on_host(self._seed, step, rows.whole, self.augmentation.kind)
            extra = (self.keys_of(batch), rows.of(flipped), batch.weights)
        if self._memo is not None:
            # By content: a user's validation data may come in another order in each epoch.
            return self._memo(images, *extra, key=content_key(np.asarray(batch.images)))
        return self.teacher(images, *extra)


def content_keys_by_id(ids: Sequence[int], keys: Sequence[str]) -> KeysOf:
    """Returns a function that looks content keys up by the ids of a batch.

    Args:
      ids: Ids of a data set's images.
      keys: Their content keys.
    """
    by_id = dict(zip((int(each) for each in ids), keys, strict=True))
    return lambda batch: [by_id.get(int(each), "") for each in batch.ids]


def content_keys_by_pixels(batch: Batch) -> Sequence[str]:
    """Returns content keys that are hashes of the images as they are read.

    Args:
      batch: A batch of images without keys of their own.
    """
    return [content_key(image) for image in np.asarray(batch.images)]


@partial(jax.jit, static_argnames=("kind", "rows"))
def _augment(
    key: Key[Array, ""],
    images: Num[Array, "b h w 3"],
    masks: Num[Array, "b h w 1"],
    kind: augment.Kind,
    rows: augment.Rows,
) -> augment.Augmented:
    images = image_ops.to_float(images)
    return augment.augment(key, images, masks.astype(jnp.float32), kind, rows)


@partial(jax.jit, static_argnames=("smallest", "rows"))
def _crop(
    key: Key[Array, ""],
    images: Float[Array, "b h w 3"],
    masks: Float[Array, "b h w 1"],
    outputs: TeacherOutputs,
    smallest: float,
    rows: augment.Rows,
) -> tuple[Float[Array, "b h w 3"], Float[Array, "b h w 1"], TeacherOutputs]:
    """Crops images, masks and teacher outputs alike, and resizes each to its own size."""
    crop = partial(augment.crop, rows.of(augment.crop_boxes(key, rows.whole, smallest)))
    cropped_masks = (crop(masks) >= 0.5).astype(jnp.float32)
    # A cache keeps float16, in which the weights of an interpolation would be rounded too.
    outputs = jax.tree.map(lambda maps: maps.astype(jnp.float32), outputs)
    return crop(images), cropped_masks, jax.tree.map(crop, outputs)
