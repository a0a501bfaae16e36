"""Fills the target cache before training: `jaxdistill cache-targets`."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from jaxdistill.data import augment, image_ops, loader
from jaxdistill.data.dataset import Dataset
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import CacheError, ConfigError
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.training.input_pipeline import InputPipeline
from jaxdistill.types import Batch

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


def precompute(trainer: "Trainer") -> None:
    """Computes every teacher output that a run of these settings will read.

    Entries that are present stay, so it goes on where it was stopped. With several processes each
    computes its rows of every batch.

    Args:
      trainer: A trainer whose settings name a cache directory.

    Raises:
      ConfigError: No cache directory is set (`cache-missing`).
      CacheError: There is nothing to cache (`nothing-to-cache`), or the disk is too small
        (`disk-full`).
    """
    directory = trainer.settings.targets.cache
    if directory is None:
        raise ConfigError(
            "targets.cache is not set: name the folder to fill, targets.cache=PATH",
            code="cache-missing",
        )
    trainer.setup()
    inputs, data = trainer.inputs, trainer.data
    splits = [
        _Split(title, trainer, dataset, pipeline)
        for title, dataset, pipeline in (
            ("train", data.train, inputs.train),
            ("validation", data.validation, inputs.validation),
        )
        if isinstance(pipeline.teacher, CachedTeacher) and isinstance(dataset, Dataset)
    ]
    if not splits:
        raise CacheError(
            "there is nothing to cache: no teacher, no features, no frozen encoder",
            code="nothing-to-cache",
        )
    _check_room(trainer, directory, splits)
    distributed.barrier("counted")
    for split in splits:
        split.compute_missing()
    distributed.barrier("filled")
    computed = sum(split.missing for split in splits)
    trainer.console.print(f"{directory}: {computed} computed, and nothing is missing now")


class _Split:
    """What one split of the data needs of the cache."""

    def __init__(
        self, title: str, trainer: "Trainer", dataset: Dataset, pipeline: InputPipeline
    ) -> None:
        assert isinstance(pipeline.teacher, CachedTeacher)
        assert pipeline.keys_of is not None
        self.title, self._trainer, self._dataset = title, trainer, dataset
        self.cache, self._keys_of = pipeline.teacher, pipeline.keys_of
        self._divided = pipeline.divided
        self._flips = (False,) if pipeline.augmentation.kind == "none" else (False, True)
        self.wanted = len(dataset) * len(self._flips)
        self.missing = sum(
            not self.cache.contains(key, flipped)
            for key in dataset.content_keys
            for flipped in self._flips
        )

    @property
    def missing_bytes(self) -> int:
        """Size on disk of what is missing."""
        return self.missing * self.cache.entry_bytes

    def compute_missing(self) -> None:
        """Computes what is missing."""
        settings, console = self._trainer.settings, self._trainer.console
        size = settings.training.images_per_step
        batches = loader.validation_batches(
            self._dataset,
            settings.data,
            size,
            jax.process_index(),
            jax.process_count(),
        )
        for batch in track(
            batches,
            f"{self.title}: {self.missing} of {self.wanted} to compute",
            total=-(-len(self._dataset) // size),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            for flipped in self._flips:
                self._compute_batch(batch, flipped)

    def _compute_batch(self, batch: Batch, flipped: bool) -> None:
        keys = self._keys_of(batch)
        missing = [not self.cache.contains(key, flipped) for key in keys]
        weights = batch.weights * np.asarray(missing)
        if weights.any():
            flips = np.full(len(weights), flipped)
            images = augment.flip(jnp.asarray(flips), image_ops.to_float(batch.images))
            self.cache(self._divided(images), keys, flips, weights)


def _check_room(trainer: "Trainer", directory: Path, splits: Sequence[_Split]) -> None:
    needed, free = sum(s.missing_bytes for s in splits), shutil.disk_usage(directory).free
    for split in splits:
        trainer.console.print(
            f"{split.title}: {split.wanted} images, counting flipped ones; {split.missing} to "
            f"compute, {split.missing_bytes / 1e9:.2f} GB"
        )
    if needed > free:
        raise CacheError(
            f"{directory}: {needed / 1e9:.1f} GB are needed, but the disk has {free / 1e9:.1f} GB; "
            f"make room, or choose another folder as targets.cache",
            code="disk-full",
        )
    trainer.console.print(
        f"{directory}: {needed / 1e9:.2f} GB to write, the disk has {free / 1e9:.1f} GB"
    )
