"""Measurement at the images' own size, where `predict` puts its masks."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from jaxdistill.data import image_ops
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.loader import decoding_threads
from jaxdistill.data.splits import Data
from jaxdistill.evaluation.predictor import Predictor, to_mask
from jaxdistill.teachers.base import Teacher
from jaxdistill.types import Batch

Masks = Bool[np.ndarray, "1 h w 1"]
Score = Callable[[dict[str, Masks], Masks], Any]
"""Takes the predictions of `network` and `teacher`, and the true mask; returns their metrics."""


def measured(
    predictor: Predictor,
    teacher: Teacher | None,
    data: Data,
    dataset: Dataset,
    *,
    score: Score,
    refine: str | None,
    batch_size: int,
) -> Iterator[tuple[Batch, dict[str, Any], Any]]:
    """Yields batches with logits, both at the size of the model, and metrics at the images' own.

    The network predicts as in `predict`. The teacher sees images of `data.image_size`, and its
    logits are interpolated.

    Args:
      predictor: The model.
      teacher: Computes the logits to agree with.
      data: Its settings.
      dataset: The split that is measured.
      score: Measures the predictions for one image.
      refine: See `to_mask`; for the network alone.
      batch_size: Number of images that the model processes at a time.
    """
    import grain

    size = predictor.size
    examples = grain.MapDataset.range(len(dataset)).map(partial(_opened, dataset, data, size))
    threads = decoding_threads(data.settings.workers)
    options = grain.ReadOptions(threads, max(threads, batch_size))
    for opened in iter(examples.to_iter_dataset(options).batch(batch_size, batch_fn=list)):
        logits = {"network": predictor.padded_logits([one.small for one in opened], batch_size)}
        if teacher:
            images = image_ops.to_float(np.stack([one.for_teacher for one in opened]))
            logits["teacher"] = np.asarray(teacher(images).logits)[..., 0]
        scores = [
            score(_predictions(logits, index, one.image, refine), _truth(one))
            for index, one in enumerate(opened)
        ]
        values = jax.tree.map(lambda *parts: np.concatenate(parts), *scores)
        shown = {
            role: np.asarray(image_ops.resize(jnp.asarray(found)[..., None], size))
            for role, found in logits.items()
        }
        yield _batch(opened), shown, values


class _Opened(NamedTuple):
    id: int
    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"] | None
    small: UInt8[np.ndarray, "h w 3"]
    """At the size of the model."""
    small_mask: UInt8[np.ndarray, "h w"]
    for_teacher: UInt8[np.ndarray, "h w 3"]


def _opened(dataset: Dataset, data: Data, size: tuple[int, int], index: int) -> _Opened:
    image, mask = dataset[index]
    return _Opened(
        int(dataset.ids[index]),
        image,
        mask,
        image_ops.resize_image(image, size),
        np.zeros(size, np.uint8) if mask is None else image_ops.resize_mask(mask, size),
        image_ops.resize_image(image, data.settings.image_size),
    )


def _predictions(
    logits: dict[str, np.ndarray], index: int, image: np.ndarray, refine: str | None
) -> dict[str, Masks]:
    ways = {"network": refine, "teacher": None}
    return {
        role: to_mask(found[index], image, 0.5, ways[role])[None, ..., None]
        for role, found in logits.items()
    }


def _truth(opened: _Opened) -> Masks:
    mask = np.zeros(opened.image.shape[:2], np.uint8) if opened.mask is None else opened.mask
    return (mask > 127)[None, ..., None]


def _batch(opened: list[_Opened]) -> Batch:
    labelled = np.array([one.mask is not None for one in opened], np.float32)
    return Batch(
        np.stack([one.small for one in opened]),
        np.stack([one.small_mask for one in opened])[..., None],
        np.ones_like(labelled),
        labelled,
        np.array([one.id for one in opened]),
    )
