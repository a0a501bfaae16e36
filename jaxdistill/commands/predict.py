"""Finds people in pictures: `python -m jaxdistill.predict RUN_OR_ONNX PICTURES... --output FOLDER`.

Masks, overlays and cut-outs are PNG files of the pictures' own size, upright: turned as the EXIF
orientation says, and without it. So they lie exactly on what a viewer shows of the original. The
pictures' folders are mirrored in OUTPUT/masks, OUTPUT/overlays and OUTPUT/cutouts.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import grain
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track

from jaxdistill.config import Size
from jaxdistill.data import decode, image_ops
from jaxdistill.data.image_files import ImageFile, find_images
from jaxdistill.evaluation import predictor
from jaxdistill.evaluation.predictor import Segmenter
from jaxdistill.runtime.errors import UserError, command
from jaxdistill.runtime.prefetch import prefetch
from jaxdistill.runtime.text import printable

Photograph = UInt8[np.ndarray, "h w 3"]
Mask = UInt8[np.ndarray, "h w"]

THREADS = 2  # that decode, and as many that encode
_TINT, _OUTLINE = (0, 140, 255), (255, 255, 255)
_FASTEST = 1  # PNG's compression; the next level takes longer than the network


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 where a picture was skipped."""
    parser = argparse.ArgumentParser(prog="python -m jaxdistill.predict", description=__doc__)
    parser.add_argument("network", type=Path, metavar="RUN_OR_ONNX")
    parser.add_argument(
        "pictures", nargs="+", metavar="PICTURES", help="files, folders or globs such as 'a/*.jpg'"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--as",
        dest="kinds",
        nargs="+",
        choices=tuple(DRAWN),
        default=["masks"],
        help="masks: white is a person (the default); overlays: the picture with its people "
        "marked; cutouts: the people alone, the rest transparent",
    )
    edge = parser.add_mutually_exclusive_group()
    edge.add_argument(
        "--threshold", type=float, default=0.5, help="a person is where the probability is above"
    )
    edge.add_argument("--soft", action="store_true", help="the probabilities themselves, as greys")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N")
    predictor.add_options(parser)
    given = parser.parse_args(arguments)
    if not 0 < given.threshold < 1:
        raise UserError(f"--threshold {given.threshold}: expected a probability between 0 and 1")
    if given.batch_size < 1:
        raise UserError(f"--batch-size {given.batch_size}: expected at least 1")

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    kinds = list(dict.fromkeys(given.kinds))
    earlier = [given.output / kind for kind in DRAWN]
    found = find_images(given.pictures, [given.output / kind for kind in kinds], earlier)
    network = predictor.load(given.network, predictor.given(given))
    console.print(network.description)
    form = Form(kinds, None if given.soft else given.threshold)
    skipped = predict(network, found, given.output, form, given.batch_size, console)
    done = f"{len(found) - skipped} pictures: {', '.join(kinds)} in {given.output}"
    console.print(f"{done}; {skipped} skipped" if skipped else done)
    return 1 if skipped else 0


class Form(NamedTuple):
    """What is wanted of each picture."""

    kinds: Sequence[str]
    """Of `DRAWN`."""
    threshold: float | None
    """A person is where the probability is above; None keeps the probabilities."""


