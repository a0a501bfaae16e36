"""Fills the target store beforehand: `python -m jaxdistill.targets --config configs/my.yaml`."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxdistill import config
from jaxdistill.data import augment, image_ops, loader
from jaxdistill.data.dataset import Dataset
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers.target_cache import CachedTeacher, content_key
from jaxdistill.training.input_pipeline import Source
from jaxdistill.training.setup import prepare
from jaxdistill.types import Batch


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m jaxdistill.targets", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the run's YAML file")
    distributed.add_options(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any key, such as targets.cache=PATH"
    )
    given = parser.parse_intermixed_args(arguments)
    settings = config.load(given.config, given.overrides)
    with distributed.joined(given):
        fill(settings)


def fill(settings: config.Config) -> None:
    """Computes and keeps every target that a run with these settings will ask for.

    What is there already stays, so it goes on where it was stopped. Of several processes, each
    takes its rows of every batch.

    Raises:
      UserError: no store is configured, or the disk has not enough room.
    """
    if settings.targets.cache is None:
        raise UserError("targets.cache is not set: give the folder to fill, targets.cache=PATH")
    console = Console(soft_wrap=True, highlight=False, quiet=not distributed.is_main_process())
    job = prepare(settings, console)
    shares = [
        _Share("train", job.dataset, job.training_source),
        _Share("validation", job.validation_dataset, job.validation_source),
    ]
    _check_room(settings.targets.cache, shares, console)
    distributed.barrier("counted")
    for share in shares:
        share.fill(console)
    distributed.barrier("filled")
    made = sum(share.missing for share in shares)
    console.print(f"{settings.targets.cache}: {made} computed, and nothing is missing now")


class _Share:
    """What one split needs of the store."""

    def __init__(self, title: str, dataset: Dataset, source: Source) -> None:
        assert source.stored is not None
        self.title, self._examples, self._source = title, dataset, source
        self._stored: CachedTeacher = source.stored
        self._flips = (False,) if source.augmentation.kind == "none" else (False, True)
        self.wanted = len(dataset) * len(self._flips)
        size = source.settings.data.image_size
        pixels = (image_ops.resize_image(dataset[i].image, size) for i in range(len(dataset)))
        keys = [content_key(image) for image in pixels]
        self.missing = sum(not self._stored.contains(key, f) for key in keys for f in self._flips)
        self.bytes_each = self._stored.entry_bytes
        self.bytes_missing = self.missing * self.bytes_each

    def fill(self, console: Console) -> None:
        settings = self._source.settings
        size = settings.training.batch_size
        for batch in track(
            loader.validation_batches(
                self._examples, settings.data, size, jax.process_index(), jax.process_count()
            ),
            f"{self.title}: {self.missing} of {self.wanted} to compute",
            total=-(-len(self._examples) // size),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            for flipped in self._flips:
                self._fill(batch, flipped)

    def _fill(self, batch: Batch, flipped: bool) -> None:
        keys = [content_key(image) for image in batch.images]
        lacking = [not self._stored.contains(key, flipped) for key in keys]
        wanted = batch.weights * np.asarray(lacking)
        if wanted.any():
            flips = np.full(len(wanted), flipped)
            images = augment.flip(jnp.asarray(flips), image_ops.to_float(batch.images))
            self._stored(images, keys, flips, wanted)


def _check_room(store: Path, shares: Sequence[_Share], console: Console) -> None:
    needed = sum(share.bytes_missing for share in shares)
    if not any(share.bytes_each for share in shares):
        raise UserError("there is nothing to keep: no teacher, no features, no frozen encoder")
    free = shutil.disk_usage(store).free
    for share in shares:
        console.print(
            f"{share.title}: {share.wanted} pictures, counting flipped ones; "
            f"{share.missing} to compute, {share.bytes_missing / 1e9:.2f} GB"
        )
    if needed > free:
        raise UserError(
            f"{store}: {needed / 1e9:.1f} GB are needed, but the disk has {free / 1e9:.1f} GB; "
            f"make room, or choose another folder as targets.cache"
        )
    console.print(f"{store}: {needed / 1e9:.2f} GB to write, the disk has {free / 1e9:.1f} GB")
