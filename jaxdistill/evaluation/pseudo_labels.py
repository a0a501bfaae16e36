"""Pseudo-labels: masks that networks predict, kept where the networks agree."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from PIL import Image

from jaxdistill.config import Size
from jaxdistill.data.image_files import ImageFile
from jaxdistill.evaluation.masks import binary_mask, grey_mask
from jaxdistill.evaluation.prediction_files import THREADS, Opened, open_images
from jaxdistill.metrics.segmentation import iou
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import ConfigError, unwritable
from jaxdistill.teachers.base import Teacher, provenance_of, set_batch_size
from jaxdistill.teachers.ensemble import Ensemble

MASKS, REPORT, ABOUT = "masks", "agreement.csv", "about.json"
"""What the folder of the results holds."""
ASIDE = "masks_below_agreement"
"""Where masks go that an earlier call wrote, at a lower agreement than the present one."""
USED, DISAGREED, NOBODY = "used", "the networks disagree", "nobody was found"
"""What the report says of an image; anything else is why it could not be read."""
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files may be any bytes


class Verdict(NamedTuple):
    """What was found out about an image."""

    mask: str
    """Path of its mask below the folder of the masks, whether or not one was written: that of the
    image, with `.png` appended."""
    file: str
    """Size and modification time of the image file, by which a changed image is recognised."""
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
    network, the masks of the image and of its mirror image are compared. Images that an earlier
    call has labelled in this folder are computed again only where it could not read them, or where
    a lower `agreement` now asks for their mask; a higher one moves masks to `ASIDE`.

    Args:
      teacher: The network, or several ones as an `Ensemble`.
      images: The image files.
      output: The folder of the results: `MASKS/NAME`, `REPORT` and `ABOUT`.
      size: Height and width at which the networks' masks are compared.
      agreement: The lowest IoU at which a mask is written; see `agreements`.
      batch_size: Number of images that the networks process at a time.
      progress: Called with the verdicts of each batch, and first with those of an earlier call.

    Returns:
      The verdict on each image, in their order.

    Raises:
      ConfigError: The agreement is not in [0, 1] (`agreement`), the batch size is not positive
        (`batch-size`), or the folder holds other masks (`other-pseudo-labels`).
      OutputError: A file cannot be written (`output-unwritable`).
    """
    if not 0 <= agreement <= 1:
        raise ConfigError(f"agreement {agreement}: expected an IoU from 0 to 1", code="agreement")
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: expected at least 1", code="batch-size")
    root = images[0].source.parents[len(images[0].name.parents) - 1]
    about = {
        "images": os.fsencode(root).decode(errors="backslashreplace"),
        "teacher": provenance_of(teacher),
        "size": list(size),
    }
    with _writing(output):
        report, verdicts = _continued(output, about, images, agreement)
        _write_report(output / REPORT, report.values())
    progress(list(verdicts.values()))
    left = [image for image in images if _mask_name(image) not in verdicts]
    batch_size = min(batch_size, max(1, len(left)))
    set_batch_size(teacher, batch_size)
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in open_images(left, size, batch_size):
            judged = list(_judged(teacher, batch, size, agreement, batch_size))
            found = [verdict for _, verdict in judged]
            with _writing(output):
                list(pool.map(lambda each: _write_mask(output / MASKS, *each), judged))
                _append(output / REPORT, found)
            verdicts |= {each.mask: each for each in found}
            progress(found)
    with _writing(output):
        _write_report(output / REPORT, {**report, **verdicts}.values())
    return [verdicts[_mask_name(image)] for image in images]


def _judged(
    teacher: Teacher, batch: Sequence[Opened], size: Size, agreement: float, batch_size: int
) -> Iterator[tuple[Bool[np.ndarray, "h w"], Verdict]]:
    """Yields the mask of each image, and the verdict on it."""
    pixels = np.zeros((batch_size, *size, 3), np.float32)
    for row, opened in zip(pixels, batch, strict=False):
        if not opened.problem:
            row[:] = opened.resized / 255
    logits, members = _masks(teacher, jnp.asarray(pixels))
    agreed = agreements(members, logits > 0)
    for place, opened in enumerate(batch):
        name, file = _mask_name(opened.file), _stamp(opened.file)
        if opened.problem:
            yield np.zeros((0, 0), bool), Verdict(name, file, None, opened.problem)
            continue
        mask = binary_mask(logits[place, ..., 0], opened.image.shape[:2], 0.5)
        lowest = round(float(agreed[place]), 4)
        why = DISAGREED if lowest < agreement else USED if mask.any() else NOBODY
        yield mask, Verdict(name, file, lowest, why)


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


