"""Compares what a student computes in several runtimes with what it computes in Flax.

    python tools/benchmarks/runtimes.py runs/my_run recommended --images PATH/TO/IMAGES

STUDENT is the folder of a run, a `.safetensors` file, or a configuration, whose student is made
with random weights (`"masks student.encoder=mobilenetv4_conv_small"`), except for those of the
encoder's file where it exists. It is exported, and compared with Flax in float32. A `.onnx` or
`.tflite` file, exported with `--input unit --sigmoid`, is compared with the first runtime that runs
it. Runtimes that are not installed are named, and those that refuse a file.

All students and runtimes take turns (onnxruntime-web in a process of Node), in one thread and, on
Linux, on one processor; the milliseconds are medians. MediaPipe's include the conversion of bytes.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import json_file
import numpy as np
from jaxtyping import UInt8
from runtime_engines import RUNTIMES, Engine, Refused
from runtime_students import Contestant, contestants

from jaxdistill.config import Size
from jaxdistill.data import decode, image_ops
from jaxdistill.data.image_files import find_images
from jaxdistill.exporters.registry import Precision
from jaxdistill.runtime import errors
from jaxdistill.runtime.errors import ConfigError, DataError, first_line

Key = tuple[str, str]
"""A student and a runtime."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and prints a table."""
    args = _parser().parse_args(arguments)
    if min(*args.size, args.count, args.rounds) < 1:
        raise ConfigError(
            "--size, --count and --rounds: expected at least 1", code="invalid-argument"
        )
    images = read_images(args.images, tuple(args.size), args.count)
    installed = {name: each for name, each in RUNTIMES.items() if each.missing is None}
    endings = {each.ending for each in installed.values()}
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for argument in args.students:
            print(f"{argument}: export", file=sys.stderr)
            found += contestants(argument, images, Path(folder), endings, args.precision)
        numbered = {f"{number}. {each.name}": each for number, each in enumerate(found, 1)}
        with one_processor():
            measured = compare(numbered, images, args.rounds)
    missing = {name: each.missing for name, each in RUNTIMES.items() if each.missing}
    print(table(measured, missing, images))
    if args.json:
        about = {"images": len(images), "size": args.size, "students": measured, "missing": missing}
        args.json.write_text(json.dumps(about, indent=2))


def read_images(pattern: str, size: Size, count: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Reads images and resizes them.

    Args:
      pattern: A folder or a glob pattern.
      size: Height and width.
      count: How many are read at most.

    Raises:
      DataError: One of them cannot be decoded (`undecodable-image`).
    """
    images = []
    for each in find_images([pattern], [])[:count]:
        try:
            image = decode.decode(each.read(), upright=True)
        except decode.ImageError as error:
            raise DataError(f"{each.source}: {error}", code="undecodable-image") from None
        images.append(image_ops.resize_image(image, size))
    return np.stack(images)


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """Keeps the threads that are started inside to one processor, where the system can.

    MediaPipe has no option for the number of its threads.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compare(
    contestants: Mapping[str, Contestant], images: UInt8[np.ndarray, "n h w 3"], rounds: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Runs students in all runtimes that have a file of them.

    Args:
      contestants: The students by name.
      images: The images.
      rounds: How often each image is timed, after a first time that warms up.

    Returns:
      By student and runtime the measurements, or the message with which it refused.
    """
    engines, rows = _opened(contestants)
    unit = images.astype(np.float32) / 255
    inputs = {".tflite": unit, ".onnx": np.ascontiguousarray(unit.transpose(0, 3, 1, 2))}
    outputs: dict[Key, list[np.ndarray]] = {key: [] for key in engines}
    seconds: dict[Key, list[float]] = {key: [] for key in engines}
    for turn in range(1 + rounds):
        for index in range(len(images)):
            for key, engine in list(engines.items()):
                image = inputs[RUNTIMES[key[1]].ending][index : index + 1]
                try:
                    output, taken = engine(image)
                except Exception as error:  # whatever a runtime raises
                    rows[key] = {"refused": first_line(error)}
                    del engines[key]
                    continue
                if turn == 0:
                    outputs[key].append(output)
                else:
                    seconds[key].append(taken)
    expected = {name: each.expected for name, each in contestants.items()}
    for key in engines:
        actual = np.stack(outputs[key])
        if (wanted := expected[key[0]]) is None:
            wanted = expected[key[0]] = actual
        rows[key] = {
            "difference": float(np.abs(actual - wanted).max()),
            "agreement": float(((actual > 0.5) == (wanted > 0.5)).mean()),
            "milliseconds": 1e3 * float(np.median(seconds[key])),
        }
    return {
        name: {runtime: rows[name, runtime] for runtime in RUNTIMES if (name, runtime) in rows}
        for name in contestants
    }


def _opened(
    contestants: Mapping[str, Contestant],
) -> tuple[dict[Key, Engine], dict[Key, dict[str, Any]]]:
    """Opens the students' files; returns the engines, and the messages of the others."""
    engines: dict[Key, Engine] = {}
    rows: dict[Key, dict[str, Any]] = {}
    for name, each in contestants.items():
        for runtime, how in RUNTIMES.items():
            file = each.files.get(how.ending)
            if file is None or how.missing:
                continue
            try:
                if isinstance(file, str):
                    raise Refused(file)
                engines[name, runtime] = how.open(file)
            except Exception as error:  # whatever a runtime raises
                rows[name, runtime] = {"refused": first_line(error)}
    return engines, rows


def table(
    measured: Mapping[str, Mapping[str, Mapping[str, Any]]],
    missing: Mapping[str, str | None],
    images: UInt8[np.ndarray, "n h w 3"],
) -> str:
    """Returns a table in Markdown.

    Args:
      measured: From `compare`, by student.
      missing: How to install the runtimes that are not there.
      images: The images.
    """
    count, height, width, _ = images.shape
    lines = [
        f"{count} images of {height} x {width}, one thread",
        "",
        "| student | runtime | largest difference of probabilities | masks agree at | ms | "
        "times onnxruntime's |",
        "|---|---|---|---|---|---|",
    ]
    for student, rows in measured.items():
        base = rows.get("onnxruntime", {}).get("milliseconds")
        for name, row in rows.items():
            if "refused" in row:
                lines.append(f"| {student} | {name} | refused: {row['refused']} | | | |")
                continue
            ratio = f"{row['milliseconds'] / base:.2f}" if base else ""
            lines.append(
                f"| {student} | {name} | {row['difference']:.1e} | {row['agreement']:.4%} | "
                f"{row['milliseconds']:.1f} | {ratio} |"
            )
    lines += [f"\n{name} is not installed: {how}" for name, how in missing.items()]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("students", nargs="+", metavar="STUDENT")
    parser.add_argument("--images", required=True, help="a folder or a pattern")
    parser.add_argument("--count", type=int, default=40, help="images at most (default: 40)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=[256, 256], metavar=("H", "W"), help="default: 256 256"
    )
    parser.add_argument("--rounds", type=int, default=1, help="timings per image (default: 1)")
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["float32"],
        choices=get_args(Precision),
        help="number formats of the files (default: float32); int8 needs a run, on whose images "
        "it is calibrated",
    )
    json_file.add_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(errors.command(main))
