"""Conversion of a user's batches: dictionaries and tuples of arrays become `Batch`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdistill.runtime.errors import DataError
from jaxdistill.types import Batch

_KEYS = {"images": ("images", "image"), "masks": ("masks", "mask")}


def to_batch(raw: Any, first_id: int = 1, where: str = "batches") -> Batch:
    """Converts a user's batch.

    Args:
      raw: A `Batch`, a dictionary, or a tuple; see `IterableData`.
      first_id: Id of the first example; the others count on from it.
      where: The origin of the batch, for messages.

    Raises:
      DataError: The batch has another form (`unknown-batch`), or images (`bad-images`) or masks
        (`bad-masks`) that are not as expected.
    """
    if isinstance(raw, Batch):
        return raw
    images, masks = _images_and_masks(raw, where)
    images = _images(images, where)
    count, height, width, _ = images.shape
    labelled = masks is not None
    shape = (count, height, width, 1)
    return Batch(
        images,
        _masks(masks, shape, where) if labelled else np.zeros(shape, np.uint8),
        np.ones(count, np.float32),
        np.full(count, labelled, np.float32),
        np.arange(first_id, first_id + count, dtype=np.int64),
    )


def _images_and_masks(raw: Any, where: str) -> tuple[Any, Any]:
    if isinstance(raw, Mapping):
        images, masks = (
            next((raw[key] for key in keys if key in raw), None) for keys in _KEYS.values()
        )
        if images is not None:
            return images, masks
        got = f"a dictionary with the keys {', '.join(map(str, raw)) or '-'}"
    elif isinstance(raw, tuple | list):
        if len(raw) == 2:
            return raw[0], raw[1]
        got = f"{type(raw).__name__} of length {len(raw)}"
    else:
        got = type(raw).__name__
    raise DataError(
        f"{where}: expected a Batch, a dictionary with 'images' and 'masks', or a tuple "
        f"(images, masks); got {got}",
        code="unknown-batch",
    )


def _images(images: Any, where: str) -> np.ndarray:
    array = np.asarray(images)
    problem = ""
    if array.ndim != 4 or array.shape[-1] != 3:
        problem = f"of shape {array.shape}"
    elif not array.size:
        problem = "of size 0"
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # not a number is neither
            problem = f"with values in [{array.min():.4g}, {array.max():.4g}]"
    elif array.dtype != np.uint8:
        problem = f"of type {array.dtype}"
    if problem:
        raise DataError(
            f"{where}: images: expected RGB of shape (B, height, width, 3), uint8 or floats in "
            f"[0, 1]; got an array {problem}",
            code="bad-images",
        )
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def _masks(masks: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    array = np.asarray(masks)
    if array.shape == shape[:3]:
        array = array[..., None]
    problem = ""
    if array.shape != shape:
        problem = f"of shape {array.shape}"
    elif not np.isin(array, (0, 1)).all():
        problem = f"with values in [{array.min():.4g}, {array.max():.4g}]"
    if problem:
        raise DataError(
            f"{where}: masks: expected 0 and 1 (a person) of shape {shape}; got an array {problem}",
            code="bad-masks",
        )
    return array.astype(np.uint8)
