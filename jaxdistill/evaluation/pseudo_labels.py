"""Pseudo-labels: masks that networks predict, kept where the networks agree."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdistill.config import Size
from jaxdistill.data.image_files import ImageFile
from jaxdistill.evaluation.masks import binary_mask, draw_mask, grey_mask
from jaxdistill.evaluation.own_files import PNG_NOTE, check_replaceable
from jaxdistill.evaluation.prediction_files import THREADS, Opened, open_images
from jaxdistill.metrics.segmentation import iou
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import ConfigError, unwritable
from jaxdistill.teachers.base import Teacher, provenance_of, set_batch_size
from jaxdistill.teachers.ensemble import Ensemble

MASKS, REPORT, ABOUT = "masks", "agreement.csv", "about.json"
"""What the folder of the results holds."""
USED, DISAGREED, NOBODY = "used", "the networks disagree", "nobody was found"
"""What the report says of an image; anything else is why it could not be read."""
_COLUMNS = ("image", "agreement", "verdict")


class Verdict(NamedTuple):
    """What was found out about an image."""

    image: str
    """Path of its mask below the folder of the masks, whether or not one was written."""
    agreement: float | None
    """See `agreements`; None where the image could not be read."""
    verdict: str
    """`USED`, `DISAGREED`, `NOBODY`, or why the image could not be read."""


def agreements(
    members: Sequence[Bool[np.ndarray, "b h w 1"]], mean: Bool[np.ndarray, "b h w 1"]
) -> Float[np.ndarray, " b"]:
    """Returns the lowest IoU of any network's mask with the mask of their mean, for each image.

    Args:
      members: The masks of each network.
      mean: The masks of the mean of their probabilities. Two empty masks have an IoU of 1.
    """
    each = [np.asarray(iou(jnp.asarray(one), jnp.asarray(mean))) for one in members]
    return np.min(each, axis=0)


def pseudo_label(
    teacher: Teacher,
    images: Sequence[ImageFile],
    output: Path,
    *,
    size: Size,
    agreement: float,
    batch_size: int = 4,
    progress: Callable[[Sequence[Verdict]], object] = lambda verdicts: None,
) -> list[Verdict]:
    """Writes the masks of those images on which networks agree.

    A mask is that of the mean of the networks' probabilities, at the size of its image. Of a single
    network, the masks of the image and of its mirror image are compared. Images that an interrupted
    call has reported already are not computed again.

    Args:
      teacher: The network, or several ones as an `Ensemble`.
      images: The image files.
      output: The folder of the results.
      size: Height and width at which the networks' masks are compared.
      agreement: The lowest IoU at which a mask is written; see `agreements`.
      batch_size: Number of images that the networks process at a time.
      progress: Called with the verdicts of each batch, and first with those of an earlier call.

    Returns:
      The verdict on each image, in their order.

    Raises:
      ConfigError: The agreement is not in [0, 1] (`agreement`), or the folder holds masks of other
        networks (`other-pseudo-labels`).
      DataError: A mask would replace a file that is not ours (`image-overwritten`).
      OutputError: A file cannot be written (`prediction-not-written`).
    """
    if not 0 <= agreement <= 1:
        raise ConfigError(f"agreement {agreement}: expected an IoU from 0 to 1", code="agreement")
    for image in images:
        check_replaceable(output / MASKS / image.name)
    about = {"teacher": provenance_of(teacher), "size": list(size), "agreement": agreement}
    with _writing(output):
        verdicts = {each.image: each for each in _continued(output, about)}
    progress(list(verdicts.values()))
    left = [image for image in images if str(image.name) not in verdicts]
    batch_size = min(batch_size, max(1, len(left)))
    set_batch_size(teacher, batch_size)
    with ThreadPoolExecutor(THREADS) as pool, _writing(output):
        for batch in open_images(left, size, batch_size):
            found = list(_judged(teacher, batch, size, agreement, batch_size))
            masks = [(one.file.name, mask) for one, mask, _ in found if mask is not None]
            list(pool.map(lambda each: _write_mask(output / MASKS / each[0], each[1]), masks))
            added = [verdict for _, _, verdict in found]
            _append(output / REPORT, added)
            verdicts |= {each.image: each for each in added}
            progress(added)
    return [verdicts[str(image.name)] for image in images]


def _judged(
    teacher: Teacher, batch: Sequence[Opened], size: Size, agreement: float, batch_size: int
) -> Iterator[tuple[Opened, Bool[np.ndarray, "h w"] | None, Verdict]]:
    """Yields each image with its mask, if that is to be written, and with the verdict on it."""
    pixels = np.zeros((batch_size, *size, 3), np.float32)
    for row, opened in zip(pixels, batch, strict=False):
        if not opened.problem:
            row[:] = opened.resized / 255
    logits, members = _masks(teacher, jnp.asarray(pixels))
    agreed = agreements(members, logits > 0)
    for place, opened in enumerate(batch):
        name = str(opened.file.name)
        if opened.problem:
            yield opened, None, Verdict(name, None, opened.problem)
            continue
        mask = binary_mask(logits[place, ..., 0], opened.image.shape[:2], 0.5)
        iou_of_networks = round(float(agreed[place]), 4)
        used = mask.any() and iou_of_networks >= agreement
        why = USED if used else DISAGREED if iou_of_networks < agreement else NOBODY
        yield opened, mask if used else None, Verdict(name, iou_of_networks, why)


def _masks(
    teacher: Teacher, images: Float[Array, "b h w 3"]
) -> tuple[Float[np.ndarray, "b h w 1"], list[Bool[np.ndarray, "b h w 1"]]]:
    """Returns the mean's logits, and the masks that are compared with them."""
    if isinstance(teacher, Ensemble):
        each = [member(images).logits for member in teacher.members]
        mean = np.asarray(teacher.merge(each))
    else:
        mirrored = teacher(images[:, :, ::-1]).logits
        assert mirrored is not None
        mean = np.asarray(teacher(images).logits)
        each = [mirrored[:, :, ::-1]]
    return mean, [np.asarray(one) > 0 for one in each]


def _continued(output: Path, about: dict[str, object]) -> list[Verdict]:
    """Makes the folder, or checks that it was made with the same networks; see `pseudo_label`."""
    file = output / ABOUT
    if not file.exists():
        output.mkdir(parents=True, exist_ok=True)
        files.write_atomic(file, json.dumps(about, indent=1) + "\n")
        return []
    if json.loads(file.read_text()) != json.loads(json.dumps(about)):
        raise ConfigError(
            f"{output} holds masks of other networks, or of another size or agreement (see "
            f"{file.name}); choose another folder as --output, or delete this one",
            code="other-pseudo-labels",
        )
    report = output / REPORT
    rows = list(csv.reader(io.StringIO(report.read_text()))) if report.exists() else []
    whole = [row for row in rows[1:] if len(row) == len(_COLUMNS)]
    return [Verdict(name, float(iou) if iou else None, why) for name, iou, why in whole]


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(output, error) from None


def _append(report: Path, verdicts: Sequence[Verdict]) -> None:
    lines = io.StringIO()
    writer = csv.writer(lines)
    if not report.exists():
        writer.writerow(_COLUMNS)
    writer.writerows([each.image, each.agreement, each.verdict] for each in verdicts)
    with report.open("a") as file:
        file.write(lines.getvalue())


def _write_mask(path: Path, mask: Bool[np.ndarray, "h w"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = grey_mask(mask)
    # Hard masks are compressed well and fast at the default level.
    draw_mask(np.zeros((*grey.shape, 3), np.uint8), grey).save(path, pnginfo=PNG_NOTE)
