"""From batches as they are read to batches with teacher outputs: augmentation, teacher, crops.

`InputPipeline` makes one kind of batches; `RunPipelines` holds those of a run.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Float, Key, Num

from jaxdistill import config
from jaxdistill.data import Data, IterableData, augment, image_ops
from jaxdistill.data.augment import Augmentation
from jaxdistill.losses import Loss, required
from jaxdistill.models import Student
from jaxdistill.models.parameters import Partition
from jaxdistill.runtime import distributed
from jaxdistill.runtime.prefetch import prefetch
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers import base
from jaxdistill.teachers.base import Teacher
from jaxdistill.teachers.memo import OutputsMemo
from jaxdistill.teachers.target_cache import CachedTeacher, content_key
from jaxdistill.training import target_caching
from jaxdistill.training.target_caching import KeysOf
from jaxdistill.types import Batch, TeacherOutputs

TrainBatch = tuple[Batch, TeacherOutputs]
"""A batch with what the frozen networks compute for it."""


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
        self._memo = OutputsMemo(teacher) if memoize and teacher is not None else None
        # Of `first_outputs`, by step: the key of the batch, and its outputs.
        self._first: dict[int, tuple[str, TeacherOutputs]] = {}

    def __call__(self, batches: Iterable[Batch], first_step: int = 0) -> Iterator[TrainBatch]:
        """Yields the batches augmented and with teacher outputs.

        Args:
          batches: Batches as they are read: this process's rows.
          first_step: The step of the first batch.
        """
        if first_step:
            self._first.clear()
        for step, batch in enumerate(self._timed(batches), start=first_step):
            augmented = self._augmented(batch, step)
            start = time.perf_counter()
            outputs = self._teacher_outputs(augmented, batch, step)
            if self.teacher is not None:
                self.seconds["teacher"] += time.perf_counter() - start
            images, masks = augmented.images, augmented.masks
            if (smallest := self.augmentation.crop) is not None:
                key, rows = augment.step_key(self._seed, step), _rows(batch)
                images, masks, outputs = _crop(key, images, masks, outputs, smallest, rows)
            yield batch._replace(images=images, masks=masks), outputs

    def first_outputs(self, batches: Iterable[Batch]) -> Iterator[TeacherOutputs]:
        """Yields the teacher's outputs for the first batches of a run, before any crop.

        They are kept until `__call__` comes to the same batch in the same step.

        Args:
          batches: Batches as they are read, from step 0 on.
        """
        for step, batch in enumerate(batches):
            outputs = self._teacher_outputs(self._augmented(batch, step), batch, step)
            self._first[step] = content_key(np.asarray(batch.images)), outputs
            yield outputs

    def _timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        start = time.perf_counter()
        for batch in batches:
            self.seconds["data"] += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def divided(self, tree: Any) -> Any:
        """Returns arrays whose rows are where they are to be computed.

        Args:
          tree: A tree of arrays, divided along their first axis.
        """
        return tree if self._rows is None else jax.device_put(tree, self._rows)

    def _augmented(self, batch: Batch, step: int) -> augment.Augmented:
        key, read = augment.step_key(self._seed, step), self.divided((batch.images, batch.masks))
        augmented: augment.Augmented = self.divided(
            _augment(key, *read, self.augmentation.kind, _rows(batch))
        )
        return augmented

    def _teacher_outputs(
        self, augmented: augment.Augmented, batch: Batch, step: int
    ) -> TeacherOutputs:
        if self.teacher is None:
            return TeacherOutputs(None)
        if step in self._first:
            key, outputs = self._first.pop(step)
            # A user's training data may come in another order when it is read again.
            if key == content_key(np.asarray(batch.images)):
                return outputs
        images = augmented.clean if self._clean_images else augmented.images
        extra: tuple[object, ...] = ()
        if isinstance(self.teacher, CachedTeacher):
            assert self.keys_of is not None
            rows = _rows(batch)
            # Drawn again on the host: asking the device for them would wait for the train step.
            flipped = augment.flips_on_host(self._seed, step, rows.whole, self.augmentation.kind)
            extra = (self.keys_of(batch), rows.of(flipped), batch.weights)
        if self._memo is not None:
            # By content: a user's validation data may come in another order in each epoch.
            outputs = self._memo(images, *extra, key=content_key(np.asarray(batch.images)))
        else:
            outputs = self.teacher(images, *extra)
        divided: TeacherOutputs = self.divided(outputs)
        return divided


class RunPipelines:
    """The input pipelines of a run.

    Args:
      settings: Seed, cache directory, precision, the unfreezing plan.
      data: The run's data.
      teacher: The teacher, if there is one.
      losses: The losses by name; training asks the teacher only for what they need.
      student: The student.
      partition: Its variables; a frozen encoder's feature maps are cached too.
      mesh: The devices, among which each batch is divided.
    """

    def __init__(
        self,
        settings: config.Config,
        data: Data | IterableData,
        teacher: Teacher | None,
        losses: Mapping[str, Loss],
        student: Student,
        partition: Partition,
        mesh: Mesh,
    ) -> None:
        target_caching.check_cacheable(teacher, data, settings.targets.clean_images)
        needed = required(losses)
        asked = base.restrict(
            teacher, logits="teacher_logits" in needed, features="features" in needed
        )
        encoder = None
        if settings.student.unfreeze is None:
            encoder = target_caching.frozen_encoder(settings, student, partition, data.image_size)
        same_pixels = not data.augmentation.is_photometric and data.augmentation.crop is None
        cached = partial(
            target_caching.cached, directory=settings.targets.cache, size=data.image_size
        )
        pipeline = partial(
            InputPipeline,
            seed=settings.seed,
            clean_images=settings.targets.clean_images,
            # The devices of a CPU are one: to divide the rows there would only change roundings.
            rows=None if mesh.platform == "cpu" else mesh.own,
        )
        self.train = pipeline(
            cached(asked, encoder=encoder if same_pixels else None),
            data.augmentation,
            keys_of=target_caching.keys_of(data.train),
        )
        """Training batches, augmented."""
        self.validation = pipeline(
            cached(teacher, encoder=encoder),
            augment.NO_AUGMENTATION,
            keys_of=target_caching.keys_of(data.validation),
            memoize=True,
        )
        """Validation batches."""
        self._data, self._settings = data, settings

    def train_batches(self, first_step: int) -> Generator[TrainBatch]:
        """Yields endless batches with teacher outputs, made ahead of the steps on an accelerator.

        Args:
          first_step: The step of the first batch.

        Returns:
          A generator of this process's rows of each batch.
        """
        read = self._read_train_batches(first_step)
        return prefetch(self.train(read, first_step), _prefetch_depth())

    def first_outputs(self, steps: int) -> Iterator[TeacherOutputs]:
        """Yields the teacher's outputs for the batches of the first steps, before any crop.

        They are kept for `train_batches(0)`, which begins with the same batches.

        Args:
          steps: Number of batches.

        Returns:
          An iterator of the outputs for this process's rows.
        """
        read = self._read_train_batches(0)
        try:
            yield from self.train.first_outputs(islice(read, steps))
        finally:
            if hasattr(read, "close"):  # ends the threads that decode
                read.close()

    def validation_batches(self) -> Generator[TrainBatch]:
        """Yields the validation data once, in order, with teacher outputs."""
        read = self._data.validation_batches(
            self._settings.training.images_per_step, jax.process_index(), jax.process_count()
        )
        return prefetch(self.validation(read), _prefetch_depth())

    def _read_train_batches(self, first_step: int) -> Iterator[Batch]:
        return self._data.train_batches(
            self._settings.training.images_per_step,
            self._settings.seed,
            first_step,
            jax.process_index(),
            jax.process_count(),
        )

    def cache_counts(self) -> dict[str, dict[str, int]]:
        """Returns under `cache` the entries read, computed and damaged, over all processes."""
        teachers = (self.train.teacher, self.validation.teacher)
        counts = [each.counts for each in teachers if isinstance(each, CachedTeacher)]
        if not counts:
            return {}
        own = [[sum(each[kind] for each in counts) for kind in counts[0]]]
        total = distributed.all_gather(own).sum(0).tolist()
        return {"cache": dict(zip(counts[0], total, strict=True))}


def _prefetch_depth() -> int:
    """Returns how many batches are made ahead.

    On a CPU there are none: teacher and step share its cores, and each would hold its memory while
    the other runs.
    """
    return 0 if jax.default_backend() == "cpu" else 2


def _rows(batch: Batch) -> augment.Rows:
    return augment.Rows.of_process(len(batch.images))


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
