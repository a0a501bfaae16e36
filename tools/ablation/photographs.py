"""Photographs without masks, from which `cameras.py` makes more training images.

One crop of each photograph, or the whole of it, gets the mask of the teachers' mean. Photographs on
which the teachers disagree are left out, and those that show nobody, or nothing but a person.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pillow
from rich.progress import track

from jaxdistill.data import decode
from jaxdistill.data.image_files import ImageFile
from jaxdistill.evaluation.predictor import Predictor
from jaxdistill.runtime.errors import DataError

Image = UInt8[np.ndarray, "h w 3"]
Mask = UInt8[np.ndarray, "h w"]
_WHOLE = 0.3  # share of the photographs that are not cropped
_SMALLEST = 140  # height of a crop, in pixels
_FEWEST = 500  # pixels of a person for a crop; with fewer, the whole image is used
_LONGEST = 1280  # side of an image; larger ones are reduced before anything else
_AGREEMENT = 0.6  # of the teachers' masks: pixels in all of them, as a share of those in any
_SHARES = (0.01, 0.95)  # of a mask in its image


class Labelled(NamedTuple):
    """Images with the teachers' masks."""

    names: Sequence[str]
    images: Sequence[Image]
    masks: Sequence[Mask]


def check_names(files: Sequence[ImageFile], taken: Sequence[str]) -> None:
    """Checks that photographs have names of their own.

    Args:
      files: The photographs.
      taken: Names of other images.

    Raises:
      DataError: Two images have the same name (`camera-image`).
    """
    seen = set(taken)
    for file in files:
        if file.source.stem in seen:
            raise DataError(f"{file.source}: another image has this name", code="camera-image")
        seen.add(file.source.stem)


def labelled(files: Sequence[ImageFile], teachers: Sequence[Predictor]) -> Labelled:
    """Crops photographs, and labels them.

    Args:
      files: The photographs. Those that cannot be decoded are named, and left out.
      teachers: They give probabilities; the first one says where the person is that is cropped to.

    Returns:
      Those of the photographs that are used.

    Raises:
      DataError: None of them is (`camera-image`).
    """
    found = Labelled([], [], [])
    for file in track(files, "photographs"):
        try:
            image = _reduced(decode.decode(file.read(), upright=True))
        except decode.ImageError as error:
            print(f"{file.source}: left out, {error}")
            continue
        name = file.source.stem
        image = _crop(image, teachers[0], np.random.default_rng(seed_of(name)))
        probabilities = [teacher.predict(image, soft=True) for teacher in teachers]
        mask = sum(probabilities) / len(teachers) > 0.5
        if _agree(probabilities) and _SHARES[0] < mask.mean() < _SHARES[1]:
            for values, value in zip(found, (name, image, mask * np.uint8(255)), strict=True):
                values.append(value)
    print(f"{len(found.names)} of {len(files)} photographs are used")
    if not found.names:
        raise DataError("the teachers agree on no photograph with a person", code="camera-image")
    return found


def fingerprint(files: Sequence[ImageFile]) -> str:
    """Returns a digest of the names and contents of photographs."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.source.stem.encode() + hashlib.sha256(file.read()).digest())
    return digest.hexdigest()


def seed_of(name: str) -> int:
    """Returns a seed that depends on a name only."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _reduced(image: Image) -> Image:
    """Reduces a large image to the largest side that is kept."""
    reduced = Pillow.fromarray(image)
    reduced.thumbnail((_LONGEST, _LONGEST))
    return np.asarray(reduced)


def _crop(image: Image, teacher: Predictor, random: np.random.Generator) -> Image:
    """Crops to a part of a person, or leaves the image as it is."""
    if random.random() < _WHOLE:
        return image
    rows, columns = np.nonzero(teacher.predict(image, soft=True) > 0.5)
    if len(rows) < _FEWEST:
        return image
    height, width = image.shape[:2]
    top, bottom = np.percentile(rows, (1, 99))
    # Half of the crops are of head and shoulders.
    share = random.uniform(0.05, 0.4) if random.random() < 0.5 else random.random()
    side = max(_SMALLEST, random.uniform(0.3, 0.8) * (bottom - top))
    size = min(height, int(side)), min(width, int(side * random.uniform(0.75, 1.35)))
    center = top + share * (bottom - top), np.median(columns) + random.normal(0, 0.15 * size[1])
    y, x = (
        int(np.clip(middle - length / 2, 0, most - length))
        for middle, length, most in zip(center, size, (height, width), strict=True)
    )
    return np.ascontiguousarray(image[y : y + size[0], x : x + size[1]])


def _agree(probabilities: Sequence[Float[np.ndarray, "h w"]]) -> bool:
    masks = np.stack(probabilities) > 0.5
    return bool(masks.all(0).sum() >= _AGREEMENT * masks.any(0).sum())
