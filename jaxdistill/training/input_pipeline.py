"""Batches as they are read, to batches with their targets: augmentation, frozen networks, store."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdistill import config
from jaxdistill.checkpoint.manager import fingerprint
from jaxdistill.data import augment, image_ops
from jaxdistill.data.dataset import Dataset
from jaxdistill.models.parameters import Partition, merge, param_group
from jaxdistill.models.student import EncoderFeatures
from jaxdistill.teachers.onnx_teacher import FrozenNetworks
from jaxdistill.teachers.target_cache import Encoder, StoredTargets
from jaxdistill.training.step import TrainBatch
from jaxdistill.types import Batch, TeacherOutputs, Variables


def source(
    settings: config.Config,
    networks: FrozenNetworks,
    split: Partition,
    dataset: Dataset,
    augmentation: augment.Augmentation,
) -> "Source":
    """The targets of a data set's pictures, from the store if there is to be one."""
    if settings.targets.cache is None:
        return Source(settings, augmentation, networks, None)
    encoder = None
    same_pixels = augmentation.kind in ("none", "flip") and augmentation.crop is None
    if same_pixels and settings.student.unfreeze is None:  # else they are new, or the encoder is
        encoder = _frozen_encoder(settings, split)
    size = settings.data.image_size
    stored = CachedTeacher(networks, settings.targets.cache, image_size=size, encoder=encoder)
    return Source(settings, augmentation, networks, stored)


class Source(NamedTuple):
    """Batches as they are read, to batches with their targets."""

    settings: config.Config
    augmentation: augment.Augmentation
    networks: Teacher | None
    stored: CachedTeacher | None

    def feed(self, read: Iterable[Batch], first_step: int = 0) -> Iterator[TrainBatch]:
        kind, smallest = self.augmentation
        for step, batch in enumerate(read, start=first_step):
            key = jax.random.fold_in(jax.random.key(self.settings.seed), step)
            rows = augment.Rows.of_process(len(batch.images))
            changed = _augmented(key, batch, kind, rows)
            seen = batch._replace(images=changed.images, masks=changed.masks)
            images = changed.clean if self.settings.targets.clean_images else changed.images
            if self.stored is None:
                targets = self.networks(images) if self.networks else TeacherOutputs(None)
            else:
                flips = np.asarray(changed.flipped)
                keys = [content_key(image) for image in batch.images]
                targets = self.stored(images, keys, flips, batch.weights)
            if smallest is not None:
                seen, targets = _cropped(key, seen, targets, smallest, rows)
            yield seen._replace(ids=batch.ids), targets  # an int64 is none after jit


@partial(jax.jit, static_argnames=("kind", "rows"))
def _augmented(
    key: Key[Array, ""], batch: Batch, kind: augment.Kind, rows: augment.Rows
) -> augment.Augmented:
    """As `augment`; bytes become [0, 1]."""
    images, masks = image_ops.to_float(batch.images), batch.masks.astype(jnp.float32)
    return augment.augment(key, images, masks, kind, rows)


@partial(jax.jit, static_argnames=("smallest", "rows"))
def _cropped(
    key: Key[Array, ""], batch: Batch, targets: TeacherOutputs, smallest: float, rows: augment.Rows
) -> TrainBatch:
    """A part of each picture, of its mask and of its targets."""
    crop = partial(augment.crop, rows.of(augment.crop_boxes(key, rows.whole, smallest)))
    masks = (crop(batch.masks) >= 0.5).astype(jnp.float32)
    return batch._replace(images=crop(batch.images), masks=masks), jax.tree.map(crop, targets)


def _frozen_encoder(settings: config.Config, split: Partition) -> Encoder | None:
    """The student's encoder, if nothing in it is trained."""
    if any(param_group(name) == "encoder" for name in (*split.params, *split.batch_stats)):
        return None

    @jax.jit
    def encode(variables: Variables, images: Float[Array, "b h w 3"]) -> EncoderFeatures:
        return merge(split.graphdef, variables).encode(images, train=False)

    variables = {**split.params, **split.batch_stats, **split.frozen}
    height, width = settings.data.image_size
    blank = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    shapes = [tap.shape[1:] for tap in jax.eval_shape(encode, variables, blank)]
    own = {name: v for name, v in split.frozen.items() if param_group(name) == "encoder"}
    identity = {
        "encoder": settings.student.encoder,
        "normalization": split.merge().normalization,
        "weights": fingerprint(own),
        "precision": settings.precision,
    }
    return Encoder(identity, shapes, partial(encode, variables))
