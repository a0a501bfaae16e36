"""The target cache in the input pipelines: what is cached, and by which keys."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdistill import config
from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.data import Data, IterableData
from jaxdistill.models import Student
from jaxdistill.models.parameters import Partition, merge, param_group
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.teachers.base import Teacher
from jaxdistill.teachers.target_cache import CachedEncoder, CachedTeacher, content_key
from jaxdistill.types import Batch, Variables

KeysOf = Callable[[Batch], Sequence[str]]
"""Returns the content key of each image of a batch as it is read; padding has any key."""


def check_cacheable(teacher: Teacher | None, data: Data | IterableData, clean_images: bool) -> None:
    """Checks that a teacher with a cache sees the same images in every epoch.

    Args:
      teacher: The teacher, cached or not.
      data: The data.
      clean_images: Whether the teacher sees images before photometric augmentation.

    Raises:
      ConfigError: The data makes images anew in every epoch (`cannot-cache`).
    """
    if not isinstance(teacher, CachedTeacher):
        return
    for key in ("copy_paste", "sizes"):
        if getattr(data.settings, key, None):
            raise ConfigError(
                f"the teacher's cache cannot hold outputs for images that {key} makes anew in "
                f"every epoch: leave out the cache, or {key}",
                code="cannot-cache",
            )
    if data.augmentation.is_photometric and not clean_images:
        raise ConfigError(
            f"the teacher's cache cannot hold outputs for images that the augmentation "
            f"{data.augmentation.kind} changes in every epoch: set targets.clean_images to true, "
            f"or the augmentation to none or flip",
            code="cannot-cache",
        )


def cached(
    teacher: Teacher | None,
    *,
    directory: Path | None,
    size: tuple[int, int],
    encoder: CachedEncoder | None,
) -> Teacher | None:
    """Wraps a teacher in the target cache, if there is one.

    Args:
      teacher: The teacher, which may have a cache of its own.
      directory: The cache directory; None caches nothing.
      size: Height and width of the images.
      encoder: The student's frozen encoder, whose feature maps are cached, too.
    """
    if isinstance(teacher, CachedTeacher):
        return teacher.with_encoder(encoder, size)
    if directory is None or (teacher is None and encoder is None):
        return teacher
    return CachedTeacher(teacher, directory, image_size=size, encoder=encoder)


def keys_of(dataset: Any) -> KeysOf:
    """Returns what gives the content keys of a data set's batches.

    Args:
      dataset: A split of the data; without keys of its own, pixels are hashed.
    """
    keys = getattr(dataset, "content_keys", None)
    return content_keys_by_pixels if keys is None else content_keys_by_id(dataset.ids, keys)


def frozen_encoder(
    settings: config.Config, student: Student, partition: Partition, size: tuple[int, int]
) -> CachedEncoder | None:
    """Describes the student's encoder for the cache, if nothing in it is trained.

    Args:
      settings: The encoder's name and the precision.
      student: The student.
      partition: Its variables.
      size: Height and width of the images.
    """
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
    return CachedEncoder(provenance, shapes, partial(encode, variables))


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
