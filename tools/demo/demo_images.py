"""The demo's images: people of scikit-image's images, on backgrounds from its other images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import coco_folder
import cv2
import numpy as np
import skimage.data
from coco_folder import Drawn
from jaxtyping import Float, UInt8
from PIL import Image
from pycocotools import mask as rle
from rich.progress import track

from jaxdistill import config

SIDE = 256
MASKS = Path(__file__).parent / "demo_masks"  # 255 where a person is
PEOPLE = ("astronaut", "camera")


class Split(NamedTuple):
    """Number, seed and material of the images of a split."""

    count: int
    seed: int
    backgrounds: tuple[str, ...]
    turns: tuple[tuple[float, float], ...]
    """Intervals of rotation in degrees; those of the two splits are disjoint."""


TRAIN = Split(
    240,
    0,
    ("coffee", "brick", "grass", "rocket", "retina", "coins", "motorcycle"),
    ((-40, -20), (-10, 10), (20, 40)),
)
VALIDATION = Split(
    48,
    1,
    ("chelsea", "gravel", "hubble_deep_field", "immunohistochemistry", "clock"),
    ((-18, -12), (12, 18)),
)


def draw(root: Path) -> None:
    """Writes a folder in COCO's layout; every call writes the same files."""
    partial = root.with_name(root.name + ".partial")
    data = config.Data(root=root)  # the default names
    coco_folder.write(partial, data.train, images(TRAIN))
    coco_folder.write(partial, data.validation, images(VALIDATION))
    partial.rename(root)


def images(split: Split) -> Iterator[Drawn]:
    """Yields the images of a split."""
    backgrounds = [_image(name) for name in split.backgrounds]
    people = [_cut_out(name) for name in PEOPLE]
    for number in track(range(1, split.count + 1), "drawing images", transient=True):
        rng = np.random.default_rng([split.seed, number])
        image, masks = _compose(rng, backgrounds, people, split.turns)
        yield Drawn(Image.fromarray(image), [_encode(mask) for mask in masks])


def _encode(mask: UInt8[np.ndarray, "h w"]) -> dict:
    encoded = rle.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def _compose(
    rng: np.random.Generator,
    backgrounds: Sequence[UInt8[np.ndarray, "h w 3"]],
    people: Sequence[Float[np.ndarray, "h w 4"]],
    turns: Sequence[tuple[float, float]],
) -> tuple[UInt8[np.ndarray, "side side 3"], list[UInt8[np.ndarray, "side side"]]]:
    """Returns a background with one or two people, and their masks."""
    image = _relight(rng, _crop(rng, backgrounds[rng.integers(len(backgrounds))]))
    masks: list[np.ndarray] = []
    for index in rng.permutation(len(people))[: 1 + (rng.random() < 0.3)]:
        person, alpha = _place(rng, people[index], turns)
        image = image * (1 - alpha) + _relight(rng, person) * alpha
        solid = alpha[..., 0] > 0.5
        masks = [mask & ~solid for mask in masks] + [solid]  # later ones are in front
    noise = rng.normal(0, rng.uniform(0, 4), image.shape)
    visible = [mask.astype(np.uint8) for mask in masks if mask.sum() > 100]
    return np.clip(image + noise, 0, 255).astype(np.uint8), visible


def _place(
    rng: np.random.Generator,
    cut_out: Float[np.ndarray, "h w 4"],
    turns: Sequence[tuple[float, float]],
) -> tuple[Float[np.ndarray, "side side 3"], Float[np.ndarray, "side side 1"]]:
    """Returns colours and alpha of a person, rotated, scaled, perhaps mirrored, and moved."""
    if rng.random() < 0.5:
        cut_out = cut_out[:, ::-1]
    height, width = cut_out.shape[:2]
    angle = rng.uniform(*turns[rng.integers(len(turns))])
    scale = rng.uniform(0.5, 1.2) * SIDE / max(height, width)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    centre = rng.uniform(0.25, 0.75), rng.uniform(0.45, 0.8)
    matrix[:, 2] += np.asarray(centre) * SIDE - (width / 2, height / 2)
    # Colours are weighted by alpha, so that the old background does not bleed in at the edge.
    weighted = np.concatenate([cut_out[..., :3] * cut_out[..., 3:], cut_out[..., 3:]], -1)
    warped = cv2.warpAffine(weighted, matrix, (SIDE, SIDE), flags=cv2.INTER_AREA)
    alpha = warped[..., 3:]
    return warped[..., :3] / np.maximum(alpha, 1e-3), alpha


def _crop(
    rng: np.random.Generator, image: UInt8[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "side side 3"]:
    height, width = image.shape[:2]
    side = int(min(height, width) * rng.uniform(0.5, 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = image[top : top + side, left : left + side]
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    return cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def _relight(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Changes exposure, contrast and colour of light."""
    gain = rng.uniform(0.6, 1.3) * rng.uniform(0.85, 1.15, 3)
    return np.clip(255 * (np.clip(pixels, 0, 255) / 255) ** rng.uniform(0.7, 1.4) * gain, 0, 255)


def _image(name: str) -> UInt8[np.ndarray, "h w 3"]:
    loaded = skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else None
    pixels = getattr(skimage.data, name)() if loaded is None else loaded
    return np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels[..., :3]


def _cut_out(name: str) -> Float[np.ndarray, "h w 4"]:
    """Returns colours in [0, 255] and alpha in [0, 1], soft at the edge, cropped to the person."""
    mask = np.asarray(Image.open(MASKS / f"{name}.png").convert("L"), np.float32) / 255
    soft = cv2.GaussianBlur(mask, (0, 0), 1)[..., None]
    both = np.concatenate([_image(name).astype(np.float32), soft], -1)
    rows, columns = np.nonzero(mask > 0.5)
    return both[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