def predict(
    network: Segmenter,
    found: Sequence[ImageFile],
    output: Path,
    form: Form,
    batch_size: int,
    console: Console,
) -> int:
    """Writes what is wanted of every picture, names those that it skips, and counts them.

    The memory that it takes depends on the pictures' size and on `batch_size`, not on their number.

    Raises:
      UserError: a file cannot be written.
    """
    skipped = 0
    batch_size = min(batch_size, len(found))
    groups = prefetch(_segmented(network, found, form.threshold, batch_size), depth=1)
    steps = range(-(-len(found) // batch_size))
    quiet = not console.is_terminal
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in track(steps, "predicting", console=console, transient=True, disable=quiet):
            seen, unreadable = next(groups)
            for opened in unreadable:
                console.print(printable(f"skipped {opened.picture.source}: {opened.problem}"))
            skipped += len(unreadable)
            list(pool.map(partial(_write, output, form.kinds), seen))
    return skipped


class _Opened(NamedTuple):
    """A picture in memory, or why it is not."""

    picture: ImageFile
    photograph: Photograph
    resized: Photograph
    """As the network wants it."""
    problem: str
    """Empty where there is none."""


class _Seen(NamedTuple):
    picture: ImageFile
    photograph: Photograph
    mask: Mask


def _open(picture: ImageFile, size: Size) -> _Opened:
    nothing = np.zeros((0, 0, 3), np.uint8)
    try:
        photograph = decode.decode(picture.read(), upright=True)
    except OSError as error:
        return _Opened(picture, nothing, nothing, error.strerror or str(error))
    except decode.ImageError as error:
        return _Opened(picture, nothing, nothing, str(error))
    return _Opened(picture, photograph, image_ops.resize_image(photograph, size), "")


def _segmented(
    network: Segmenter, found: Sequence[ImageFile], threshold: float | None, batch_size: int
) -> Iterator[tuple[list[_Seen], list[_Opened]]]:
    """Batch by batch, in order: pictures with their masks, and those that cannot be opened."""
    opening = grain.MapDataset.source(found).map(partial(_open, size=network.size))
    options = grain.ReadOptions(THREADS, prefetch_buffer_size=batch_size)
    for batch in iter(opening.to_iter_dataset(options).batch(batch_size, batch_fn=list)):
        readable = [opened for opened in batch if not opened.problem]
        unreadable = [opened for opened in batch if opened.problem]
        # Filled up to the same size, so that a last batch is not compiled anew.
        fed = np.zeros((batch_size, *network.size, 3), np.uint8)
        for row, opened in zip(fed, readable, strict=False):
            row[:] = opened.resized
        logits = np.asarray(network.logits(fed))[..., 0]
        seen = [
            _Seen(o.picture, o.photograph, mask_of(values, o.photograph.shape[:2], threshold))
            for o, values in zip(readable, logits, strict=False)
        ]
        yield seen, unreadable


def mask_of(logits: Float[np.ndarray, "h w"], size: Size, threshold: float | None) -> Mask:
    """Logits as a mask of `size`: 0 and 255, or the probability in greys without a threshold.

    It is the logits that are resized: their zero is the outline, which stays smooth.
    """
    full = cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR)
    if threshold is None:
        return np.rint(255 * 0.5 * (1 + np.tanh(0.5 * full))).astype(np.uint8)
    return np.where(full > np.log(threshold / (1 - threshold)), 255, 0).astype(np.uint8)


def _write(output: Path, kinds: Sequence[str], seen: _Seen) -> None:
    for kind in kinds:
        path = output / kind / seen.picture.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            DRAWN[kind](seen.photograph, seen.mask).save(path, compress_level=_FASTEST)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _mask(_: Photograph, mask: Mask) -> Image.Image:
    return Image.fromarray(mask)


def _overlay(photograph: Photograph, mask: Mask) -> Image.Image:
    """People tinted, with an outline whose width suits the picture."""
    tint = np.full_like(photograph, _TINT)
    share = (mask.astype(np.float32) * (0.45 / 255))[..., None]
    shown = (photograph * (1 - share) + tint * share).astype(np.uint8)
    outlines, _ = cv2.findContours(
        (mask > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    width = max(1, round(max(mask.shape) / 400))
    cv2.drawContours(shown, outlines, -1, _OUTLINE, width, cv2.LINE_AA)
    return Image.fromarray(shown)


def _cutout(photograph: Photograph, mask: Mask) -> Image.Image:
    """What is transparent is black as well, lest it come back in a viewer that knows no alpha."""
    seen = np.where(mask[..., None] > 0, photograph, 0)
    return Image.fromarray(np.dstack([seen, mask]))


DRAWN = {"masks": _mask, "overlays": _overlay, "cutouts": _cutout}
"""What can be made of a picture and its mask."""


if __name__ == "__main__":
    sys.exit(command(main))
