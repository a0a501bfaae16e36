"""Writes the mean of several networks as one file: `jaxdistill average MEAN.onnx FILE ...`.

    jaxdistill export runs/a a.onnx --input unit --size 224 224
    jaxdistill export runs/a b.onnx --input unit --size 352 352
    jaxdistill average mean.onnx a.onnx b.onnx:mirrored

FILE is an ONNX file of `jaxdistill export`, with another input than bytes. The mean of networks
that err differently is often better than each of them: networks of several runs, or one network at
two sizes. It takes as long as all of them together. `FILE:mirrored` shows the network the image
flipped left to right, and flips its mask back. The mean is written only after onnxruntime has
computed the same probabilities with it as with the files; a model card is written beside it as
MEAN.json.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jaxdistill.commands import common
from jaxdistill.commands.model_options import checked_size
from jaxdistill.exporters.mean import average
from jaxdistill.exporters.mean_graph import Input, Member, read_member

_MIRRORED = ":mirrored"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and writes the mean.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    args = _parser().parse_args(arguments)
    members = [_member(text) for text in args.files]
    average(
        members,
        args.output,
        size=checked_size(args),
        input=args.input,
        console=common.console(),
    )


def _member(text: str) -> Member:
    mirrored = text.endswith(_MIRRORED) and not Path(text).exists()
    return read_member(Path(text.removesuffix(_MIRRORED) if mirrored else text), mirrored=mirrored)


def _parser() -> argparse.ArgumentParser:
    parser = common.CommandParser("average", __doc__)
    parser.add_argument("output", type=Path, metavar="MEAN.onnx", help="the file to write")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="an exported FILE.onnx, or FILE.onnx:mirrored"
    )
    parser.add_argument(
        "--input",
        choices=get_args(Input),
        default="unit",
        help="input of the mean, always RGB. unit: float32 (N, 3, H, W) in [0, 1]; uint8: "
        "(N, H, W, 3), as images are decoded (default: unit)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the input (default: those of the largest file)",
    )
    return parser
