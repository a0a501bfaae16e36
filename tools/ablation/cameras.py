#!/usr/bin/env python3
"""Makes data sets as other cameras would have taken them, to measure what fine-tuning brings.

    python tools/ablation/cameras.py build/cameras --data PATH/TO/COCO \\
        --teacher u2netp.onnx:imagenet --teacher selfie.onnx:unit

For every camera, `build/cameras/CAMERA` gets the training and validation images and their masks,
as folders of PNG files, and two more sets of training masks: `labels`, the teachers' masks of the
images before they were changed, as a second camera or a known rotation would give them, and `few`,
of which some are the true ones. `CAMERAS` says what the cameras do. `made.json` says what they were
made from; the folder appears when all is written, and one with other contents is refused.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import runs
from jaxtyping import Float, UInt8
from PIL import Image as Pillow
from rich.progress import track

from jaxdistill import config
from jaxdistill.data import layouts
from jaxdistill.data.data_check import read_example
from jaxdistill.data.sources.selection import sources_of
from jaxdistill.evaluation import load
from jaxdistill.evaluation.predictor import DEFAULT_SIZE, Predictor
from jaxdistill.runtime.errors import ConfigError, DataError, command
from jaxdistill.runtime.files import whole_folder

Image = UInt8[np.ndarray, "h w 3"]
Mask = UInt8[np.ndarray, "h w"]
_GAMMA, _BRIGHTNESS, _NOISE = 2.2, 0.35, 14  # the noise's deviation, in grey levels
_INFRARED_SIZE = (160, 120)  # width and height
_FOG, _CONTRAST, _INFRARED_NOISE = 60, 0.4, 10


def _levels(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return values.round().clip(0, 255).astype(np.uint8)


def dark(image: Image, noise: np.random.Generator) -> Image:
    """Darkens by a gamma curve and to 35 % of the brightness, and adds noise."""
    darkened = 255 * _BRIGHTNESS * (image / 255) ** _GAMMA
    return _levels(darkened + noise.normal(0, _NOISE, image.shape))


def infrared(image: Image, noise: np.random.Generator) -> Image:
    """Makes a small grey negative of low contrast, with noise, and enlarges it again."""
    height, width, _ = image.shape
    small = Pillow.fromarray(image).convert("L").resize(_INFRARED_SIZE, Pillow.Resampling.BOX)
    grey = _FOG + _CONTRAST * (255 - np.asarray(small, float))
    noisy = _levels(grey + noise.normal(0, _INFRARED_NOISE, grey.shape))
    large = Pillow.fromarray(noisy).resize((width, height), Pillow.Resampling.BILINEAR)
    return np.repeat(np.asarray(large)[..., None], 3, 2)


class Camera(NamedTuple):
    """What a camera does to the world."""

    change: Callable[[Image, np.random.Generator], Image] | None = None
    """Changes the pixels of an image, by a source of noise; None leaves them."""
    turned: bool = False
    """Whether image and mask are turned by 90 degrees, counterclockwise."""


CAMERAS = {
    "dark": Camera(dark),
    "turned": Camera(turned=True),
    "dark-turned": Camera(dark, turned=True),
    "infrared": Camera(infrared),
}
"""The cameras by name."""
MADE = "made.json"
"""File that says what the data sets were made from."""


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
    args.folder = args.folder.absolute()
    teachers = [_teacher(each) for each in args.teacher]
    settings = layouts.recognise(config.Data(root=args.data)).settings
    train, validation = (_read(settings, split) for split in ("train", "validation"))
    if not 0 < args.few < len(train.names):
        raise ConfigError(
            f"--few {args.few}: expected a number between 1 and {len(train.names) - 1}, since "
            f"there are {len(train.names)} training images",
            code="few-masks",
        )
    made = {
        "data": _fingerprint(train, validation),
        "teachers": [
            f"{teacher.fingerprint}:{text.rpartition(':')[2]}"
            for text, teacher in zip(args.teacher, teachers, strict=True)
        ],
        "few": args.few,
    }
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        if not (args.folder / MADE).exists() or runs.read(args.folder / MADE) != made:
            raise ConfigError(
                f"{args.folder} is there already, and was not made from these data, teachers and "
                f"--few; choose another folder",
                code="folder-not-empty",
            )
        print(f"{args.folder} was made from the same data")
        return
    labels = _labels(train.images, teachers)
    known = range(0, len(train.names), len(train.names) // args.few)[: args.few]
    few = [train.masks[i] if i in known else label for i, label in enumerate(labels)]
    masks = {"masks": train.masks, "labels": labels, "few": few}
    with whole_folder(args.folder) as partial:
        for name, camera in CAMERAS.items():
            _write(partial / name / "train", camera, train, masks)
            _write(partial / name / "val", camera, validation, {"masks": validation.masks})
        runs.save(partial / MADE, made)
    for name in CAMERAS:
        sizes = f"{len(train.names)} training and {len(validation.names)} validation images"
        print(f"{args.folder / name}: {sizes}")


def _fingerprint(*sets: Set) -> str:
    """Returns a digest of names, images and masks."""
    digest = hashlib.sha256()
    for each in sets:
        for name, image, mask in zip(*each, strict=True):
            digest.update(f"{name} {image.shape} {mask.shape}".encode())
            digest.update(np.ascontiguousarray(image))
            digest.update(np.ascontiguousarray(mask))
    return digest.hexdigest()


def _teacher(text: str) -> Predictor:
    file, _, normalization = text.rpartition(":")
    if not file:
        raise ConfigError(
            f"--teacher {text}: expected FILE.onnx:NORMALIZATION, such as {text}:imagenet",
            code="teacher-normalization",
        )
    return load(
        file, output="probabilities", normalization=normalization, default_size=DEFAULT_SIZE
    )


def _read(settings: config.Data, split: Literal["train", "validation"]) -> Set:
    names, images, masks = [], [], []
    for source in sources_of(settings, split):
        for entry in source.entries():
            image, mask = read_example(source, entry)
            name = Path(source.name(entry)).stem
            if mask is None or name in names:
                wrong = "has no mask" if mask is None else "is the second image of this name"
                raise DataError(f"{source.file(entry)}: {wrong}", code="camera-image")
            names.append(name)
            images.append(image)
            masks.append(mask)
    return Set(names, images, masks)


def _labels(images: Sequence[Image], teachers: Sequence[Predictor]) -> list[Mask]:
    """Returns the masks that the mean of the teachers' probabilities gives."""
    labels = []
    for image in track(images, "teachers"):
        mean = sum(teacher.predict(image, soft=True) for teacher in teachers) / len(teachers)
        labels.append(np.where(mean > 0.5, 255, 0).astype(np.uint8))
    return labels


def _write(root: Path, camera: Camera, images: Set, masks: dict[str, Sequence[Mask]]) -> None:
    changed = []
    for name, image in zip(images.names, images.images, strict=True):
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        change = camera.change or (lambda image, noise: image)
        changed.append(change(image, np.random.default_rng(seed)))
    for kind, arrays in {"images": changed, **masks}.items():
        (root / kind).mkdir(parents=True, exist_ok=True)
        for name, array in zip(images.names, arrays, strict=True):
            seen = np.rot90(array) if camera.turned else array
            Pillow.fromarray(np.ascontiguousarray(seen)).save(root / kind / f"{name}.png")


if __name__ == "__main__":
    raise SystemExit(command(main))
