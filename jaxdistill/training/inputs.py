"""The input pipelines of a run: training, validation, and both without augmentation."""

from collections.abc import Generator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdistill import config
from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.data import Data, IterableData, augment
from jaxdistill.losses import Loss
from jaxdistill.models import Student
from jaxdistill.models.parameters import Partition, merge, param_group
from jaxdistill.runtime import distributed, memory
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.runtime.prefetch import prefetch
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers import base
from jaxdistill.teachers.base import Teacher
from jaxdistill.teachers.target_cache import CachedTeacher, Encoder
from jaxdistill.training.input_pipeline import (
    InputPipeline,
    KeysOf,
    TrainBatch,
    content_keys_by_id,
    content_keys_by_pixels,
)
from jaxdistill.types import Variables

_NEEDS_LOGITS = ("mask", "uncertainty")  # kinds of attention


class Inputs:
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
        _check_cacheable(teacher, data)
        asked = base.restrict(
            teacher, logits=asks_for_logits(losses), features=_trains_on_features(losses)
        )
        encoder = None
        if settings.student.unfreeze is None:
            encoder = _frozen_encoder(settings, student, partition, data.image_size)
        same_pixels = not data.augmentation.is_photometric and data.augmentation.crop is None
        cached = partial(_cached, directory=settings.targets.cache, size=data.image_size)
        pipeline = partial(
            InputPipeline,
            seed=settings.seed,
            clean_images=settings.targets.clean_images,
            # The devices of a CPU are one: to divide the rows there would only change roundings.
            rows=None if mesh.platform == "cpu" else mesh.own,
        )
        train_teacher = cached(asked, encoder=encoder if same_pixels else None)
        train_keys = _keys_of(data.train)
        self.train = pipeline(train_teacher, data.augmentation, keys_of=train_keys)
        """Training batches, augmented."""
        self.still = pipeline(train_teacher, augment.NO_AUGMENTATION, keys_of=train_keys)
        """Training batches as the data set has them."""
        self.validation = pipeline(
            cached(teacher, encoder=encoder),
            augment.NO_AUGMENTATION,
            keys_of=_keys_of(data.validation),
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
        read = self._data.train_batches(
            self._settings.training.images_per_step,
            self._settings.seed,
            first_step,
            jax.process_index(),
            jax.process_count(),
        )
        return prefetch(self.train(read, first_step), _prefetch_depth())

    def validation_batches(self) -> Generator[TrainBatch]:
        """Yields the validation data once, in order, with teacher outputs."""
        read = self._data.validation_batches(
            self._settings.training.images_per_step, jax.process_index(), jax.process_count()
        )
        return prefetch(self.validation(read), _prefetch_depth())

    def caches(self) -> list[CachedTeacher]:
        """Returns the target caches of training and validation; empty without a cache."""
        teachers = (self.train.teacher, self.validation.teacher)
        return [each for each in teachers if isinstance(each, CachedTeacher)]

    def cache_counts(self) -> dict[str, dict[str, int]]:
        """Returns under `cache` the entries read, computed and damaged, over all processes."""
        counts = [cache.counts for cache in self.caches()]
        if not counts:
            return {}
        own = [[sum(each[kind] for each in counts) for kind in counts[0]]]
        total = distributed.all_gather(own).sum(0).tolist()
        return {"cache": dict(zip(counts[0], total, strict=True))}


def wait_on_cpu(scalars: Mapping[str, Any]) -> None:
    """On a CPU the next batch is made in turn with the steps: waits, and keeps freed memory.

    Args:
      scalars: What a step returned.
    """
    if _prefetch_depth() == 0:
        jax.block_until_ready(scalars)
        memory.keep_freed()


def asks_for_logits(losses: Mapping[str, Loss]) -> bool:
    """Returns whether training needs the teacher's mask.

    Args:
      losses: The losses by name.
    """
    attentive = any(
        pair.attention in _NEEDS_LOGITS
        for loss in losses.values()
        for pair in getattr(loss, "pairs", ())
    )
    return attentive or any("teacher_logits" in loss.requires for loss in losses.values())


def _prefetch_depth() -> int:
    """Returns how many batches are made ahead.

    On a CPU there are none: teacher and step share its cores, and each would hold its memory while
    the other runs.
    """
    return 0 if jax.default_backend() == "cpu" else 2


def _trains_on_features(losses: Mapping[str, Loss]) -> bool:
    return any("features" in loss.requires for loss in losses.values())


def _check_cacheable(teacher: Teacher | None, data: Data | IterableData) -> None:
    """Refuses a teacher with a cache for images that are made anew in every epoch."""
    for key in ("copy_paste", "sizes"):
        if isinstance(teacher, CachedTeacher) and getattr(data.settings, key, None):
            raise ConfigError(
                f"the teacher's cache cannot hold outputs for images that {key} makes anew in "
                f"every epoch: leave out the cache, or {key}",
                code="cannot-cache",
            )


def _cached(
    teacher: Teacher | None,
    *,
    directory: Any,
    size: tuple[int, int],
    encoder: Encoder | None,
) -> Teacher | None:
    """Wraps a teacher in the target cache, if there is one."""
    if isinstance(teacher, CachedTeacher):
        return teacher.with_encoder(encoder, size)
    if directory is None or (teacher is None and encoder is None):
        return teacher
    return CachedTeacher(teacher, directory, image_size=size, encoder=encoder)


def _keys_of(dataset: Any) -> KeysOf:
    keys = getattr(dataset, "content_keys", None)
    return content_keys_by_pixels if keys is None else content_keys_by_id(dataset.ids, keys)


def _frozen_encoder(
    settings: config.Config, student: Student, partition: Partition, size: tuple[int, int]
) -> Encoder | None:
    """Describes the student's encoder for the cache, if nothing in it is trained."""
    trained = (*partition.params, *partition.batch_stats)
    if any(param_group(path) == "encoder" for path in trained):
        return None

    @jax.jit
    def encode(
        variables: Variables, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        return merge(partition.graphdef, variables).encode(images, train=False)

    variables = {**partition.params, **partition.batch_stats, **partition.frozen}
    blank = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    shapes = [features.shape[1:] for features in jax.eval_shape(encode, variables, blank)]
    own = {path: v for path, v in partition.frozen.items() if param_group(path) == "encoder"}
    provenance = {
        "encoder": settings.student.encoder,
        "normalization": student.normalization,
        "weights": fingerprint(own),
        "precision": settings.precision,
        "backend": jax.default_backend(),
        "products": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        "jax": jax.__version__,
    }
    return Encoder(provenance, shapes, partial(encode, variables))