def _mask_name(image: ImageFile) -> str:
    """Returns the name of an image's mask, which does not depend on what other images there are."""
    return str(image.name.with_name(f"{image.source.name}.png"))


def _stamp(image: ImageFile) -> str:
    """Returns size and modification time of an image file; nothing where they cannot be told."""
    try:
        found = image.source.stat()
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def _continued(
    output: Path, about: Mapping[str, object], images: Sequence[ImageFile], agreement: float
) -> tuple[dict[str, Verdict], dict[str, Verdict]]:
    """Makes the folder, or goes on with what an earlier call found out.

    Masks of an image whose agreement is below the present one are set aside; those that were set
    aside, and are not below it now, are put back.

    Returns:
      The verdicts of the whole report, and those of them that still hold for the images of this
      call.
    """
    file, masks, aside = output / ABOUT, output / MASKS, output / ASIDE
    if not file.exists() and masks.is_dir() and any(masks.iterdir()):
        raise _other(masks, "masks that pseudo-label did not write")
    _check_alike(file, about)
    output.mkdir(parents=True, exist_ok=True)
    files.write_atomic(file, json.dumps({**about, "agreement": agreement}, indent=1) + "\n")
    stamps = {_mask_name(image): _stamp(image) for image in images}
    report, hold = _read_report(output / REPORT), {}
    for name, each in report.items():
        assert each.agreement is not None
        if each.verdict == USED and each.agreement < agreement:
            _move(masks / name, aside / name)
            report[name] = each._replace(verdict=DISAGREED)
        elif each.verdict == DISAGREED and each.agreement >= agreement:
            if not _move(aside / name, masks / name):
                continue  # it was never computed at this agreement
            report[name] = each._replace(verdict=USED)
        elif each.verdict == USED and not (masks / name).is_file():
            continue
        if stamps.get(name) == each.file:
            hold[name] = report[name]
    return report, hold


def _move(source: Path, target: Path) -> bool:
    """Moves a mask; returns whether there was one."""
    if not source.is_file():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    return True


def _check_alike(file: Path, about: Mapping[str, object]) -> None:
    """Refuses a folder whose masks were made from other images, or by other networks."""
    if not file.exists():
        return
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise _other(file.parent, f"a {ABOUT} that cannot be read") from None
    now = json.loads(json.dumps(about))
    if changed := [key for key in now if before.get(key) != now[key]]:
        what = f"masks made from another {' and another '.join(changed)} ({ABOUT})"
        raise _other(file.parent, what)


def _other(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{folder} holds {what}; choose another folder as --output, or delete this one",
        code="other-pseudo-labels",
    )


def _parsed(row: Sequence[str]) -> Verdict | None:
    """Returns the verdict in a line of the report; None for the title, and a line cut short."""
    try:
        name, file, agreed, verdict = row
        found = Verdict(name, file, float(agreed), verdict)
    except ValueError:  # too, of an image that could not be read: it is tried again
        return None
    return found if verdict in (USED, DISAGREED, NOBODY) else None


def _read_report(report: Path) -> dict[str, Verdict]:
    """Returns the verdicts of a report by image; the last one, where an image has several."""
    rows = csv.reader(io.StringIO(report.read_text(**_TEXT))) if report.exists() else ()
    return {each.mask: each for row in rows if (each := _parsed(row))}


def _lines(verdicts: Sequence[Sequence[object]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(verdicts)
    return lines.getvalue().encode(**_TEXT)


def _write_report(report: Path, verdicts: Iterable[Verdict]) -> None:
    """Writes a report: first images that could not be read, then those with the lowest IoU."""

    def place(each: Verdict) -> tuple[float, str]:
        return (-1 if each.agreement is None else each.agreement), each.mask

    files.write_atomic(report, _lines([Verdict._fields, *sorted(verdicts, key=place)]))


def _append(report: Path, verdicts: Sequence[Verdict]) -> None:
    with report.open("ab") as file:
        file.write(_lines(verdicts))


def _write_mask(folder: Path, mask: Bool[np.ndarray, "h w"], verdict: Verdict) -> None:
    """Writes the mask of an image that is used; removes that of an earlier version of the image."""
    path = folder / verdict.mask
    if verdict.verdict != USED:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey_mask(mask)).save(path)


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(output, error) from None
