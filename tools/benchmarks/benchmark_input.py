"""Measures what one image costs on its way to the GPU, and how many cores a training needs for it.

    python tools/benchmarks/benchmark_input.py data.root=COCO data.image_size=[640,640]

Every stage runs in one thread, image by image, in rounds that take turns; medians over the rounds.
The stages of the host are decoding, resizing, and reading a target cache; the images are stored
anew at the size of COCO's. Augmentation runs in JAX on the training's own device. Run it while
nothing else runs.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxdistill import config
from jaxdistill.config import overrides as overrides_lib
from jaxdistill.data import augment, decode, image_ops, splits
from jaxdistill.data.dataset import Example
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers.cache_files import CacheFolder
from jaxdistill.training.input_pipeline import InputPipeline
from jaxdistill.types import Batch

RATES = (450, 900)
"""Images per second that an H100 wants: float32 and bfloat16 at half of the step's floor."""
HOST = ("decode image", "decode mask", "resize image", "resize mask")
"""The stages that a host needs for every image."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="data.root and others")
    parser.add_argument("--images", type=int, default=48, help="images of a round")
    parser.add_argument(
        "--stored", type=int, nargs=2, default=(480, 640), help="height and width of the files"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="images that are augmented at once")
    args = parser.parse_args()
    blank = {"run": "unused", "losses": {"kl": 0, "mse": 0}}
    settings = config.check(overrides_lib.apply(blank, args.overrides), source="KEY=VALUE").data
    dataset = splits.open_split(settings, "train")
    indices = range(min(args.images, len(dataset)))
    stored = [_stored(dataset[index], args.stored) for index in indices]
    examples = [_decoded(each) for each in stored]
    size = settings.image_size
    print(f"{len(indices)} images of {args.stored[0]} x {args.stored[1]} pixels, to {size}")

    with tempfile.TemporaryDirectory() as folder:
        stages: dict[str, Callable[[], None]] = {
            "decode image": lambda: _each(lambda each: decode.decode(each[0]), stored),
            "decode mask": lambda: _each(lambda each: decode.decode_mask(each[1]), stored),
            "resize image": lambda: _each(
                lambda e: image_ops.resize_image(e.image, size), examples
            ),
            "resize mask": lambda: _each(
                lambda e: image_ops.resize_mask(e.mask, size, settings.mask_resize), examples
            ),
            "read cached targets": _cache(Path(folder), size, len(indices)),
        }
        stages |= {
            f"augment ({kind})": _augmentation(kind, size, args.batch, len(indices))
            for kind in ("flip", "light", "heavy")
        }
        seconds = _medians(stages, args.rounds, len(indices))
    for name, value in seconds.items():
        print(f"{name:32} {1e3 * value:8.2f} ms per image")
    host = sum(
        value for name, value in seconds.items() if not name.startswith(("augment", "read c"))
    )
    cached = host + seconds["read cached targets"]
    for rate in RATES:
        print(
            f"{rate} images/s: {rate * host:.1f} cores like these, {rate * cached:.1f} with a "
            f"target cache"
        )


def _stored(example: Example, size: Sequence[int]) -> tuple[bytes, bytes]:
    """Returns an image as a JPEG and its mask as a PNG, at the size of a typical data set."""
    image = image_ops.resize_image(example.image, tuple(size))
    jpeg = io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG", quality=90)
    return jpeg.getvalue(), decode.encode_mask(image_ops.resize_mask(example.mask, tuple(size)))


def _decoded(stored: tuple[bytes, bytes]) -> Example:
    return Example(decode.decode(stored[0]), decode.decode_mask(stored[1]))


def _each(function: Callable[[Any], Any], examples: list[Any]) -> None:
    for example in examples:
        function(example)


def _cache(folder: Path, size: tuple[int, int], count: int) -> Callable[[], None]:
    """Returns a function that reads entries like those of the YOLOv9 configuration."""
    height, width = size
    shapes = [(height, width, 1), (height // 8, width // 8, 512)]
    cache = CacheFolder(folder, "benchmark", {}, shapes)
    values = [np.ones(shape, np.float16) for shape in shapes]
    for index in range(count):
        cache.write(f"{index:04}", False, values)
    return lambda: _each(lambda index: cache.read(f"{index:04}", False), list(range(count)))


def _augmentation(
    kind: augment.Kind, size: tuple[int, int], batch: int, count: int
) -> Callable[[], None]:
    images = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)
    ones = np.ones(batch, np.float32)
    one = Batch(images, images[..., :1] // 128, ones, ones, np.arange(batch))
    pipeline = InputPipeline(None, augment.Augmentation(kind, None), seed=0, rows=Mesh("auto").own)

    def run() -> None:
        for read, _ in pipeline([one] * (count // batch)):
            jax.block_until_ready(read.images)

    run()  # compiles
    return run


def _medians(stages: dict[str, Callable[[], None]], rounds: int, images: int) -> dict[str, float]:
    measured: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, run in stages.items():
            start = time.perf_counter()
            run()
            measured[name].append((time.perf_counter() - start) / images)
    return {name: statistics.median(values) for name, values in measured.items()}


if __name__ == "__main__":
    main()
