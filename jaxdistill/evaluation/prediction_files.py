"""Prediction of many image files: masks, overlays and cutouts are written as PNG files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np

from jaxdistill.config import Size
from jaxdistill.data import decode, image_ops
from jaxdistill.data.image_files import ImageFile
from jaxdistill.data.image_ops import RgbImage
from jaxdistill.evaluation.foreground import drawings
from jaxdistill.evaluation.masks import Drawing, GreyMask, grey_mask
from jaxdistill.evaluation.own_files import PNG_NOTE, check_replaceable
from jaxdistill.evaluation.predictor import Predictor, to_mask
from jaxdistill.runtime.errors import OutputError
from jaxdistill.runtime.prefetch import prefetch

THREADS = 2  # that decode, and as many that encode
_PNG_LEVEL = 1  # the fastest compression; the next level takes longer than the model


class Skipped(NamedTuple):
    """An image file that cannot be read."""

    source: Path
    reason: str


def predict_files(
    predictor: Predictor,
    images: Sequence[ImageFile],
    output: Path,
    *,
    kinds: Sequence[str] = ("masks",),
    threshold: float | None = 0.5,
    refine: str | None = None,
    foreground: bool = False,
    batch_size: int = 4,
    progress: Callable[[int, list[Skipped]], object] = lambda count, skipped: None,
) -> int:
    """Predicts image files, and writes a PNG file of each kind for each of them.

    Images are turned as their EXIF orientation says. The memory that is needed depends on the size
    of the images and on `batch_size`, not on the number of images.

    Args:
      predictor: The model.
      images: The image files.
      output: The folder of the results: `output/KIND/NAME`.
      kinds: See `masks.drawings`.
      threshold: A person is where the probability is above it; None draws the probabilities.
      refine: A name in `refinement.REFINEMENTS`; None interpolates the logits.
      foreground: See `foreground.drawings`.
      batch_size: Number of images that the model processes at a time.
      progress: Called after each batch with the number of its images and those that were skipped.

    Returns:
      The number of images that were skipped because they cannot be read.

    Raises:
      ConfigError: A kind or refinement is unknown (`unknown-drawing`, `unknown-refinement`),
        or a package is not installed (`extra-missing`).
      DataError: The image of a background cannot be read (`background-unreadable`), or a file is
        there that `predict` did not write (`image-overwritten`).
      OutputError: A file cannot be written (`prediction-not-written`).
    """
    draw = drawings(kinds, foreground)
    for image in images:
        for name in draw:
            check_replaceable(output / name / image.name)
    batch_size = min(batch_size, len(images))
    to_grey = partial(_grey_mask, threshold=threshold, refine=refine)
    batches = prefetch(_predicted(predictor, images, to_grey, batch_size), depth=1)
    count = 0
    with closing(batches), ThreadPoolExecutor(THREADS) as pool:
        for predicted, skipped in batches:
            list(pool.map(partial(_write, output, draw), predicted))
            progress(len(predicted) + len(skipped), skipped)
            count += len(skipped)
    return count


class Opened(NamedTuple):
    """A decoded image file."""

    file: ImageFile
    image: RgbImage
    """Turned as its EXIF orientation says."""
    resized: RgbImage
    """At the size of the model."""
    problem: str
    """Why the file cannot be read; empty otherwise."""


def open_images(images: Sequence[ImageFile], size: Size, batch_size: int) -> Iterator[list[Opened]]:
    """Yields image files in batches, in order, decoded by threads a few images ahead.

    Args:
      images: The image files.
      size: Height and width of the model's input.
      batch_size: Number of images in a batch; the last one may have fewer.
    """
    opening = grain.MapDataset.source(images).map(partial(_open, size=size))
    options = grain.ReadOptions(THREADS, prefetch_buffer_size=max(THREADS, batch_size))
    yield from opening.to_iter_dataset(options).batch(batch_size, batch_fn=list)


class _Predicted(NamedTuple):
    file: ImageFile
    image: RgbImage
    mask: GreyMask


def _open(file: ImageFile, size: Size) -> Opened:
    nothing = np.zeros((0, 0, 3), np.uint8)
    try:
        image = decode.decode(file.read(), upright=True)
    except OSError as error:
        return Opened(file, nothing, nothing, error.strerror or str(error))
    except decode.ImageError as error:
        return Opened(file, nothing, nothing, str(error))
    return Opened(file, image, image_ops.resize_image(image, size), "")


def _grey_mask(
    logits: np.ndarray, image: RgbImage, threshold: float | None, refine: str | None
) -> GreyMask:
    return grey_mask(to_mask(logits, image, threshold, refine))


def _predicted(
    predictor: Predictor,
    images: Sequence[ImageFile],
    to_grey: Callable[[np.ndarray, RgbImage], GreyMask],
    batch_size: int,
) -> Iterator[tuple[list[_Predicted], list[Skipped]]]:
    """Yields batches in order: images with their masks, and files that cannot be read."""
    for batch in open_images(images, predictor.size, batch_size):
        readable = [opened for opened in batch if not opened.problem]
        logits = predictor.padded_logits([opened.resized for opened in readable], batch_size)
        predicted = [
            _Predicted(o.file, o.image, to_grey(values, o.image))
            for o, values in zip(readable, logits, strict=True)
        ]
        yield predicted, [Skipped(o.file.source, o.problem) for o in batch if o.problem]


def _write(output: Path, draw: Mapping[str, Drawing], predicted: _Predicted) -> None:
    for name, function in draw.items():
        path = output / name / predicted.file.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn = function(predicted.image, predicted.mask)
            drawn.save(path, compress_level=_PNG_LEVEL, pnginfo=PNG_NOTE)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot write the file: {error.strerror or error}",
                code="prediction-not-written",
            ) from None
