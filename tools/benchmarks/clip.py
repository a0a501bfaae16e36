"""Measures masks of a video whose truth is known for every frame.

    python tools/benchmarks/clip.py NETWORK --root COCO --output FOLDER [options of predict]

The clip is a slow pan and zoom over images and their masks, from the validation split: for two
seconds each, of which the camera rests in the second one, with noise as of a sensor. Measured at
the size of the frames are mIoU, boundary IoU, and the flicker while the camera rests, with and
without `--smooth` and `--refine guided`, and what `predict` takes for each; then, on a long clip,
the resident memory, and whether a `predict` that is killed goes on to the same file. Run it while
nothing else runs.
"""

import argparse
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxdistill import config
from jaxdistill.commands.model_options import add_model_options, model_options
from jaxdistill.config import Size
from jaxdistill.data import image_ops, splits
from jaxdistill.data.dataset import Example
from jaxdistill.data.video import open_source
from jaxdistill.evaluation.predictor import Predictor, load, to_mask
from jaxdistill.evaluation.video import Smoother, flicker, predict_video
from jaxdistill.evaluation.video.writer import ENCODINGS, PartWriter
from jaxdistill.metrics import segmentation
from jaxdistill.runtime import errors

IMAGES = 20
SHOT, MOVING = 60, 30
"""Frames of one image, and how many of them the camera moves in."""
RATE = 30
NOISE = 3.0
"""Standard deviation of the sensor's noise, in grey levels."""
VARIANTS = tuple(itertools.product((0.0, 0.8), (None, "guided")))
"""Strengths of smoothing, and refinements."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", type=Path)
    parser.add_argument("--root", required=True, help="data.root; its validation split is used")
    parser.add_argument("--output", type=Path, required=True, help="folder of clips and results")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--clip-size", type=int, nargs=2, default=(720, 1280))
    parser.add_argument("--long-frames", type=int, default=3000)
    parser.add_argument("--long-size", type=int, nargs=2, default=(360, 640))
    args, network_options = parser.parse_known_args(arguments)
    options_parser = argparse.ArgumentParser()
    add_model_options(options_parser)
    options = model_options(options_parser.parse_args(network_options))._asdict()
    blank = {
        "run": "unused",
        "losses": {"kl": 0, "mse": 0},
        "data": {"root": args.root, "prepared": str(args.output / "prepared")},
    }
    dataset = splits.open_split(config.check(blank, source="--root").data, "validation")
    examples = [dataset[index] for index in range(min(len(dataset), IMAGES))]
    predictor = load(args.network, **options)
    print(predictor.description)
    args.output.mkdir(parents=True, exist_ok=True)

    clip = args.output / "clip.mp4"
    write_clip(clip, examples, args.frames, tuple(args.clip_size))
    print(f"\n{args.frames} frames of {args.clip_size[0]} x {args.clip_size[1]}\n")
    print("| `--smooth` | `--refine` | mIoU | boundary IoU | flicker |\n|---|---|---|---|---|")
    for name, values in scores(predictor, clip, examples).items():
        print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    print("\n| milliseconds per frame | reading | network | drawing | encoding |")
    print("|---|---|---|---|---|")
    for smoothing, refine in VARIANTS:
        for limit in (RATE, None):  # the first one compiles, and is not reported
            with open_source(clip) as source:
                report = predict_video(
                    predictor,
                    source,
                    args.output / "drawn",
                    kinds=["overlays"],
                    smoothing=smoothing,
                    refine=refine,
                    limit=limit,
                )
        times = (f"{1e3 * seconds / report.frames:.1f}" for seconds in report.seconds.values())
        variant = label(smoothing, refine).replace(" | ", ", ")
        print(f"| {variant} | " + " | ".join(times) + " |")

    if args.long_frames:
        clip = args.output / "long.mp4"
        write_clip(clip, examples, args.long_frames, tuple(args.long_size))
        print(f"\n{args.long_frames} frames of {args.long_size[0]} x {args.long_size[1]}")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory = pool.apply(
                memory_by_frame, (args.network, options, clip, args.output / "whole")
            )
        print("resident memory, MB: " + ", ".join(f"{mb} at frame {n}" for n, mb in memory.items()))
        print(killed(args, network_options, clip))


def label(smoothing: float, refine: str | None) -> str:
    """Returns the cells of a variant in the table of the scores."""
    return f"{smoothing or 'off'} | {refine or 'off'}"


def write_clip(path: Path, examples: list[Example], count: int, size: Size) -> None:
    """Writes the frames of all shots as H.264."""
    writer = PartWriter(path, ENCODINGS["mp4"], size, Fraction(RATE), Fraction(1, RATE))
    random = np.random.default_rng(0)
    noise = [random.normal(0, NOISE, (*size, 3)).astype(np.float32) for _ in range(7)]
    for index in range(count):
        example, matrix = camera(examples, index, size)
        image = cv2.warpAffine(
            example.image, matrix, size[::-1], flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        )
        image = np.clip(np.rint(image + noise[index % len(noise)]), 0, 255).astype(np.uint8)
        writer.add(image, index, index)
    writer.close()


def truth(examples: list[Example], index: int, size: Size) -> np.ndarray:
    """Returns the true mask of a frame, moved as the frame is."""
    example, matrix = camera(examples, index, size)
    assert example.mask is not None
    mask = (example.mask > 127).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(mask, matrix, size[::-1], flags=flags) > 0.5


def camera(examples: list[Example], index: int, size: Size) -> tuple[Example, np.ndarray]:
    """Returns the image of a frame, and the matrix from the frame's pixels to the image's.

    The window moves from the upper left to the middle, and narrows by a fifth.
    """
    example = examples[index // SHOT % len(examples)]
    share = min(1, index % SHOT / MOVING)
    rows, columns = example.image.shape[:2]
    scale = (1 - 0.2 * share) * min(rows / size[0], columns / size[1]) * 0.95
    top, left = (
        share * (side - scale * part) / 2 for side, part in zip((rows, columns), size, strict=True)
    )
    return example, np.array([[scale, 0, left], [0, scale, top]])


def scores(
    predictor: Predictor, clip: Path, examples: list[Example]
) -> dict[str, tuple[float, float, float]]:
    """Returns mIoU, boundary IoU and flicker of each variant, and of the truth, as means."""
    smoothers = {strength: Smoother(strength) for strength, _ in VARIANTS}
    found: dict[str, list[list[float]]] = {}
    before: dict[str, np.ndarray] = {}
    previous = np.zeros(0)
    for index, (image, small, logits) in enumerate(frames(predictor, clip)):
        size = image.shape[:2]
        mask = truth(examples, index, size)
        steady = {strength: smooth(logits, small) for strength, smooth in smoothers.items()}
        masks: dict[str, np.ndarray] = {
            label(*variant): to_mask(steady[variant[0]], image, 0.5, variant[1])
            for variant in VARIANTS
        }
        for name, each in {**masks, "the truth |": mask}.items():
            pair = each[None, ..., None], mask[None, ..., None]
            values = found.setdefault(name, [[], [], []])
            values[0].append(float(segmentation.mean_iou(*pair)[0]))
            values[1].append(float(segmentation.boundary_iou(*pair)[0]))
            if index % SHOT > MOVING:  # the frame before is the same but for its noise
                values[2].append(flicker(before[name], each, (previous, image)))
            before[name] = each
        previous = image
    return {name: tuple(float(np.mean(v)) for v in values) for name, values in found.items()}


def frames(predictor: Predictor, clip: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields each frame, it at the size of the model, and its logits."""
    with open_source(clip) as source:
        for frame in source.frames():
            small = image_ops.resize_image(frame.image, predictor.size)
            yield frame.image, small, predictor.padded_logits([small], 1)[0]


