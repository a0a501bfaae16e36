#!/usr/bin/env python3
"""Makes data sets as other cameras would have taken them, to measure what fine-tuning brings.

    python tools/ablation/cameras.py build/cameras --data PATH/TO/COCO --teacher a.onnx ...

For every camera, `build/cameras/CAMERA` gets the training and validation images and their masks,
as folders of PNG files, and two more sets of training masks: `labels`, the
teacher's masks of the images before they were changed, as a second camera or a known rotation
would give them, and `few`, of which some are the true ones. `CAMERAS` says what the cameras do.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pillow

from jaxdistill import config
from jaxdistill.data import decode, layouts
from jaxdistill.data.sources.selection import sources_of
from jaxdistill.evaluation import load
from jaxdistill.evaluation.predictor import DEFAULT_SIZE
from jaxdistill.runtime.errors import command

Image = UInt8[np.ndarray, "h w 3"]
Mask = UInt8[np.ndarray, "h w"]
_GAMMA, _BRIGHTNESS, _NOISE = 2.2, 0.35, 14  # the noise's deviation, in grey levels
_INFRARED_SIZE = (160, 120)  # width and height
_FOG, _CONTRAST, _INFRARED_NOISE = 60, 0.4, 10


def dark(image: Image, noise: np.random.Generator) -> Image:
    """Darkens by a gamma curve to a third of the brightness, and adds noise."""
    darkened = 255 * _BRIGHTNESS * (image / 255) ** _GAMMA
    return _levels(darkened + noise.normal(0, _NOISE, image.shape))


def turned(image: Image, noise: np.random.Generator) -> Image:
    """Turns by 90 degrees, counterclockwise."""
    del noise
    return np.rot90(image)


def dark_turned(image: Image, noise: np.random.Generator) -> Image:
    """Darkens and turns."""
    return turned(dark(image, noise), noise)


def infrared(image: Image, noise: np.random.Generator) -> Image:
    """Makes a small grey negative of low contrast, with noise, and enlarges it again."""
    height, width, _ = image.shape
    small = Pillow.fromarray(image).convert("L").resize(_INFRARED_SIZE, Pillow.Resampling.BOX)
    grey = _FOG + _CONTRAST * (255 - np.asarray(small, float))
    noisy = _levels(grey + noise.normal(0, _INFRARED_NOISE, grey.shape))
    large = Pillow.fromarray(noisy).resize((width, height), Pillow.Resampling.BILINEAR)
    return np.repeat(np.asarray(large)[..., None], 3, 2)


CAMERAS: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "dark": dark,
    "turned": turned,
    "dark-turned": dark_turned,
    "infrared": infrared,
}
"""The cameras by name: functions of an image and a source of noise."""
_TURNED = ("turned", "dark-turned")


def _levels(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return values.round().clip(0, 255).astype(np.uint8)


class Set(NamedTuple):
    """Images of a split with their masks, before a camera changes them."""

    names: Sequence[str]
    images: Sequence[Image]
    masks: Sequence[Mask]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and writes the data sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="a data set that is recognised")
    parser.add_argument(
        "--teacher",
        action="append",
        required=True,
        metavar="FILE.onnx:NORMALIZATION",
        help="gives probabilities; several are averaged",
    )
    parser.add_argument("--few", type=int, default=16, help="true masks in the set `few`")
    args = parser.parse_args(arguments)
    settings = layouts.recognise(config.Data(root=args.data)).settings
    train, validation = (_read(settings, split) for split in ("train", "validation"))
    labels = _labels(train.images, args.teacher)
    for camera in CAMERAS:
        root = args.folder / camera
        _write(root / "train", camera, train, {"masks": train.masks, "labels": labels})
        _write(root / "val", camera, validation, {"masks": validation.masks})
        known = range(0, len(train.names), max(len(train.names) // args.few, 1))
        few = [train.masks[i] if i in known[: args.few] else labels[i] for i in range(len(labels))]
        _write_masks(root / "train" / "few", camera, train.names, few)
        print(f"{root}: {len(train.names)} training and {len(validation.names)} validation images")


def _read(settings: config.Data, split: Literal["train", "validation"]) -> Set:
    names, images, masks = [], [], []
    for source in sources_of(settings, split):
        for entry in source.entries():
            example = source.load(entry)
            names.append(Path(example.name).stem)
            images.append(decode.decode(example.image, example.upright))
            masks.append(decode.decode_mask(example.mask))
    return Set(names, images, masks)


def _labels(images: Sequence[Image], teachers: Sequence[str]) -> list[Mask]:
    """Returns the masks that the mean of the teachers' probabilities gives."""
    total = [np.zeros(image.shape[:2], np.float32) for image in images]
    for teacher in teachers:
        file, _, normalization = teacher.rpartition(":")
        network = load(
            file, output="probabilities", normalization=normalization, default_size=DEFAULT_SIZE
        )
        for sum_, found in zip(total, network.predict(images, soft=True), strict=True):
            sum_ += found / len(teachers)
    return [np.where(mean > 0.5, 255, 0).astype(np.uint8) for mean in total]


def _write(root: Path, camera: str, images: Set, masks: dict[str, Sequence[Mask]]) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name, image in zip(images.names, images.images, strict=True):
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        changed = CAMERAS[camera](image, np.random.default_rng(seed))
        Pillow.fromarray(np.ascontiguousarray(changed)).save(root / "images" / f"{name}.png")
    for kind, own in masks.items():
        _write_masks(root / kind, camera, images.names, own)


def _write_masks(folder: Path, camera: str, names: Sequence[str], masks: Sequence[Mask]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in zip(names, masks, strict=True):
        turned_too = np.rot90(mask) if camera in _TURNED else mask
        Pillow.fromarray(np.ascontiguousarray(turned_too)).save(folder / f"{name}.png")


if __name__ == "__main__":
    raise SystemExit(command(main))
