"""Exports the best student of a run: `jaxdistill export RUN OUTPUT`.

RUN may also be a student's weights file, such as `convert-weights from-mediapipe` writes.

OUTPUT is a file NAME.onnx, NAME.tflite or NAME.safetensors, or a folder NAME.orbax or NAME/. An
ONNX file is written only after onnxruntime has computed the same masks with it as the student; a
model card is written beside it as NAME.json. A .tflite file, for LiteRT and MediaPipe, is compared
in LiteRT. A .safetensors file holds the student's variables for `student.weights` of another
training, and an Orbax folder for other programs. A name without an ending is the folder of a web
page, which finds people in photos and before the camera, in any browser, from any static server.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jaxdistill import exporters
from jaxdistill.commands import common
from jaxdistill.commands.model_options import add_interpolation
from jaxdistill.exporters.registry import Input, Precision


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and exports.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    args = _parser().parse_args(arguments)
    exporters.export(
        args.run,
        args.output,
        input=args.input,
        sigmoid=args.sigmoid,
        size=tuple(args.size) if args.size else None,
        precision=args.precision,
        images=args.images,
        interpolate=args.interpolate,
        console=common.console(),
        web_runtime=args.web_runtime,
        examples=args.examples,
        compare_with=args.compare_with,
    )


def _parser() -> argparse.ArgumentParser:
    parser = common.CommandParser("export", __doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a run, or a student's .safetensors"
    )
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUTPUT",
        help="the file NAME.onnx, NAME.tflite or NAME.safetensors, or the folder NAME.orbax or "
        "NAME/, a web page",
    )
    parser.add_argument(
        "--input",
        choices=get_args(Input),
        help="input of the graph, always RGB. normalized: float32 (N, 3, H, W), mean and std "
        "applied by the caller (the default of ONNX); imagenet: the same with those of ImageNet, "
        "whatever the student expects; unit: float32 (N, 3, H, W) in [0, 1] (the "
        "default of .tflite, where it is (1, H, W, 3)); uint8: (N, H, W, 3), as images are decoded",
    )
    parser.add_argument(
        "--sigmoid",
        action="store_true",
        help="the output is `mask`, probabilities, instead of `logits`",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="fix height and width of the input (default: both are free in ONNX, and those of the "
        "images that the student was trained on in .tflite and in a web page)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=get_args(Precision),
        default=["float32"],
        help="number format of weights and arithmetic; several write NAME.PRECISION.onnx each. In "
        ".tflite, float16 is that of the weights alone",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=100,
        metavar="N",
        help="number of the run's validation images to measure on (default: 100)",
    )
    parser.add_argument(
        "--web-runtime",
        type=Path,
        metavar="PATH",
        help="for a web page: the npm package onnxruntime-web, as a .tgz or an unpacked folder "
        "(default: it is downloaded once)",
    )
    parser.add_argument(
        "--examples",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="for a web page: images that it offers; files, folders or globs, of which a dozen are "
        "taken, made smaller, and copied without EXIF data such as places",
    )
    parser.add_argument(
        "--compare-with",
        type=Path,
        metavar="FILE.onnx",
        help="for a web page: another student to show beside this one, exported with --input uint8 "
        "and --size",
    )
    add_interpolation(parser)
    return parser