def memory_by_frame(
    network: Path, options: dict[str, Any], clip: Path, output: Path
) -> dict[int, int]:
    """Returns the resident memory of this process in MB, by the number of frames drawn."""
    count, found = 0, {}

    def progress(more: int) -> None:
        nonlocal count
        count += more
        if count and count % 300 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found[count] = pages * os.sysconf("SC_PAGE_SIZE") // 2**20

    with open_source(clip) as source:
        predict_video(
            load(network, **options), source, output, kinds=["overlays"], progress=progress
        )
    return found


def killed(args: argparse.Namespace, network_options: list[str], clip: Path) -> str:
    """Kills a `predict` when half of its frames are drawn, starts it again, and compares."""
    output = args.output / "resumed"
    command = [sys.executable, "-m", "jaxdistill", "predict", str(args.network), str(clip)]
    command += ["--output", str(output), "--as", "overlays", *network_options]
    half = output / f"{clip.name}.parts" / f"{args.long_frames // 600:05}"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not half.is_dir():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    [message] = [line for line in again.stderr.splitlines() if "interrupted" in line]
    drawn, whole = (args.output / name / "overlays" / clip.name for name in ("resumed", "whole"))
    same = drawn.read_bytes() == whole.read_bytes()
    return (
        f"killed: {message}; the file {'equals' if same else 'DIFFERS FROM'} an uninterrupted one's"
    )


if __name__ == "__main__":
    sys.exit(errors.command(main))
