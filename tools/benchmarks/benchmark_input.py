"""Measures what one image costs on its way to the GPU, and how many cores a training needs for it.

    python tools/benchmarks/benchmark_input.py data.root=COCO data.image_size=[640,640]

Every stage runs in one thread, image by image, in rounds that take turns; medians over the rounds.
The stages of the host are decoding, resizing, and reading a target cache; the images are stored
anew at the size of COCO's. Augmentation runs in JAX on the training's own device. Run it while
nothing else runs.
"""

import argparse
import io
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxdistill import config, models
from jaxdistill.config import overrides as overrides_lib
from jaxdistill.data import augment, decode, image_ops, splits
from jaxdistill.data.dataset import Example
from jaxdistill.runtime import errors
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers.cache_files import CacheFolder
from jaxdistill.training.input_pipeline import InputPipeline
from jaxdistill.types import Batch

RATES = (714, 1252)
"""Images per second of an H200's step in float32 and in bfloat16; see docs/gpu.md."""
HOST = ("decode image", "decode mask", "resize image", "resize mask")
"""The stages that a host needs for every image."""
CACHED = {
    "read cached targets": False,
    "read them with the encoder's maps": True,
}
"""Ways of reading a target cache: whether it holds the maps of the student's frozen encoder too."""

Stage = Callable[[], int]
"""Processes images, and returns how many."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and prints the stages and the cores that they need."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="data.root and others")
    parser.add_argument("--images", type=int, default=48, help="images of a round")
    parser.add_argument(
        "--stored", type=int, nargs=2, default=(480, 640), help="height and width of the files"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="images that are augmented at once")
    args = parser.parse_args(arguments)
    blank = {"run": "unused", "losses": {"kl": 0, "mse": 0}}
    settings = config.check(overrides_lib.apply(blank, args.overrides), source="KEY=VALUE").data
    dataset = splits.open_split(settings, "train")
    indices = range(min(args.images, len(dataset)))
    stored = [_stored(dataset[index], args.stored) for index in indices]
    examples = [_decoded(each) for each in stored]
    size = settings.image_size
    print(f"{len(indices)} images of {args.stored[0]} x {args.stored[1]} pixels, to {size}")

    with tempfile.TemporaryDirectory() as folder:
        stages: dict[str, Stage] = {
            "decode image": lambda: _each(lambda each: decode.decode(each[0]), stored),
            "decode mask": lambda: _each(lambda each: decode.decode_mask(each[1]), stored),
            "resize image": lambda: _each(
                lambda e: image_ops.resize_image(e.image, size), examples
            ),
            "resize mask": lambda: _each(
                lambda e: image_ops.resize_mask(e.mask, size, settings.mask_resize), examples
            ),
        }
        stages |= {
            name: _cache(Path(folder) / name, size, len(indices), encoder=encoder)
            for name, encoder in CACHED.items()
        }
        stages |= {
            f"augment ({kind})": _augmentation(kind, size, args.batch, len(indices))
            for kind in ("flip", "light", "heavy")
        }
        seconds = _medians(stages, args.rounds)
    for name, value in seconds.items():
        print(f"{name:34} {1e3 * value:8.2f} ms per image")
    host = sum(seconds[name] for name in HOST)
    targets, maps = (host + seconds[name] for name in CACHED)
    for rate in RATES:
        print(
            f"{rate} images/s: {rate * host:.1f} cores like these, {rate * targets:.1f} with "
            f"cached targets, {rate * maps:.1f} with the encoder's maps too"
        )


def _stored(example: Example, size: Sequence[int]) -> tuple[bytes, bytes]:
    """Returns an image as a JPEG and its mask as a PNG, at the size of a typical data set."""
    image = image_ops.resize_image(example.image, tuple(size))
    jpeg = io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG", quality=90)
    return jpeg.getvalue(), decode.encode_mask(image_ops.resize_mask(example.mask, tuple(size)))


def _decoded(stored: tuple[bytes, bytes]) -> Example:
    return Example(decode.decode(stored[0]), decode.decode_mask(stored[1]))


def _each(function: Callable[[Any], Any], examples: list[Any]) -> int:
    for example in examples:
        function(example)
    return len(examples)


def _cache(folder: Path, size: tuple[int, int], count: int, *, encoder: bool) -> Stage:
    """Returns a function that reads entries like those of the YOLOv9-E configuration."""
    height, width = size
    shapes = [(height, width, 1), (height // 8, width // 8, 1024)]
    if encoder:
        student = config.Student(encoder="timm-efficientnet-b0")
        maps = [each for each in models.feature_info(student) if each.name.startswith("encoder")]
        shapes += [(*each.size(size), each.channels) for each in maps]
    cache = CacheFolder(folder, "benchmark", {}, shapes)
    values = [np.ones(shape, np.float16) for shape in shapes]
    print(f"{folder.name}: {sum(each.nbytes for each in values) / 1e6:.1f} MB per image")
    for index in range(count):
        cache.write(f"{index:04}", False, values)
    return lambda: _each(lambda index: cache.read(f"{index:04}", False), list(range(count)))


def _augmentation(kind: augment.Kind, size: tuple[int, int], batch: int, count: int) -> Stage:
    images = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)
    ones = np.ones(batch, np.float32)
    one = Batch(images, images[..., :1] // 128, ones, ones, np.arange(batch))
    pipeline = InputPipeline(None, augment.Augmentation(kind, None), seed=0, rows=Mesh("auto").own)
    batches = [one] * math.ceil(count / batch)

    def run() -> int:
        for read, _ in pipeline(batches):
            jax.block_until_ready(read.images)
        return batch * len(batches)

    run()  # compiles
    return run


def _medians(stages: dict[str, Stage], rounds: int) -> dict[str, float]:
    """Returns seconds per image, each stage by the number of images that it processed."""
    measured: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, run in stages.items():
            start = time.perf_counter()
            count = run()
            measured[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in measured.items()}


if __name__ == "__main__":
    sys.exit(errors.command(main))
