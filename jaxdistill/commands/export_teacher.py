"""Exports a PyTorch teacher to ONNX (needs the extra `torch`).

    jaxdistill export-teacher teacher.pth teacher.onnx

The teacher is a UNet of segmentation_models_pytorch. A file is written only after onnxruntime has
computed the same logits as PyTorch.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from jaxdistill.commands import common

_NAME = "export-teacher"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, exports, and prints what was written.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    args = _parser().parse_args(arguments)
    common.check_output(args.checkpoint, args.output)
    export = common.import_torch_interop("export_teacher", _NAME).export_teacher
    size = tuple(args.size) if args.size else None
    done = export(args.checkpoint, args.output, args.encoder, size, args.opset)
    print(f"largest relative difference from PyTorch's logits: {done.difference:.1e}")
    shown = "x".join(map(str, args.size)) if args.size else "any size"
    print(f"wrote {args.output}: {done.encoder}, {shown}, any batch, {done.bytes / 1e6:.1f} MB")
    if done.normalization:
        mean, std = json.loads(done.normalization)
        print(f"its images are normalised by 'teacher.normalization={{mean: {mean}, std: {std}}}'")


def _parser() -> argparse.ArgumentParser:
    parser = common.CommandParser(_NAME, __doc__)
    parser.add_argument("checkpoint", type=Path, help="a .pth or .safetensors file")
    parser.add_argument("output", type=common.path_ending(".onnx"), help="the .onnx file")
    parser.add_argument(
        "--encoder",
        help="name of the encoder in segmentation_models_pytorch (default: that of the file's "
        "metadata, else timm-efficientnet-b3)",
    )
    parser.add_argument(
        "--size",
        type=_multiple_of_32,
        nargs=2,
        metavar=("H", "W"),
        help="fix height and width of the images; multiples of 32 (default: both are free)",
    )
    parser.add_argument("--opset", type=int, default=17, help="version of ONNX's operators")
    return parser


def _multiple_of_32(text: str) -> int:
    if not text.isdigit() or int(text) % 32 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of 32")
    return int(text)
